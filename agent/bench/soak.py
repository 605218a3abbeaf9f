"""One long session: whether latency drifts, and memory grows.

- The user says recordings over and over, listens to each answer, and pauses; the same session all the time.
- As fast as the machine can (the default): the daemon's own conversation on the sample clock, an hour in some minutes.
  The wait is the wall time from the decision that the turn is over to the first audio; a step is told in processor
  time, which other programs on the machine disturb less.
- `--live`: a started daemon over a WebSocket in real time; the wait is from the true end of speech to the first audible
  sample.
- The first sixth of the turns is compared with the last, words heard included: an agent that goes deaf still answers.
"""

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.bench.caller import call
from agent.bench.figures import add_model_arguments, loud_span, show_progress
from agent.bench.recordings import add_recordings_arguments, load_recordings
from agent.bench.started import resident_mb, start_daemon
from agent.config import AgentConfig, load_config
from agent.errors import InputError
from agent.rehearsal import Rehearsal, RehearsalWorker
from agent.worker import StepEngine, warm_up
from models.runtime import Engine
from models.tokenizer import UNKNOWN
from streaming.frames import SAMPLE_RATE_HZ

PAUSE_S = (0.5, 4.0)  # between an answer and the next turn
FEWEST_TURNS = 12  # two in a sixth
MEMORY_GROWS_LESS = 0.02


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the session; None where it was not measured, or there was no answer."""

    minute: float  # of the session
    decision_ms: float | None  # from the true end of speech, on the sample clock
    wait_ms: float | None  # see the module's docstring
    step_ms: float | None  # processor time of a mean step of the turn
    words: int  # that were heard, and known
    resident_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this measurement."""
    add_model_arguments(parser)
    add_recordings_arguments(parser)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="length of the session (default: 60)")
    parser.add_argument("--live", action="store_true", help="a started daemon in real time")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: those of the program)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of recordings and of the pauses")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="single settings")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures.

    Raises:
        AgentError: The settings are wrong, the engine failed, or the session was too short to say anything.
        ModelError: The models cannot be loaded.
        StreamingError: A recording cannot be read.
    """
    script = _script(list(load_recordings(args.recordings, args.limit).values()), args.seed)
    began = time.monotonic()
    if args.live:
        turns = asyncio.run(_live(args, script))
    else:
        config, engine = load_config(args.config, args.settings), Engine.load(args.codec, args.s2s)
        warm_up(engine)
        turns = asyncio.run(rehearse(engine, config, script, args.minutes))
    took_minutes = (time.monotonic() - began) / 60
    figures = summarise(turns)
    speed = round(turns[-1].minute / took_minutes, 2)
    return {"live": args.live, "times_real_time": speed, **figures, "turns": [asdict(turn) for turn in turns]}


def _script(recordings: Sequence[np.ndarray], seed: int) -> Iterator[tuple[float, np.ndarray]]:
    """Without end: a pause in seconds, and what is said after it."""
    chance = random.Random(seed)
    while True:
        for pcm in chance.sample(recordings, len(recordings)):
            yield chance.uniform(*PAUSE_S), pcm


class _Meter:
    """Processor time of the calls on the model thread."""

    def __init__(self) -> None:
        self._before: float | None = None
        self._taken: list[float] = []

    def took(self, kind: str, waited_s: float, took_s: float) -> None:
        """Told on the model thread after each call."""
        now = time.thread_time()
        if self._before is not None and kind in ("idle", "listen", "speak"):
            self._taken.append(now - self._before)
        self._before = now

    def take(self) -> float | None:
        """Mean milliseconds of a step since this was asked last."""
        taken, self._taken = self._taken, []
        return statistics.mean(taken) * 1000 if taken else None


async def rehearse(
    engine: StepEngine, config: AgentConfig, script: Iterator[tuple[float, np.ndarray]], minutes: float
) -> list[Turn]:
    """One session on the sample clock, as fast as the machine can.

    Args:
        engine: Loaded models.
        config: The daemon's settings.
        script: Pauses in seconds, and what is said after each, float32 [N] at 24 kHz.
        minutes: Of the session.

    Raises:
        StepError: The engine failed.
    """
    turns: list[Turn] = []
    meter = _Meter()
    async with RehearsalWorker(engine, meter.took) as worker, Rehearsal(worker, config) as session:
        while session.seconds < minutes * 60:
            pause_s, pcm = next(script)
            await session.listen(np.zeros(round(pause_s * SAMPLE_RATE_HZ), np.float32))
            record = await session.speak(pcm)
            true_end = record.began + loud_span(pcm)[1]
            decision_ms = (record.stops[-1] - true_end) * 1000 / SAMPLE_RATE_HZ if record.stops else None
            wait_ms = record.first_audio_ms if record.reply else None
            memory = resident_mb(os.getpid())
            words = _known(record.transcript)
            turns.append(Turn(round(session.seconds / 60, 3), decision_ms, wait_ms, meter.take(), words, memory))
            show_progress(f"minute {session.seconds / 60:.1f} of {minutes:g}")
    return turns


async def _live(args: argparse.Namespace, script: Iterator[tuple[float, np.ndarray]]) -> list[Turn]:
    turns: list[Turn] = []
    settings = ["--config", str(args.config)] if args.config else []
    async with start_daemon(args.codec, args.s2s, *settings, *args.settings) as daemon, call(daemon.url) as caller:
        while caller.seconds < args.minutes * 60:
            pause_s, pcm = next(script)
            await caller.wait(pause_s)
            heard = await caller.say(pcm)
            await caller.hear_out()
            minute = round(caller.seconds / 60, 3)
            words = _known(heard.transcript)
            turns.append(Turn(minute, heard.end_to_decision, heard.total, None, words, daemon.resident_mb()))
            show_progress(f"minute {minute:.1f} of {args.minutes:g}")
    return turns


def _known(transcript: str) -> int:
    return sum(word != UNKNOWN for word in transcript.split())


def summarise(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians of the first and the last sixth of the turns, and how memory grew from one to the other.

    Raises:
        InputError: There are too few turns.
    """
    if len(turns) < FEWEST_TURNS:
        raise InputError(f"the session was too short: {len(turns)} turns, at least {FEWEST_TURNS} are compared")
    sixth = len(turns) // 6
    first, last = _medians(turns[:sixth]), _medians(turns[-sixth:])
    growth = last["resident_mb"] / first["resident_mb"] - 1.0 if first["resident_mb"] else 0.0
    return {"said": len(turns), "sixths": {"first": first, "last": last}, "memory_growth": round(growth, 4)}


