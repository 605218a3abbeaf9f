"""Voice-to-voice latency and cut-ins of recorded people, through the official openai SDK.

- Every recording is a session of its own, streamed in real time; after it the microphone hears silence.
- The wait is from the true end of speech (the end of the last 20 ms of it within 30 dB of the loudest) to the first
  audible sample of the answer, of turns that were decided after that end.
- A cut-in is a turn of which the agent thought that it had ended before its true end.
- `python -m agent.bench voice --recordings DIR` starts a daemon of its own, `--url` talks to one that runs.
"""

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from agent.bench.caller import Heard, call_with_sdk, waits
from agent.bench.figures import add_model_arguments, show_progress
from agent.bench.recordings import add_recordings_arguments, load_recordings
from agent.bench.started import start_daemon


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this measurement."""
    add_model_arguments(parser)
    add_recordings_arguments(parser)
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="sessions at once (default: 1)")
    parser.add_argument("--url", help="a running daemon, such as http://127.0.0.1:8765/v1 (default: one is started)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="single settings of the started daemon")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures.

    Raises:
        InputError: The daemon did not start, cannot be reached, or broke off; or there is nothing to say.
        StreamingError: A recording cannot be read.
    """
    recordings = load_recordings(args.recordings, args.limit)
    turns = asyncio.run(_speak_all(args, list(recordings.values())))
    return {"recordings": str(args.recordings), **summarise(turns), "turns": _details(list(recordings), turns)}


@contextlib.asynccontextmanager
async def _daemon(args: argparse.Namespace) -> AsyncIterator[str]:
    if args.url:
        yield args.url
        return
    async with start_daemon(args.codec, args.s2s, *args.settings) as daemon:
        yield f"http://127.0.0.1:{daemon.port}/v1"


async def _speak_all(args: argparse.Namespace, recordings: Sequence[np.ndarray]) -> list[Heard]:
    places = asyncio.Semaphore(args.parallel)
    async with _daemon(args) as url:

        async def one(pcm: np.ndarray) -> Heard:
            async with places, call_with_sdk(url) as caller:
                heard = await caller.say(pcm)
            done.append(heard)
            show_progress(f"{len(done)} of {len(recordings)} recordings")
            return heard

        done: list[Heard] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(one(pcm)) for pcm in recordings]
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
    return [task.result() for task in running]


def summarise(turns: Sequence[Heard]) -> dict[str, Any]:
    """The figures of all turns: how many, the share that was cut in on, and the parts of the wait."""
    decided = [turn for turn in turns if turn.total is not None and turn.stops[-1] >= turn.true_end]
    totals = [turn.total for turn in decided if turn.total is not None]
    measured = waits(decided)
    if totals:
        measured["end_of_speech_to_audible"]["mean"] = round(float(np.mean(totals)), 2)
    return {
        "said": len(turns),
        "answered": sum(turn.total is not None for turn in turns),
        "cut_ins": round(sum(turn.cut_in for turn in turns) / len(turns), 4),
        "gaps": sum(turn.gaps for turn in turns),
        "voice_to_voice_ms": measured,
    }


def _details(names: Sequence[str], turns: Sequence[Heard]) -> list[dict[str, Any]]:
    """One line a turn, so that figures can be looked into."""
    return [
        {
            "audio": name,
            "true_end_ms": round(turn.true_end, 1),
            "stops_ms": turn.stops,
            "total_ms": None if turn.total is None else round(turn.total, 1),
            "reply": turn.reply,
        }
        for name, turn in zip(names, turns, strict=True)
    ]


def to_lines(report: dict[str, Any]) -> list[str]:
    """The figures as a table."""
    columns = ("p50", "p95", "p99", "max", "mean")
    lines = [f"{'milliseconds':34s}" + "".join(f"{name:>9s}" for name in columns)]
    for name, values in report["voice_to_voice_ms"].items():
        cells = "".join(f"{values[column]:9.1f}" if column in values else f"{'':9s}" for column in columns)
        lines.append(f"{name.replace('_', ' '):34s}{cells}")
    cut_ins = f"cut-ins {report['cut_ins']:.3f}"
    return [
        *lines,
        f"{report['said']} said, {report['answered']} answered, {cut_ins}, {report['gaps']} gaps in replies",
    ]
