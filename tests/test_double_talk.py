import functools

import numpy as np
import pytest

from streaming.double_talk import DoubleTalk
from streaming.playout import Playout
from tests.test_echo import RATE, echo_of
from training.tts import synthesise

FRAME = RATE // 100
SENTENCES = (
    "okay a large latte with some milk and two sugars anything else",
    "you ordered a small mocha and a double shot espresso is that right",
    "i can only help with coffee what would you like to drink today",
    "great your order is coming right up have a very nice day",
)


@functools.cache
def _speech(voice: str) -> np.ndarray:
    """Half a minute of sentences with half a second between, and a little noise under them: float32 [n]."""
    pause = np.zeros(RATE // 2, np.float32)
    said = [part for text in SENTENCES * 2 for part in (synthesise(text, voice).pcm, pause)]
    return np.concatenate(said)[: 28 * RATE]


def _room(played: np.ndarray, delay_ms: int) -> np.ndarray:
    """What comes back of it, with the noise of a quiet room."""
    hiss = np.random.default_rng(3).normal(0.0, 10 ** (-65 / 20), len(played))
    return (echo_of(played, delay_ms) + hiss).astype(np.float32)


def _spoken_over(played: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Of every 10 ms, whether somebody is taken to speak."""
    detector = DoubleTalk()
    frames = (pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME) for pcm in (played, heard))
    return np.array([detector.somebody_speaks(*pair) for pair in zip(*frames, strict=True)])


@pytest.mark.parametrize("delay_ms", [30, 150])
def test_an_echo_alone_is_nobody(delay_ms: int) -> None:
    """Nothing is found in half a minute of echo, nor in what it leaves when the speaker is silent."""
    played = _speech("flite:slt")
    assert not _spoken_over(played, _room(played, delay_ms)).any()


@pytest.mark.parametrize("delay_ms", [30, 150])
def test_somebody_over_an_echo_is_found_at_once(delay_ms: int) -> None:
    """About as loud as the echo: mostly within 150 ms, always within half a second; soon after they stop it is over."""
    played = _speech("flite:slt")
    user = synthesise("no wait i would rather have", "flite:rms").pcm[RATE // 20 :] * np.float32(0.6)
    waits = []
    for second in (18, 20, 21, 22, 23):
        begins, heard = second * RATE, _room(played, delay_ms)
        heard[begins : begins + len(user)] += user
        found = _spoken_over(played, heard)
        assert not found[: begins // FRAME].any()
        assert found[(begins + len(user) + RATE) // FRAME :].mean() < 0.2  # a duck or none
        waits.append(int(np.argmax(found[begins // FRAME :])) * 10)
        assert found[begins // FRAME :][:50].any()
    assert np.median(waits) <= 150


def test_at_first_nobody_is_believed() -> None:
    """Until it knows the room, anything might be echo."""
    played, user = _speech("flite:slt")[: 2 * RATE], _speech("flite:rms")[: 2 * RATE]
    assert not _spoken_over(played, _room(played, 60) + user).any()


def test_with_headphones_nobody_is_made_up() -> None:
    """Of what is played nothing is heard, only the room."""
    assert not _spoken_over(_speech("flite:slt"), _room(np.zeros_like(_speech("flite:slt")), 0)).any()


def test_a_ducked_playout_loses_nothing() -> None:
    """It fades out, is silent, and goes on with the very next sample; held meanwhile, it stays silent."""
    playout = Playout()
    ramp = np.linspace(0.1, 0.9, 4_800, dtype=np.float32)
    assert playout.push(ramp, 0)
    np.testing.assert_array_equal(playout.pull(1_000), ramp[:1_000])
    playout.duck(True)
    silent = playout.pull(2_000)
    assert 0.0 < abs(silent[0]) < 0.4
    assert not silent[200:].any()
    playout.hold()
    playout.duck(False)
    assert not playout.pull(500).any()
    playout.resume()
    after = playout.pull(1_000)
    np.testing.assert_allclose(after[200:], ramp[1_200:2_000])
    assert abs(after[0]) < 0.01
    assert playout.underruns == 0
