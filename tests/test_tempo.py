import numpy as np
import pytest

from streaming.tempo import Tempo
from tests.fakes import tone


def stretched(pcm: np.ndarray, speed: float, chunk: int = 1_920) -> np.ndarray:
    """The whole output for input that comes in chunks."""
    tempo = Tempo(speed)
    out = [tempo.push(pcm[start : start + chunk]) for start in range(0, len(pcm), chunk)]
    return np.concatenate([*out, tempo.flush()])


def pitch_hz(pcm: np.ndarray) -> float:
    """The strongest frequency."""
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    return float(np.argmax(spectrum) * 24_000 / len(pcm))


@pytest.mark.parametrize("speed", [0.25, 0.8, 1.0, 1.3, 1.5])
def test_the_length_changes_and_the_pitch_stays(speed: float) -> None:
    """A tone of 220 Hz stays one, as loud and without holes, and is shorter or longer by exactly the speed."""
    pcm = tone(48_000, 220.0)
    out = stretched(pcm, speed)
    assert len(out) == round(48_000 / speed)
    assert pitch_hz(out) == pytest.approx(220.0, abs=1.5)
    inner = out[: len(out) - 2_400]
    loudness = np.sqrt(np.mean(inner[: len(inner) // 480 * 480].reshape(-1, 480) ** 2, axis=1))
    assert loudness.min() > 0.15
    assert np.abs(np.diff(inner)).max() < 0.05  # no clicks: a sine of this level moves by 0.018


@pytest.mark.parametrize("chunk", [1, 97, 480, 100_000])
def test_cutting_the_input_differently_changes_nothing(chunk: int, rng: np.random.Generator) -> None:
    """Chunked is whole."""
    pcm = rng.uniform(-0.5, 0.5, 6_000).astype(np.float32)
    np.testing.assert_array_equal(stretched(pcm, 1.3, chunk), stretched(pcm, 1.3))


def test_output_follows_soon(rng: np.random.Generator) -> None:
    """Whatever was pushed is out but for the window and the search: less than 60 ms."""
    pcm = rng.uniform(-0.5, 0.5, 24_000).astype(np.float32)
    assert len(Tempo(1.25).push(pcm)) > (24_000 - 1_440) / 1.25


def test_a_flush_starts_afresh() -> None:
    """The second stream through one object is what a new one would make of it."""
    tempo = Tempo(0.7)
    tempo.push(tone(5_000, 300.0))
    tempo.flush()
    again = np.concatenate([tempo.push(tone(9_000)), tempo.flush()])
    np.testing.assert_array_equal(again, stretched(tone(9_000), 0.7, 9_000))


def test_the_shortest_inputs() -> None:
    """Nothing comes of nothing, and a few samples have their length."""
    assert len(stretched(np.zeros(0, np.float32), 1.5)) == 0
    assert len(stretched(tone(30), 0.5)) == 60
    with pytest.raises(ValueError, match="above 0"):
        Tempo(0.0)
