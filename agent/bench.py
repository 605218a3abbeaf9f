"""How fast and how large the agent is on this machine: `python -m agent.bench --json bench.json`.

- Frame times: one engine, one thread, 80 ms of audio a step, for each of the three things a step can do.
- A really started daemon: time from process start to a healthy answer, and resident memory before and after talking.
- Voice to voice: a recorded question streamed in real time over a WebSocket, and the parts of the wait for the answer.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from agent.errors import AgentError, InputError
from agent.worker import StepEngine
from models.errors import ModelError
from models.runtime import Engine, Mode
from streaming.errors import StreamingError
from streaming.sound_files import read_audio

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "models" / "pretrained" / "coffee-en"
QUESTION = ROOT / "tests" / "data" / "question.wav"
RATE = Engine.sample_rate
FRAME_MS = Engine.frame_size * 1000 / RATE
CHUNK = RATE // 50  # 20 ms
START_WITHIN_S = 60.0
ANSWER_WITHIN_S = 70.0  # more than the longest reply
_SILENCE = np.zeros(CHUNK, np.float32)
MESSAGE_BYTES = 1 << 24


# --- engine -----------------------------------------------------------------------------------------------------------


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, rounded to 0.01 ms; empty for no values."""
    if not milliseconds:
        return {}
    p50, p95, p99 = np.percentile(np.asarray(milliseconds), [50, 95, 99])
    named = {"p50": p50, "p95": p95, "p99": p99, "max": max(milliseconds)}
    return {name: round(float(value), 2) for name, value in named.items()}


