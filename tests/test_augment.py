from pathlib import Path

import numpy as np
import pytest
import soundfile

from training import augment as module
from training.augment import (
    AugmentConfig,
    AugmentError,
    VaryConfig,
    add_noise,
    add_room,
    augment,
    coloured_noise,
    limit_band,
    load_noises,
    load_rooms,
    make_room,
    speech_level,
    speed_and_formant,
)
from training.tts import SAMPLE_RATE, Utterance
from training.vary import stretch


@pytest.fixture
def speech(rng: np.random.Generator) -> np.ndarray:
    """Two seconds of noise bursts between silences, at -20 dBFS or so."""
    pcm = np.zeros(2 * SAMPLE_RATE, np.float32)
    for start in (6000, 22000, 36000):
        pcm[start : start + 6000] = rng.standard_normal(6000).astype(np.float32) * np.hanning(6000) * 0.2
    return pcm.astype(np.float32)


def _lag(a: np.ndarray, b: np.ndarray) -> int:
    size = 2 * len(a)
    cross = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    best = int(np.argmax(cross))
    return best if best < len(a) else best - size


def test_length_type_and_range_stay(speech: np.ndarray, rng: np.random.Generator) -> None:
    """Whatever is drawn, the result is float32, as long as the input, within [-1, 1], and the input is untouched."""
    before = speech.copy()
    for _ in range(40):
        out = augment(speech, rng)
        assert out.shape == speech.shape
        assert out.dtype == np.float32
        assert np.abs(out).max() <= 1.0
        assert np.isfinite(out).all()
    assert np.array_equal(before, speech)
    assert len(augment(np.zeros(0, np.float32), rng)) == 0
    assert np.abs(augment(np.zeros(4800, np.float32), rng)).max() < 0.5


@pytest.mark.parametrize("only", ["room", "noise", "equaliser", "band", "clipping", "codec"])
def test_nothing_moves_in_time(only: str, speech: np.ndarray, rng: np.random.Generator) -> None:
    """Each transform alone keeps the sound within two samples of where it was."""
    off = dict.fromkeys(("clean", "room", "noise", "equaliser", "band", "clipping", "codec"), 0.0)
    cfg = AugmentConfig(**{**off, only: 1.0}, snr_db=(20.0, 30.0), direct_db=(3.0, 15.0))  # type: ignore[arg-type]
    for _ in range(6):
        assert abs(_lag(augment(speech, rng, cfg=cfg), speech)) <= 2


def test_the_same_seed_gives_the_same_sound(speech: np.ndarray) -> None:
    """All randomness comes from the generator given, and the global ones are left as they were."""
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    for seed in range(8):
        assert np.array_equal(
            augment(speech, np.random.default_rng(seed)), augment(speech, np.random.default_rng(seed))
        )
    assert np.random.random() == expected


def test_noise_has_the_ratio_asked_for(speech: np.ndarray, rng: np.random.Generator) -> None:
    """The ratio is of the level while speaking, whatever the silences."""
    noise = coloured_noise(len(speech), rng, 1.0)
    added = add_noise(speech, noise, 10.0) - speech
    assert 20 * np.log10(speech_level(speech) / np.sqrt(np.mean(added**2))) == pytest.approx(10.0, abs=0.2)


def test_coloured_noise_falls_towards_high_frequencies(rng: np.random.Generator) -> None:
    """Brown noise has far less above 4 kHz than below 1 kHz; white noise has as much per hertz."""
    for exponent, ratio in ((0.0, 1.0), (2.0, 0.01)):
        power = np.abs(np.fft.rfft(coloured_noise(SAMPLE_RATE, rng, exponent))) ** 2
        assert power[4000:8000].mean() / power[100:1000].mean() == pytest.approx(ratio, rel=1.0)


def test_band_limit_removes_what_is_outside(rng: np.random.Generator) -> None:
    """Telephone band: below 200 Hz and above 4 kHz nothing is left."""
    noise = rng.standard_normal(SAMPLE_RATE).astype(np.float32)
    power = np.abs(np.fft.rfft(limit_band(noise, 300.0, 3400.0))) ** 2
    inside = power[500:3000].mean()
    assert power[:200].mean() < 1e-2 * inside
    assert power[4000:].mean() < 1e-2 * inside


def test_rooms_begin_with_the_direct_path(rng: np.random.Generator, speech: np.ndarray) -> None:
    """The synthetic response has its peak at sample 0 and the level of speech is kept."""
    response = make_room(rng, 0.5, 6.0)
    assert int(np.argmax(np.abs(response))) == 0
    assert speech_level(add_room(speech, response)) == pytest.approx(speech_level(speech), rel=0.01)