def _medians(turns: Sequence[Turn]) -> dict[str, float]:
    found = {"answered": round(sum(turn.wait_ms is not None for turn in turns) / len(turns), 4)}
    for name in ("decision_ms", "wait_ms", "step_ms", "words", "resident_mb"):
        values = [value for turn in turns if (value := getattr(turn, name)) is not None]
        if values:
            found[name] = round(statistics.median(values), 2)
    return found


def to_lines(report: dict[str, Any]) -> list[str]:
    """The figures as a table."""
    first, last = report["sixths"]["first"], report["sixths"]["last"]
    lines = [f"{'median of the turns of':34s}{'first sixth':>13s}{'last sixth':>13s}{'change':>9s}"]
    for name in first.keys() & last.keys():
        row = f"{first[name]:13.2f}{last[name]:13.2f}{last[name] - first[name]:9.2f}"
        lines.append(f"{name.replace('_', ' '):34s}{row}")
    lines[1:] = sorted(lines[1:])
    flat = "flat" if report["memory_growth"] < MEMORY_GROWS_LESS else "GROWS"
    speed = f"{report['times_real_time']:g} times real time"
    memory = f"memory {report['memory_growth']:+.1%} ({flat})"
    return [*lines, f"{report['said']} turns in {report['turns'][-1]['minute']:.1f} minutes at {speed}; {memory}"]