def time_frames(engine: StepEngine, question: np.ndarray, frames: int) -> dict[str, dict[str, float]]:
    """Milliseconds a step takes, for each mode, over at least `frames` steps each.

    Args:
        engine: Loaded models.
        question: float32 [N] at 24 kHz, repeated as often as needed.
        frames: Steps of IDLE and of LISTEN; replies follow until there are as many of SPEAK.
    """
    pieces = question[: len(question) // engine.frame_size * engine.frame_size].reshape(-1, engine.frame_size)
    state = engine.new_state()
    taken: dict[Mode, list[float]] = {mode: [] for mode in Mode}

    def step(pcm: np.ndarray | None, mode: Mode) -> bool:
        began = time.perf_counter()
        out = engine.step(pcm, state, mode)
        taken[mode].append((time.perf_counter() - began) * 1000)
        return out.done

    while min(map(len, taken.values())) < frames:
        for _ in range(5):  # as many as a session's prefix holds, so that LISTEN's first step is the longest it can be
            step(pieces[0], Mode.IDLE)
        for piece in pieces:
            step(piece, Mode.LISTEN if len(taken[Mode.LISTEN]) <= len(taken[Mode.IDLE]) else Mode.IDLE)
        spoken = 1
        while not step(None, Mode.SPEAK):
            spoken += 1
        for _ in range(spoken):  # it plays
            step(pieces[0], Mode.IDLE)
    named = {f"{mode.name.lower()}_ms": percentiles(values) for mode, values in taken.items()}
    for mode, values in taken.items():
        named[f"{mode.name.lower()}_ms"]["real_time_factor"] = round(float(np.mean(values)) / FRAME_MS, 4)
    return named


# --- daemon -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RunningDaemon:
    """A daemon in a process of its own."""

    process: asyncio.subprocess.Process
    port: int
    ready_s: float

    def resident_mb(self) -> float:
        """Resident memory now, in megabytes (10^6 bytes); 0 where the system does not tell."""
        return resident_mb(self.process.pid)


def resident_mb(pid: int) -> float:
    """`VmRSS` of a process in megabytes (10^6 bytes); 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return round(int(found[0]) * 1024 / 1e6, 1) if found else 0.0


@contextlib.asynccontextmanager
async def start_daemon(codec: Path, s2s: Path) -> AsyncIterator[RunningDaemon]:
    """Starts the daemon on a free port and waits until it is healthy.

    Raises:
        InputError: It ended, or was not healthy in time; the message carries what it said last.
    """
    flags = ["--no-audio", "--port", "0", "--codec", str(codec), "--s2s", str(s2s)]
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "run_agent.py"), *flags, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    try:
        port = await _find_port(process)
        if not await asyncio.to_thread(_healthy, port):
            raise InputError("the daemon says it is ready, but /healthz does not")
        ready_s = time.monotonic() - began
        drain = asyncio.create_task(_drain(process), name="drain")
        yield RunningDaemon(process, port, round(ready_s, 2))
        drain.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _find_port(process: asyncio.subprocess.Process) -> int:
    """The port from the daemon's own "ready on ws://HOST:PORT/..." line."""
    assert process.stderr is not None, "asked for a pipe"
    last = ""
    try:
        async with asyncio.timeout(START_WITHIN_S):
            while line := (await process.stderr.readline()).decode(errors="replace"):
                last = line.strip() or last
                if "ready on ws://" in line:
                    return int(line.split("ready on ws://")[1].split("/")[0].rsplit(":", 1)[1])
    except TimeoutError:
        raise InputError(f"the daemon was not ready after {START_WITHIN_S:.0f} s: {last}") from None
    raise InputError(f"the daemon ended before it was ready: {last}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None, "asked for a pipe"
    while await process.stderr.readline():
        pass


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


# --- voice to voice ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Wait:
    """One question's answer as a client saw it; all in milliseconds."""

    end_to_decision: float | None = None
    decision_to_first_audio: float | None = None
    silence_in_audio: float | None = None
    transcript: str = ""
    audio: list[np.ndarray] = field(default_factory=list)

    @property
    def total(self) -> float | None:
        """From the true end of speech to the first audible sample."""
        parts = (self.end_to_decision, self.decision_to_first_audio, self.silence_in_audio)
        return None if None in parts else sum(part for part in parts if part is not None)


def loud_span(pcm: np.ndarray) -> tuple[int, int]:
    """First and last sample, as slice bounds, of the 20 ms frames within 30 dB of the loudest one."""
    frames = pcm[: len(pcm) // CHUNK * CHUNK].reshape(-1, CHUNK)  # [F, 480]
    power = np.square(frames, dtype=np.float64).mean(axis=1)  # [F]
    loud = np.flatnonzero(power >= max(1e-8, power.max(initial=0.0) * 1e-3))
    return (int(loud[0]) * CHUNK, int(loud[-1] + 1) * CHUNK) if loud.size else (0, len(pcm))


async def ask(port: int, question: np.ndarray) -> Wait:
    """Streams a question in real time and listens to the whole answer.

    Raises:
        InputError: No answer came in time.
    """
    wait = Wait()
    url = f"ws://127.0.0.1:{port}/v1/realtime?model=local"
    async with connect(url, max_size=MESSAGE_BYTES, compression=None) as connection:
        await connection.recv()  # session.created
        began = time.monotonic()
        sending = asyncio.create_task(_stream(connection, question, began), name="microphone")
        try:
            async with asyncio.timeout(len(question) / RATE + ANSWER_WITHIN_S):
                await _listen(connection, wait, began, loud_span(question)[1] * 1000 / RATE)
        except TimeoutError:
            raise InputError("the daemon did not answer in time") from None
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    if wait.audio:
        wait.silence_in_audio = loud_span(np.concatenate(wait.audio))[0] * 1000 / RATE
    return wait


async def _stream(connection: ClientConnection, question: np.ndarray, began: float) -> None:
    """The question, then silence until cancelled: a microphone does not stop."""
    for start in count(0, CHUNK):
        chunk = np.clip(question[start : start + CHUNK], -1.0, 1.0) if start < len(question) else _SILENCE
        await asyncio.sleep(max(0.0, began + (start + CHUNK) / RATE - time.monotonic()))
        audio = base64.b64encode((chunk * 32767).astype("<i2").tobytes()).decode()
        await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))


async def _listen(connection: ClientConnection, wait: Wait, began: float, true_end_ms: float) -> None:
    decided_ms = 0.0
    async for message in connection:
        event: dict[str, Any] = json.loads(message)
        match event["type"]:
            case "input_audio_buffer.speech_stopped":
                decided_ms = float(event["audio_end_ms"])
                wait.end_to_decision, wait.decision_to_first_audio = decided_ms - true_end_ms, None
            case "response.created":
                wait.audio.clear()
            case "response.output_audio.delta":
                if wait.decision_to_first_audio is None:
                    wait.decision_to_first_audio = (time.monotonic() - began) * 1000 - decided_ms
                wait.audio.append(np.frombuffer(base64.b64decode(event["delta"]), "<i2").astype(np.float32) / 32768)
            case "response.output_audio_transcript.done":
                wait.transcript = event["transcript"]
            case "response.done" if event["response"]["status"] == "completed":
                return
            case "error":
                raise InputError(f"the daemon says: {event['error']['message']}")


async def measure_daemon(codec: Path, s2s: Path, question: np.ndarray, asks: int) -> dict[str, Any]:
    """Start-up, memory and voice-to-voice latency of a really started daemon.

    Raises:
        InputError: It did not start, or did not answer.
    """
    async with start_daemon(codec, s2s) as daemon:
        before_mb = daemon.resident_mb()
        waits = [await ask(daemon.port, question) for _ in range(asks)]
        after_mb = daemon.resident_mb()
    parts = {
        "end_of_speech_to_decision": [w.end_to_decision for w in waits if w.end_to_decision is not None],
        "decision_to_first_audio": [w.decision_to_first_audio for w in waits if w.decision_to_first_audio is not None],
        "silence_before_the_voice": [w.silence_in_audio for w in waits if w.silence_in_audio is not None],
        "end_of_speech_to_audible": [w.total for w in waits if w.total is not None],
    }
    return {
        "start_up_s": daemon.ready_s,
        "resident_mb": {"when_ready": before_mb, "after_talking": after_mb},
        "voice_to_voice_ms": {name: percentiles(values) for name, values in parts.items()},
        "transcripts": sorted({wait.transcript for wait in waits}),
    }


# --- report -----------------------------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """The commit and the machine that figures belong to."""
    try:
        git = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    model = ""
    with contextlib.suppress(OSError):
        info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    machine = {
        "processor": model or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1_min": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    return {"commit": commit, "machine": machine}


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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, metavar="PATH", default=SHIPPED / "codec", help="codec artefacts")
    parser.add_argument("--s2s", type=Path, metavar="PATH", default=SHIPPED / "s2s", help="speech model artefacts")
    parser.add_argument("--question", type=Path, metavar="FILE", default=QUESTION, help="a spoken question")
    parser.add_argument("--frames", type=int, default=500, metavar="N", help="steps of each kind to time")
    parser.add_argument("--asks", type=int, default=10, metavar="N", help="times the question is asked")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    args = parser.parse_args(argv)
    try:
        question = read_audio(args.question)
        report = provenance()
        report["frames"] = time_frames(Engine.load(args.codec, args.s2s), question, args.frames)
        report["daemon"] = asyncio.run(measure_daemon(args.codec, args.s2s, question, args.asks))
    except (AgentError, ModelError, StreamingError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print("\n".join(to_lines(report)))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
