"""What one step of the model takes: 80 ms of audio a step, one thread, for each of the things a step can do."""

import time

import numpy as np

from agent.bench.figures import percentiles
from agent.worker import StepEngine
from models.runtime import Mode


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
    frame_ms = engine.frame_size * 1000 / engine.sample_rate
    named = {f"{mode.name.lower()}_ms": percentiles(values) for mode, values in taken.items()}
    for mode, values in taken.items():
        named[f"{mode.name.lower()}_ms"]["real_time_factor"] = round(float(np.mean(values)) / frame_ms, 4)
    return named
