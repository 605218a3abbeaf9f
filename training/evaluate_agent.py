"""Speaks recordings to the agent and scores what it understood, how fast it answered and whom it cut off.

    python -m training.evaluate_agent --data DIR --json runs/understood.json
    python -m training.evaluate_agent --data DIR --via openai --url http://127.0.0.1:8765/v1 --parallel 4

- `--via engine` runs the daemon's own conversation as fast as the machine can, on the sample clock; see
  `agent.rehearsal`.
- `--via openai` streams in real time to a running daemon through the official SDK.
- Each recording is one session; its turns are spoken in order, each after the answer to the one before was heard.
"""

import argparse
import asyncio
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from agent.bench import provenance
from agent.config import AgentConfig, load_config
from agent.errors import AgentError
from agent.rehearsal import Rehearsal, RehearsalWorker
from agent.worker import StepEngine
from models.errors import ModelError
from models.runtime import Engine
from training.answers import Answer, Exchange, pair, report, save_audio, to_json, to_lines
from training.domain import DomainError, load_domain
from training.intelligibility import domain_path
from training.realtime_client import ClientError, answer_over_wire
from training.recordings import SAMPLE_RATE_HZ, Recording, RecordingError, end_of_speech, find_recordings

SHIPPED = Path("models/pretrained/coffee-en")


async def answer_with_engine(
    engine: StepEngine, config: AgentConfig, recordings: Sequence[Recording], progress: Callable[[], object]
) -> list[list[Answer]]:
    """Speaks recordings to an engine, one session each.

    Raises:
        StepError: The engine failed.
        RecordingError: A recording cannot be read.
    """
    answers = []
    async with RehearsalWorker(engine) as worker:
        for recording in recordings:
            async with Rehearsal(worker, config) as session:
                answers.append([await _speak(session, utterance.load()) for utterance in recording.turns])
            progress()
    return answers


async def _speak(session: Rehearsal, pcm: np.ndarray) -> Answer:
    turn = await session.speak(pcm)
    true_end = turn.began + end_of_speech(pcm)
    answer = Answer(
        turn.reply, " ".join(turn.transcript.split()), turn.pcm, None, turn.first_audio_ms, interrupted=turn.interrupted
    )
    if turn.stops:
        answer.decision_ms = (turn.stops[-1] - true_end) * 1000 / SAMPLE_RATE_HZ
        answer.cut_in = turn.stops[0] < true_end
    return answer


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="recordings or conversations")
    parser.add_argument("--domain", default="coffee", help="a name in configs/domains, or a path")
    parser.add_argument("--split", choices=("train", "valid"), help="of conversations, take only these")
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N recordings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and every turn here")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the spoken answers and their texts here")
    parser.add_argument("--via", choices=("engine", "openai"), default="engine", help="how to reach the agent")
    parser.add_argument("--codec", type=Path, metavar="PATH", default=SHIPPED / "codec", help="codec artefacts")
    parser.add_argument("--s2s", type=Path, metavar="PATH", default=SHIPPED / "s2s", help="speech model artefacts")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: configs/agent.yaml)")
    parser.add_argument("--url", default="http://127.0.0.1:8765/v1", help="of the daemon, with --via openai")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="clients at once, with --via openai")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single settings of the daemon")
    args = parser.parse_intermixed_args(argv)
    if args.parallel < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--parallel and --limit must be at least 1")
    return args


def evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], list[Exchange]]:
    """Runs the recordings and returns the report and the exchanges.

    Raises:
        RecordingError, DomainError, AgentError, ModelError, ClientError: See the modules they come from.
    """
    domain = load_domain(domain_path(args.domain))
    recordings = find_recordings(args.data, args.limit, args.split)
    began = time.monotonic()
    with tqdm(total=len(recordings), unit="recording", disable=None) as bar:
        if args.via == "openai":
            answers = asyncio.run(answer_over_wire(args.url, recordings, args.parallel, bar.update))
        else:
            default = Path("configs/agent.yaml")
            config = load_config(args.config or (default if default.is_file() else None), args.overrides)
            engine = Engine.load(args.codec, args.s2s)
            answers = asyncio.run(answer_with_engine(engine, config, recordings, bar.update))
    exchanges = pair(recordings, answers)
    result = report(domain, exchanges)
    result["took_s"] = round(time.monotonic() - began, 1)
    return result, exchanges


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        result, exchanges = evaluate(args)
    except (RecordingError, DomainError, AgentError, ModelError, ClientError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print("\n".join(to_lines(result)))
    if args.save:
        save_audio(exchanges, args.save)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["python", "-m", "training.evaluate_agent", *(sys.argv[1:] if argv is None else argv)])
        body = {"command": command, **provenance(), **to_json(result)}
        args.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
