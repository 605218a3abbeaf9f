import numpy as np
import pytest

from tests.tiny import speech_like
from training.codec_metrics import (
    METRICS,
    RATE_HZ,
    advance,
    aligned_distortion,
    common_delay,
    mel_distance,
    perplexity,
)

SPEECH = speech_like(3.0)  # its rate matters to none of these


def _noisy(level: float) -> np.ndarray:
    return (SPEECH + level * np.random.default_rng(1).standard_normal(len(SPEECH))).astype(np.float32)


def _pulses(f0_hz: float) -> np.ndarray:
    time = np.arange(2 * RATE_HZ) / RATE_HZ
    return sum(np.sin(2 * np.pi * f0_hz * n * time) / n for n in range(1, 9)).astype(np.float32) * 0.2  # type: ignore[union-attr]


@pytest.mark.parametrize("name", METRICS)
def test_measures_order_what_is_better(name: str) -> None:
    """A perfect copy scores best, a little noise worse, much noise worst."""
    if not METRICS[name].available:
        pytest.skip(f"{METRICS[name].package} is not installed")
    perfect, close, far = (METRICS[name].measure(SPEECH, made) for made in (SPEECH, _noisy(0.003), _noisy(0.1)))
    assert perfect is not None and close is not None
    if name in ("pesq_wb", "stoi", "estoi"):
        assert perfect > close > (far or 0.0)
        assert perfect == pytest.approx(4.64 if name == "pesq_wb" else 1.0, abs=0.01)
    else:
        assert perfect == pytest.approx(0.0, abs=1e-9)
        if name not in ("f0_semitones", "voicing_percent"):
            assert far is not None and perfect < close < far


@pytest.mark.parametrize("name", METRICS)
def test_silence_is_no_crash(name: str) -> None:
    """Where a measure says nothing it is None; a number is finite."""
    if not METRICS[name].available:
        pytest.skip(f"{METRICS[name].package} is not installed")
    value = METRICS[name].measure(np.zeros(RATE_HZ, np.float32), np.zeros(RATE_HZ, np.float32))
    assert value is None or np.isfinite(value)


def test_level_is_a_distance_but_no_distortion() -> None:
    """Half as loud is 6 dB of mel distance, less where the floor is near, and the same shape of spectrum."""
    distance = mel_distance(SPEECH, 0.5 * SPEECH)
    assert distance is not None and 2.0 < distance <= 6.03
    loud = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32)
    assert mel_distance(loud, 0.5 * loud) == pytest.approx(6.02, abs=0.05)
    assert METRICS["mcd_db"].measure(loud, 0.5 * loud) == pytest.approx(0.0, abs=1e-6)


def test_distortion_is_the_difference_of_envelopes() -> None:
    """A spectral tilt that the first cepstral coefficient describes counts its root mean square in dB."""
    noise = np.random.default_rng(0).standard_normal(4 * RATE_HZ)
    spectrum = np.fft.rfft(noise)
    hz = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
    mel = np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1) / 1000) * 27 / np.log(6.4))
    tilt_db = 6.0 * np.cos(np.pi * mel / mel[-1])  # 6 dB up at the bottom, 6 dB down at the top
    tilted = np.fft.irfft(spectrum * 10 ** (tilt_db / 20))
    assert METRICS["mcd_db"].measure(noise, tilted) == pytest.approx(6.0 / np.sqrt(2), rel=0.1)


def test_pitch_is_measured_in_semitones_where_both_have_voice() -> None:
    """A tone one semitone higher is one semitone off; half of it missing is a voicing error of a half."""
    pytest.importorskip("parselmouth")
    low, high = _pulses(120.0), _pulses(120.0 * 2 ** (1 / 12))
    assert METRICS["f0_semitones"].measure(low, high) == pytest.approx(1.0, abs=0.05)
    assert METRICS["voicing_percent"].measure(low, high) == 0.0
    half = np.where(np.arange(len(low)) < RATE_HZ, low, 0).astype(np.float32)
    assert METRICS["voicing_percent"].measure(low, half) == pytest.approx(50.0, abs=4.0)
    assert METRICS["f0_semitones"].measure(low, half) == pytest.approx(0.0, abs=0.3)
    assert METRICS["f0_semitones"].measure(low, np.zeros_like(low)) is None


def test_perplexity_counts_values_in_use() -> None:
    """Eight values equally often are eight; one value is one; a rare second value adds little."""
    assert perplexity(np.arange(800) % 8) == pytest.approx(8.0)
    assert perplexity(np.full(5, 3)) == 1.0
    assert 1.0 < perplexity(np.array([1] * 99 + [2])) < 1.1


@pytest.mark.parametrize("delay_s", [0.0, 0.023, -0.012])
def test_delay_is_found_whatever_the_phase(delay_s: float) -> None:
    """The delay that all clips share is found, also when the samples are turned over; it is then taken away."""
    delay = round(delay_s * RATE_HZ)
    true = [speech_like(2.0, seed) for seed in range(3)]
    made = [-advance(pcm, -delay, len(pcm)) for pcm in true]
    assert common_delay(true, made) == pytest.approx(delay_s, abs=0.0011)
    restored = -advance(made[0], delay, len(made[0]))
    inner = slice(abs(delay), -abs(delay) or None)
    np.testing.assert_array_equal(restored[inner], true[0][inner])


def test_advanced_clips_keep_their_length() -> None:
    """What is missing at the end is silence; what is too long is cut."""
    np.testing.assert_array_equal(advance(np.arange(5), 2, 5), [2, 3, 4, 0, 0])
    np.testing.assert_array_equal(advance(np.arange(5), -2, 5), [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(advance(np.arange(9), 1, 3), [1, 2, 3])
    np.testing.assert_array_equal(advance(np.arange(2), 5, 3), [0, 0, 0])


def test_distortion_along_a_path_does_not_mind_the_timing() -> None:
    """Stretched sound is near its original, unlike with frames in step; other sound is far; more noise is farther."""
    stretched = np.repeat(SPEECH.reshape(-1, 480), 2, axis=0)[: len(SPEECH) // 480 + 40].ravel()
    near = aligned_distortion(SPEECH, stretched)
    assert aligned_distortion(SPEECH, SPEECH) == pytest.approx(0.0, abs=1e-9)
    same_length = np.pad(stretched, (0, max(0, len(SPEECH) - len(stretched))))[: len(SPEECH)]
    in_step = METRICS["mcd_db"].measure(SPEECH, same_length)
    close, far = aligned_distortion(SPEECH, _noisy(0.003)), aligned_distortion(SPEECH, _noisy(0.1))
    assert near is not None and in_step is not None and close is not None and far is not None
    assert near < 0.7 * in_step
    assert 0.0 < close < far
