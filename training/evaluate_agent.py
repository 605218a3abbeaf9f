"""Speaks recordings to the agent and scores what it understood, how fast it answered and whom it cut off.

    python -m training.evaluate_agent --data DIR --json runs/understood.json
    python -m training.evaluate_agent --data DIR --via openai --url http://127.0.0.1:8765/v1 --parallel 4
    python -m training.evaluate_agent --data DIR --snr 6 12 18 24 --noise_dir NOISE --workers 2
    python -m training.evaluate_agent --data DIGITS --as digits
    python -m training.evaluate_agent --dialogues 100 --seed 1
    python -m training.evaluate_agent --suite DATA_ROOT --conversations DIR --json runs/suite.json --plots runs

- `--via engine` runs the daemon's own conversation as fast as the machine can, on the sample clock; see
  `agent.rehearsal`.
- `--via openai` streams in real time to a running daemon through the official SDK.
- Each recording is one session; its turns are spoken in order, each after the answer to the one before was heard.
- `--suite` evaluates everything on the folders orders_dev, digits, kathleen, ljspeech and noise below DATA_ROOT.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agent.errors import AgentError
from models.errors import ModelError
from training.answers import Exchange, pair, report, save_audio, to_lines, write_report
from training.domain import Domain, DomainError, load_domain
from training.engine_pool import EnginePool, add_agent_arguments, agent_from, origin, speak
from training.intelligibility import domain_path
from training.realtime_client import answer_over_wire
from training.recordings import RecordingError, find_recordings
from training.suite import Row, Suite, run_all, to_table
from training.tts import TtsError

SUITE_DIALOGUES = 60


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="recordings or conversations")
    add("--as", dest="kind", choices=("turns", "digits", "outside", "noise"), default="turns",
        help="what --data holds: recorded turns; spoken digits; sentences outside the domain; noise alone")  # fmt: skip
    add("--suite", type=Path, metavar="DATA_ROOT", help="evaluate everything on the standard folders below this one")
    add("--conversations", type=Path, metavar="DIR", help="with --suite: also these conversations (split valid)")
    add("--dialogues", type=int, metavar="N",
        help=f"draw and speak N dialogues with a read-back after a change (--suite: {SUITE_DIALOGUES})")  # fmt: skip
    add("--snr", type=float, nargs="+", metavar="DB", help="also with noise behind the recordings, once a ratio")
    add("--noise_dir", type=Path, metavar="DIR", help="noise for --snr")
    add("--minutes", type=float, default=10.0, help="of noise and of silence, with --as noise or --suite (default: 10)")
    add("--seed", type=int, default=0, help="of every draw (default: 0)")
    add("--domain", default="coffee", help="a name in configs/domains, or a path")
    add("--split", choices=("train", "valid"), help="of conversations, take only these")
    add("--limit", type=int, metavar="N", help="take only the first N recordings (of each set)")
    add("--json", type=Path, metavar="FILE", help="write every figure and every turn here")
    add("--plots", type=Path, metavar="DIR", help="with --suite or --snr: draw the pictures here")
    add("--save", type=Path, metavar="DIR", help="write the spoken answers and their texts here")
    add("--via", choices=("engine", "openai"), default="engine", help="how to reach the agent")
    add("--url", default="http://127.0.0.1:8765/v1", help="of the daemon, with --via openai")
    add("--parallel", type=int, default=1, metavar="N", help="clients at once, with --via openai")
    add_agent_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    if wrong := _wrong(args):
        parser.error(wrong)
    return args


def _wrong(args: argparse.Namespace) -> str:
    """What is wrong with the flags taken together; empty when nothing is."""
    if any(value is not None and value < 1 for value in (args.parallel, args.limit, args.workers, args.dialogues)):
        return "--parallel, --limit, --workers and --dialogues must be at least 1"
    if args.minutes <= 0:
        return "--minutes must be above 0"
    if args.data is not None and (args.suite or args.dialogues):
        return "--data stands alone: give it, or --suite, or --dialogues"
    if args.data is None and not args.suite and not args.dialogues:
        return "one of --data, --suite and --dialogues is needed"
    if args.snr and (args.data is None or args.noise_dir is None or args.kind != "turns"):
        return "--snr needs --data with recorded turns, and --noise_dir"
    if (args.via == "openai" or args.save) and (args.data is None or args.kind != "turns" or args.snr):
        return "--via openai and --save go with --data and recorded turns, without --snr"
    return ""


def evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], list[Exchange]]:
    """Runs plain recordings and returns the report and the exchanges.

    Raises:
        RecordingError, DomainError, AgentError, ModelError: See the modules they come from.
    """
    domain = load_domain(domain_path(args.domain))
    recordings = find_recordings(args.data, args.limit, args.split)
    began = time.monotonic()
    if args.via == "openai":
        with tqdm(total=len(recordings), unit="recording", disable=None) as bar:
            answers = asyncio.run(answer_over_wire(args.url, recordings, args.parallel, bar.update))
    else:
        with EnginePool(agent_from(args), args.workers) as pool:
            answers = pool.map(speak, recordings)
    exchanges = pair(recordings, answers)
    result = report(domain, exchanges)
    result["took_s"] = round(time.monotonic() - began, 1)
    return result, exchanges


@contextlib.contextmanager
def _open_suite(args: argparse.Namespace) -> Iterator[Suite]:
    domain: Domain = load_domain(domain_path(args.domain))
    agent = agent_from(args)
    with EnginePool(agent, args.workers) as pool:
        yield Suite(pool, agent.config, domain, args.limit, args.seed)


def run_sets(suite: Suite, args: argparse.Namespace) -> Iterator[list[Row]]:
    """Runs the sets that the flags name, and yields the rows of each.

    Raises:
        RecordingError, AgentError, ModelError, TtsError: See the modules they come from.
    """
    if args.suite:
        dialogues = args.dialogues or min(SUITE_DIALOGUES, args.limit or SUITE_DIALOGUES)
        yield from run_all(suite, args.suite, args.conversations, dialogues, args.minutes)
    elif args.dialogues:
        yield suite.change_dialogues(args.dialogues)
    elif args.kind == "digits":
        yield suite.digits(args.data)
    elif args.kind == "outside":
        yield suite.outside(args.data)
    elif args.kind == "noise":
        yield suite.nobody_speaks(args.data, args.minutes)
    else:
        yield suite.orders(args.data, args.split)
        yield suite.orders_in_noise(args.data, args.noise_dir, args.snr, args.split)


def evaluate_sets(args: argparse.Namespace) -> list[Row]:
    """Runs the sets that the flags name; what was finished is written to `--json` after each.

    Raises:
        RecordingError, DomainError, AgentError, ModelError, TtsError: See the modules they come from.
    """
    began = time.monotonic()
    rows: list[Row] = []
    with _open_suite(args) as suite:
        for more in run_sets(suite, args):
            rows += more
            table = [{"what": row.what, "unit": row.unit, "figure": row.figure} for row in rows]
            took_s = round(time.monotonic() - began, 1)
            if args.json:
                write_report(args.json, {**args.origin, "took_s": took_s, "table": table, "sets": suite.details})
        if args.plots:
            suite.plot(args.plots)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    args.origin = origin("training.evaluate_agent", argv)
    try:
        if args.suite or args.dialogues or args.snr or args.kind != "turns":
            print("\n".join(to_table(evaluate_sets(args))))
            return 0
        result, exchanges = evaluate(args)
    except (RecordingError, DomainError, AgentError, ModelError, TtsError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print("\n".join(to_lines(result)))
    if args.save:
        save_audio(exchanges, args.save)
    if args.json:
        write_report(args.json, {**args.origin, **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
