"""Frame times, start-up, memory and voice-to-voice latency: what one user gets.

- Frame times: one engine, one thread, 80 ms of audio a step, for each of the three things a step can do.
- A really started daemon: time from process start to a healthy answer, and resident memory before and after talking.
- Voice to voice: a recorded question streamed in real time over a WebSocket, and the parts of the wait for the answer.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from agent.bench.caller import Heard, call, waits
from agent.bench.figures import QUESTION, add_model_arguments
from agent.bench.frames import time_frames
from agent.bench.started import start_daemon
from agent.errors import InputError
from models.runtime import Engine
from streaming.sound_files import read_audio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this measurement."""
    add_model_arguments(parser)
    parser.add_argument("--question", type=Path, metavar="FILE", default=QUESTION, help="a spoken question")
    parser.add_argument("--frames", type=int, default=500, metavar="N", help="steps of each kind to time")
    parser.add_argument("--asks", type=int, default=10, metavar="N", help="times the question is asked")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures.

    Raises:
        ModelError: The models cannot be loaded.
        InputError: The daemon did not start, or did not answer.
        StreamingError: The question cannot be read.
    """
    question = read_audio(args.question)
    return {
        "frames": time_frames(Engine.load(args.codec, args.s2s), question, args.frames),
        "daemon": asyncio.run(measure_daemon(args.codec, args.s2s, question, args.asks)),
    }


async def ask(url: str, question: np.ndarray) -> Heard:
    """Asks in a session of its own.

    Args:
        url: Of the WebSocket.
        question: float32 [N] at 24 kHz.

    Raises:
        InputError: No answer came.
    """
    async with call(url) as caller:
        heard = await caller.say(question)
    if heard.total is None:
        raise InputError("the daemon did not answer in time")
    return heard


async def measure_daemon(codec: Path, s2s: Path, question: np.ndarray, asks: int) -> dict[str, Any]:
    """Start-up, memory and voice-to-voice latency of a really started daemon.

    Raises:
        InputError: It did not start, or did not answer.
    """
    async with start_daemon(codec, s2s) as daemon:
        before_mb = daemon.resident_mb()
        turns = [await ask(daemon.url, question) for _ in range(asks)]
        after_mb = daemon.resident_mb()
    return {
        "start_up_s": daemon.ready_s,
        "resident_mb": {"when_ready": before_mb, "after_talking": after_mb},
        "voice_to_voice_ms": waits(turns),
        "transcripts": sorted({turn.reply for turn in turns}),
    }


def to_lines(report: dict[str, Any]) -> list[str]:
    """The report as a table."""
    columns = ("p50", "p95", "p99", "max")
    lines = [f"{'':34s}" + "".join(f"{name:>9s}" for name in columns) + f"{'x real time':>13s}"]
    rows = {f"frame, {name.removesuffix('_ms')} (ms)": values for name, values in report["frames"].items()}
    daemon = report["daemon"]
    rows |= {f"{name.replace('_', ' ')} (ms)": values for name, values in daemon["voice_to_voice_ms"].items()}
    for name, values in rows.items():
        cells = "".join(f"{values[column]:9.1f}" if column in values else f"{'-':>9s}" for column in columns)
        factor = values.get("real_time_factor")
        lines.append(f"{name:34s}{cells}" + (f"{factor:13.3f}" if factor is not None else ""))
    memory = daemon["resident_mb"]
    lines.append(f"{'process start to healthy (s)':34s}{daemon['start_up_s']:9.2f}")
    lines.append(f"{'resident memory (MB)':34s}{memory['when_ready']:9.0f} ready {memory['after_talking']:9.0f} after")
    return [*lines, f"answers: {' | '.join(daemon['transcripts'])}"]
