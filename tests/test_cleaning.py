"""Noise reduction that a session asks for, with WebRTC's own suppressor."""

import numpy as np
import pytest

from agent.cleaning import Cleaning, parts
from streaming import realtime_events as events
from streaming.realtime_config import SessionConfig, merge

RATE = 24_000


def asking(kind: str | None) -> events.ConfigureSession:
    wish = None if kind is None else {"type": kind}
    config = merge(SessionConfig(), {"audio": {"input": {"noise_reduction": wish}}}, spoken=False)
    return events.ConfigureSession(config)


def heard(stage: Cleaning, pcm: np.ndarray, chunk: int) -> np.ndarray:
    out = []
    for start in range(0, len(pcm), chunk):
        out += stage.take(events.AppendAudio(pcm[start : start + chunk]))
    out += stage.take(events.CommitAudio())
    return np.concatenate([command.pcm for command in out if isinstance(command, events.AppendAudio)])


@pytest.mark.parametrize("kind", ["near_field", "far_field"])
def test_steady_noise_is_taken_out(kind: str) -> None:
    """After two seconds, steady noise is 10 dB down, and a commit leaves no sample behind."""
    stage = Cleaning()
    assert stage.take(asking(kind)) == [asking(kind)]
    noise = (0.02 * np.random.default_rng(1).standard_normal(4 * RATE + 77)).astype(np.float32)
    cleaned = heard(stage, noise, 441)
    assert len(cleaned) == len(noise)
    late = slice(2 * RATE, 4 * RATE)
    assert np.square(cleaned[late]).mean() < 0.1 * np.square(noise[late]).mean()


def test_chunks_change_nothing() -> None:
    """However the client cuts its audio, the model hears the same."""
    sound = (0.1 * np.random.default_rng(2).standard_normal(RATE)).astype(np.float32)
    outputs = []
    for chunk in (240, 1_000, len(sound)):
        stage = Cleaning()
        stage.take(asking("near_field"))
        outputs.append(heard(stage, sound, chunk))
    assert all(np.array_equal(outputs[0], other) for other in outputs[1:])


def test_without_the_wish_nothing_is_touched() -> None:
    """Not asked for, or taken back: what was sent is what is heard, and what waited comes first."""
    stage = Cleaning()
    sound = np.linspace(-0.5, 0.5, 1_000, dtype=np.float32)
    assert heard(stage, sound, 300) is not None and np.array_equal(heard(stage, sound, 300), sound)
    stage.take(asking("near_field"))
    stage.take(events.AppendAudio(sound[:100]))
    rest, configured = stage.take(asking(None))
    assert isinstance(rest, events.AppendAudio) and np.array_equal(rest.pcm, sound[:100])
    assert configured == asking(None)
    assert np.array_equal(heard(stage, sound, 300), sound)


def test_long_audio_comes_in_parts() -> None:
    """All of it, in order, a second at most; what is no audio is left alone."""
    sound = np.arange(2.5 * RATE, dtype=np.float32)
    found = parts(events.AppendAudio(sound))
    assert [len(part.pcm) for part in found if isinstance(part, events.AppendAudio)] == [RATE, RATE, RATE // 2]
    assert np.array_equal(np.concatenate([part.pcm for part in found if isinstance(part, events.AppendAudio)]), sound)
    assert parts(events.ClearAudio()) == [events.ClearAudio()]
    (empty,) = parts(events.AppendAudio(sound[:0]))
    assert isinstance(empty, events.AppendAudio)