def test_recorded_rooms_and_noises_are_loaded(tmp_path: Path, rng: np.random.Generator) -> None:
    """Any rate becomes 24 kHz, a late direct path becomes sample 0, unreadable files are left out."""
    response = np.zeros(16000)
    response[800], response[1600] = -0.5, 0.1
    soundfile.write(tmp_path / "a.wav", response, 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    (rooms,) = load_rooms(tmp_path)
    assert rooms[0] == pytest.approx(1.0)
    assert int(np.argmax(np.abs(rooms))) == 0
    assert rooms[1200] == pytest.approx(-0.2, abs=0.03)
    (clip,) = load_noises(tmp_path)
    assert len(clip) == SAMPLE_RATE
    out = augment(rng.standard_normal(SAMPLE_RATE * 3).astype(np.float32) * 0.1, rng, [clip], [rooms])
    assert len(out) == SAMPLE_RATE * 3


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    """The message names the folder."""
    with pytest.raises(AugmentError, match=str(tmp_path)):
        load_noises(tmp_path)
    soundfile.write(tmp_path / "a.wav", np.zeros(100), SAMPLE_RATE)
    with pytest.raises(AugmentError, match="silent"):
        load_rooms(tmp_path)


def test_settings_are_checked() -> None:
    """A probability above one and a reversed range are refused."""
    with pytest.raises(AugmentError, match="noise"):
        AugmentConfig(noise=1.5)
    with pytest.raises(AugmentError, match="snr_db"):
        AugmentConfig(snr_db=(30.0, 0.0))


def _tones(names: str = "ABCD") -> Utterance:
    """Four 200 ms tones of 400, 600, 800, 1,000 Hz."""
    time = np.arange(4800) / SAMPLE_RATE
    pcm = np.concatenate([0.2 * np.sin(2 * np.pi * f * time) for f in (400, 600, 800, 1000)]).astype(np.float32)
    segments = tuple((n, 0.2 * i, 0.2 * (i + 1)) for i, n in enumerate(names))
    return Utterance(pcm, segments, segments)


def _pitch(pcm: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)), 1 << 15))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / (1 << 15)


def test_speed_formant_and_jitter_move_the_times_along(rng: np.random.Generator) -> None:
    """In the middle of every segment the tone is still the one that belongs there, warped by one common factor."""
    for _ in range(5):
        varied = speed_and_formant(_tones(), rng)
        assert varied.phones[-1][2] == pytest.approx(varied.duration_s, abs=1e-4)
        factors = []
        for (_, start, end), frequency in zip(varied.phones, (400, 600, 800, 1000), strict=True):
            middle = round((start + end) / 2 * SAMPLE_RATE)
            factors.append(_pitch(varied.pcm[middle - 1200 : middle + 1200]) / frequency)
        assert max(factors) / min(factors) < 1.05
        assert 0.84 < factors[0] < 1.19
        assert varied.words == varied.phones


def test_speed_alone_keeps_the_pitch(rng: np.random.Generator) -> None:
    """Without warp and jitter a speed of 1.2 shortens to five sixths."""
    varied = speed_and_formant(_tones(), rng, VaryConfig((1.2, 1.2), (1.0, 1.0), 0.0))
    assert varied.duration_s == pytest.approx(0.8 / 1.2, abs=1e-3)
    assert _pitch(varied.pcm[1000:3400]) == pytest.approx(400, rel=0.02)


def test_an_utterance_without_phones_is_stretched_evenly(rng: np.random.Generator) -> None:
    """Recordings without times work too."""
    plain = Utterance(_tones().pcm, (), ())
    varied = speed_and_formant(plain, rng, VaryConfig((0.8, 0.8), (1.0, 1.0), 0.0))
    assert varied.duration_s == pytest.approx(1.0, abs=1e-3)
    assert varied.phones == ()


def test_stretch_by_one_is_the_identity(rng: np.random.Generator) -> None:
    """Overlap-add of unmoved frames returns the input."""
    pcm = rng.standard_normal(12345).astype(np.float32) * 0.1
    ends = np.array([0.0, len(pcm) / SAMPLE_RATE])
    assert np.abs(stretch(pcm, ends, ends, len(pcm)) - pcm).max() < 1e-5


def test_low_bit_adds_little_but_something(speech: np.ndarray, rng: np.random.Generator) -> None:
    """Quantising noise lies between 15 and 60 dB under the speech."""
    for _ in range(6):
        error = module.low_bit(speech, rng) - speech
        ratio = 20 * np.log10(speech_level(speech) / np.sqrt(np.mean(error**2)))
        assert 15 < ratio < 60
