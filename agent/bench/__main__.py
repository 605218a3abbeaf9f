"""Measures the agent on this machine: `python -m agent.bench [SUBCOMMAND] [--json FILE]`; `speed` is the default."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from agent.bench import echo, inject, sessions, soak, speed, voice
from agent.bench.figures import provenance
from agent.errors import AgentError
from models.errors import ModelError
from streaming.errors import StreamingError


class Measurement(Protocol):
    """What a subcommand's module has; the first line of its docstring is its help."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds its flags."""

    def run(self, args: argparse.Namespace) -> dict[str, Any]:
        """Measures; returns the figures."""

    def to_lines(self, report: dict[str, Any]) -> list[str]:
        """The figures as a table."""


MEASUREMENTS: Mapping[str, Measurement] = {
    "echo": echo,
    "inject": inject,
    "sessions": sessions,
    "soak": soak,
    "speed": speed,
    "voice": voice,
}
DEFAULT = "speed"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one measurement; returns the exit status, 2 for bad input."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given.insert(0, DEFAULT)
    args = _parser().parse_args(given)
    measurement = MEASUREMENTS[args.measurement]
    try:
        report = {**provenance(), **measurement.run(args)}
    except (AgentError, ModelError, StreamingError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print("\n".join(measurement.to_lines(report)))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent.bench", description=__doc__)
    names = parser.add_subparsers(dest="measurement", required=True)
    for name, measurement in MEASUREMENTS.items():
        text = measurement.__doc__ or ""
        formatter = argparse.RawDescriptionHelpFormatter
        one = names.add_parser(name, help=text.splitlines()[0], description=text, formatter_class=formatter)
        measurement.add_arguments(one)
        one.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
