"""What every measurement needs: percentiles, where speech begins and ends, and whose figures they are."""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.artefacts import SHIPPED
from streaming.frames import SAMPLE_RATE_HZ, Framer
from streaming.resample import LiveResampler
from streaming.vad import WebrtcDetector

ROOT = Path(__file__).resolve().parent.parent.parent
QUESTION = ROOT / "tests" / "data" / "question.wav"
CHUNK = SAMPLE_RATE_HZ // 50  # 20 ms
AFTER_SPEECH_S = 0.2


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name the models."""
    parser.add_argument("--codec", type=Path, metavar="PATH", default=SHIPPED / "codec", help="codec artefacts")
    parser.add_argument("--s2s", type=Path, metavar="PATH", default=SHIPPED / "s2s", help="speech model artefacts")


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, rounded to 0.01 ms; empty for no values."""
    if not milliseconds:
        return {}
    p50, p95, p99 = np.percentile(np.asarray(milliseconds), [50, 95, 99])
    named = {"p50": p50, "p95": p95, "p99": p99, "max": max(milliseconds)}
    return {name: round(float(value), 2) for name, value in named.items()}


def loud_span(pcm: np.ndarray) -> tuple[int, int]:
    """First and last sample, as slice bounds, of the 20 ms frames within 30 dB of the loudest one.

    Noise after the last word is none of them: frames count up to 0.2 s after a voice detector heard speech, if it did.
    """
    frames = pcm[: len(pcm) // CHUNK * CHUNK].reshape(-1, CHUNK)  # [F, 480]
    power = np.square(frames, dtype=np.float64).mean(axis=1)  # [F]
    loud = np.flatnonzero(power >= max(1e-8, power.max(initial=0.0) * 1e-3))
    spoken = loud[loud < _speech_end(frames)]
    loud = spoken if spoken.size else loud
    return (int(loud[0]) * CHUNK, int(loud[-1] + 1) * CHUNK) if loud.size else (0, len(pcm))


def _speech_end(frames: np.ndarray) -> int:
    """The number of the frame, of [F, 480], at which speech has been over for long enough; 0: there was none."""
    detector, resampler = WebrtcDetector(), LiveResampler(SAMPLE_RATE_HZ, WebrtcDetector.rate_hz)
    chunks = Framer(detector.chunk_samples).push(resampler.push(frames.reshape(-1).astype(np.float32)))
    ends = [chunk.end for chunk in chunks if detector.probability(chunk.pcm) > 0.5]
    return round((ends[-1] / detector.rate_hz + AFTER_SPEECH_S) * SAMPLE_RATE_HZ / CHUNK) if ends else 0


def show_progress(text: str) -> None:
    """One line on a terminal that the next one replaces; nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


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
