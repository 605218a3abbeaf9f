"""How many sessions can talk at the same time, and what the daemon does with one too many.

- Callers join one after the other. Each says a recording, hears the answer out, pauses, and goes on, in real time, so
  that about all of them are busy all the time. A stage lasts `--seconds`, after some seconds to settle.
- A frame's time is what the daemon tells in /metrics: its wait for a model thread and its step. The machine keeps up
  while the 99th percentile is within the 80 ms of a frame and no audio comes late, neither for the daemon (underruns)
  nor for a caller's player (gaps). The callers share the machine with the daemon.
- Then a daemon with `server.max_sessions: auto` gets as many callers as it admits, and some more that it refuses.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from agent.bench.caller import Heard, call, waits
from agent.bench.figures import add_model_arguments, percentiles, show_progress
from agent.bench.recordings import add_recordings_arguments, load_recordings
from agent.bench.started import RunningDaemon, start_daemon
from agent.errors import InputError
from streaming.frames import FRAME_MS

SETTLE_S = 3.0
PAUSE_S = (0.3, 1.5)  # between the answer and the next turn
REFUSALS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this measurement."""
    add_model_arguments(parser)
    add_recordings_arguments(parser)
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="a stage lasts (default: 20)")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="callers of the first stage (default: 1)")
    parser.add_argument("--most", type=int, default=32, metavar="N", help="callers of the last stage (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of recordings and of the pauses")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="single settings of the daemon")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures.

    Raises:
        InputError: The daemon did not start or broke off, or there is nothing to say.
        StreamingError: A recording cannot be read.
    """
    if args.first < 1:
        raise InputError(f"--first must be at least 1, not {args.first}")
    recordings = list(load_recordings(args.recordings, args.limit).values())
    return asyncio.run(_measure(args, recordings))


async def _measure(args: argparse.Namespace, recordings: Sequence[np.ndarray]) -> dict[str, Any]:
    everybody = [*args.settings, "server.max_sessions=1000"]
    stages = []
    async with start_daemon(args.codec, args.s2s, *everybody) as daemon, Crowd(daemon, recordings, args.seed) as crowd:
        for callers in range(args.first, args.most + 1):
            stages.append(await crowd.stage(callers, args.seconds))
            if not _keeps_up(stages[-1]):
                break
    async with (
        start_daemon(args.codec, args.s2s, *args.settings) as daemon,
        Crowd(daemon, recordings, args.seed) as crowd,
    ):
        capacity = int((await daemon.health())["capacity"])
        full = await crowd.stage(capacity, args.seconds)
        refusals = [await refusal_ms(daemon.url) for _ in range(REFUSALS)]
    return {
        "stages": stages,
        "sustained": max((stage["callers"] for stage in stages if _keeps_up(stage)), default=0),
        "capacity": capacity,
        "at_capacity": full,
        "refused": sum(took is not None for took in refusals),
        "refusal_ms": percentiles([took for took in refusals if took is not None]),
    }


def _keeps_up(stage: dict[str, Any]) -> bool:
    return bool(stage["frame_ms"]["p99"] <= FRAME_MS and not stage["underruns"] and not stage["gaps"])


class Crowd:
    """Callers of one daemon; use as ``async with``.

    Args:
        daemon: The daemon.
        recordings: What they say, float32 [N] each, in an order of each caller's own.
        seed: Of these orders, and of the pauses.
    """

    def __init__(self, daemon: RunningDaemon, recordings: Sequence[np.ndarray], seed: int) -> None:
        self._daemon = daemon
        self._recordings = recordings
        self._seed = seed
        self._callers: list[asyncio.Task[None]] = []
        self._heard: list[Heard] = []

    async def __aenter__(self) -> "Crowd":
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    async def stage(self, callers: int, seconds: float) -> dict[str, Any]:
        """Lets callers join until there are so many, and measures for a while.

        Raises:
            InputError: The daemon broke off.
        """
        while len(self._callers) < callers:
            self._callers.append(asyncio.create_task(self._talk(len(self._callers)), name="caller"))
        await self._pass(SETTLE_S)
        before, self._heard = await self._daemon.metrics(), []
        show_progress(f"{callers} callers")
        await self._pass(seconds)
        after, heard = await self._daemon.metrics(), self._heard
        rise = {key: value - before.get(key, 0.0) for key, value in after.items()}
        return {
            "callers": callers,
            "frame_ms": frame_percentiles(rise),
            "model_threads_busy": round(_total(rise, "repartee_step_seconds_sum") / seconds, 3),
            "daemon_cores": round(_total(rise, "process_cpu_seconds_total") / seconds, 3),
            "underruns": int(_total(rise, "repartee_underruns_total")),
            "gaps": sum(turn.gaps for turn in heard),
            "turns": len(heard),
            "unanswered": sum(turn.total is None for turn in heard),
            "voice_to_voice_ms": waits(heard)["end_of_speech_to_audible"],
        }

    async def _pass(self, seconds: float) -> None:
        done, _ = await asyncio.wait(self._callers, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for caller in done:
            caller.result()
            raise InputError("a caller has left")

    async def _talk(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        async with call(self._daemon.url) as caller:
            while True:
                for pcm in chance.sample(self._recordings, len(self._recordings)):
                    await caller.wait(chance.uniform(*PAUSE_S))
                    heard = await caller.say(pcm)
                    self._heard.append(heard)
                    await caller.hear_out()


def frame_percentiles(rise: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> dict[str, float]:
    """p50, p95 and p99 of the frame time in ms, from a histogram's rise, evenly spread within a bucket.

    Args:
        rise: Samples of /metrics, by name and labels, as differences.

    Raises:
        InputError: No frame was made.
    """
    buckets = sorted(
        (float(dict(labels)["le"]) * 1000, n)
        for (name, labels), n in rise.items()
        if name == "repartee_frame_seconds_bucket"
    )
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        raise InputError("the daemon has made no frame")
    edges = [0.0, *(edge for edge, _ in buckets[:-1]), 2 * buckets[-2][0]]  # the last one is open: a guess
    found = np.interp([0.5 * total, 0.95 * total, 0.99 * total], [0.0, *(n for _, n in buckets)], edges)
    return {name: round(float(value), 1) for name, value in zip(("p50", "p95", "p99"), found, strict=True)}


def _total(rise: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str) -> float:
    return sum(value for (one, _), value in rise.items() if one == name)


async def refusal_ms(url: str) -> float | None:
    """Milliseconds from the first packet to the close with 1013 of a daemon that is full; None if it lets one in.

    Raises:
        InputError: It says something else.
    """
    began = time.perf_counter()
    async with connect(url, compression=None) as connection:
        event = json.loads(await connection.recv())
        if event["type"] != "error":
            return None
        try:
            await connection.recv()
        except ConnectionClosed as exc:
            took = (time.perf_counter() - began) * 1000
            code = exc.rcvd.code if exc.rcvd is not None else None
            if code == 1013 and event["error"]["code"] == "server_at_capacity":
                return took
        raise InputError(f"the daemon refused with {event}")


def to_lines(report: dict[str, Any]) -> list[str]:
    """The figures as a table."""
    heads = (
        "callers",
        "frame p50",
        "p95",
        "p99 ms",
        "busy",
        "cores",
        "underruns",
        "gaps",
        "turns",
        "voice p50",
        "p95 ms",
    )
    lines = ["".join(f"{head:>11s}" for head in heads)]
    for stage in (*report["stages"], report["at_capacity"]):
        frame, voice = stage["frame_ms"], stage["voice_to_voice_ms"]
        cells = [stage["callers"], frame["p50"], frame["p95"], frame["p99"], stage["model_threads_busy"]]
        cells += [stage["daemon_cores"]]
        cells += [stage["underruns"], stage["gaps"], stage["turns"], voice.get("p50", "-"), voice.get("p95", "-")]
        lines.append("".join(f"{cell!s:>11s}" for cell in cells))
    took = report["refusal_ms"]
    refused = f"{report['refused']} of {REFUSALS} more refused" + (f" within {took['max']:.0f} ms" if took else "")
    return [
        *lines,
        f"{report['sustained']} sessions in real time; admitted by itself: {report['capacity']} (last line); {refused}",
    ]
