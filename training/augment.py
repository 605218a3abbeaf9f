"""Makes clean synthetic speech sound like rooms, microphones and channels, without moving it in time.

- :func:`augment` keeps length and alignment: filters are zero-phase or minimum-phase, rooms start at the direct path.
- :func:`speed_and_formant` changes speed and speaker size, which moves the times; it returns the new ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import audiomentations
import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import soxr

from training.vary import VaryConfig as VaryConfig
from training.vary import speed_and_formant as speed_and_formant

SAMPLE_RATE = 24000
MAX_RIR_S = 1.0
MAX_BANK_S = 3600.0
_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3"))

Array = np.ndarray


class AugmentError(ValueError):
    """A noise or room folder holds nothing usable, or a setting is out of range."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Probabilities and ranges; each is drawn uniformly from its range."""

    clean: float = 0.1
    """Share of calls in which only the gain changes."""
    room: float = 0.45
    recorded_room: float = 0.5
    """Share of rooms taken from recorded responses, when there are any."""
    rt60_s: tuple[float, float] = (0.12, 0.8)
    direct_db: tuple[float, float] = (-3.0, 15.0)
    """Direct sound over reverberation."""
    noise: float = 0.7
    recorded_noise: float = 0.6
    snr_db: tuple[float, float] = (0.0, 30.0)
    equaliser: float = 0.5
    equaliser_db: float = 8.0
    band: float = 0.35
    clipping: float = 0.1
    codec: float = 0.15
    gain_db: tuple[float, float] = (-24.0, 6.0)

    def __post_init__(self) -> None:
        for name in (
            "clean",
            "room",
            "recorded_room",
            "noise",
            "recorded_noise",
            "equaliser",
            "band",
            "clipping",
            "codec",
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise AugmentError(f"{name} is a probability, not {getattr(self, name)}")
        for name in ("rt60_s", "direct_db", "snr_db", "gain_db"):
            low, high = getattr(self, name)
            if low > high:
                raise AugmentError(f"{name}: {low} is above {high}")


def augment(
    pcm: Array,
    rng: np.random.Generator,
    noises: Sequence[Array] = (),
    rooms: Sequence[Array] = (),
    cfg: AugmentConfig | None = None,
) -> Array:
    """Passes speech through one random room, noise, microphone and channel.

    Args:
        pcm: float32 [samples] at 24 kHz; not changed.
        rng: source of all randomness.
        noises: recorded noise, float32 at 24 kHz; coloured noise is made where there is none.
        rooms: impulse responses as :func:`load_rooms` gives them; made where there are none.
        cfg: probabilities and ranges.

    Returns:
        float32 of the same length, aligned to the sample with the input, within [-1, 1].
    """
    cfg = cfg or AugmentConfig()
    out = np.array(pcm, dtype=np.float32)
    if not len(out):
        return out
    if rng.random() >= cfg.clean:
        if rng.random() < cfg.room:
            out = add_room(out, _pick_room(rng, rooms, cfg))
        if rng.random() < cfg.noise:
            out = add_noise(out, _pick_noise(rng, noises, len(out), cfg), rng.uniform(*cfg.snr_db))
        if rng.random() < cfg.equaliser:
            out = equalise(out, rng, cfg.equaliser_db)
        if rng.random() < cfg.clipping:
            out = clip_distort(out, rng)
        if rng.random() < cfg.codec:
            out = low_bit(out, rng)
        if rng.random() < cfg.band:
            low, high = ((300.0, 3400.0), (60.0, 3800.0), (50.0, 7600.0), (150.0, 7000.0))[int(rng.integers(4))]
            out = limit_band(out, low, high)
    out *= np.float32(10 ** (rng.uniform(*cfg.gain_db) / 20))
    return np.clip(out, -1.0, 1.0, out=out)


def speech_level(pcm: Array) -> float:
    """RMS over the 20 ms frames that lie within 30 dB of the loudest one; 0 for silence."""
    frames = len(pcm) // 480
    if not frames:
        return float(np.sqrt(np.mean(np.square(pcm)))) if len(pcm) else 0.0
    power = np.square(pcm[: frames * 480]).reshape(frames, 480).mean(axis=1)
    return float(np.sqrt(power[power >= power.max() * 1e-3].mean()))


def add_noise(pcm: Array, noise: Array, snr_db: float) -> Array:
    """Adds noise (as long as ``pcm``) at this ratio of speech level to mean noise level."""
    level, noise_rms = speech_level(pcm), float(np.sqrt(np.mean(np.square(noise))))
    if level < 1e-6 or noise_rms < 1e-9:
        return pcm
    return pcm + noise * np.float32(level / noise_rms * 10 ** (-snr_db / 20))


def coloured_noise(length: int, rng: np.random.Generator, exponent: float) -> Array:
    """Noise with power falling as 1/f**exponent (0 white, 1 pink, 2 brown), slowly changing in level."""
    size = scipy.fft.next_fast_len(max(length, 256), real=True)
    frequency = np.maximum(scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE), 30.0).astype(np.float32)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    noise = scipy.fft.irfft(spectrum * frequency ** np.float32(-exponent / 2), size)[:length]
    points = max(2, length // SAMPLE_RATE + 2)
    level = np.interp(np.arange(0, length, 240), np.linspace(0, length, points), rng.uniform(0.5, 1.5, points))
    return (noise * np.repeat(level.astype(np.float32), 240)[:length]).astype(np.float32)


def _pick_noise(rng: np.random.Generator, noises: Sequence[Array], length: int, cfg: AugmentConfig) -> Array:
    if not len(noises) or rng.random() >= cfg.recorded_noise:
        return coloured_noise(length, rng, rng.uniform(0.0, 2.0))
    clip = noises[int(rng.integers(len(noises)))]
    start = int(rng.integers(len(clip)))
    return np.take(clip, np.arange(start, start + length), mode="wrap")


def make_room(rng: np.random.Generator, rt60_s: float, direct_db: float) -> Array:
    """An impulse response: the direct path at sample 0, then exponentially decaying, darkening noise."""
    length = int(min(rt60_s, MAX_RIR_S) * SAMPLE_RATE)
    delay = int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / (rt60_s * SAMPLE_RATE))
    tail = scipy.signal.lfilter([1 - (pole := rng.uniform(0.2, 0.75))], [1, -pole], tail)
    tail[:delay] = 0.0
    tail *= 10 ** (-direct_db / 20) / (np.sqrt(np.sum(np.square(tail))) + 1e-9)
    tail[0] = 1.0
    return tail.astype(np.float32)


def _pick_room(rng: np.random.Generator, rooms: Sequence[Array], cfg: AugmentConfig) -> Array:
    if len(rooms) and rng.random() < cfg.recorded_room:
        return rooms[int(rng.integers(len(rooms)))]
    return make_room(rng, rng.uniform(*cfg.rt60_s), rng.uniform(*cfg.direct_db))


def add_room(pcm: Array, response: Array) -> Array:
    """Convolves with an impulse response whose direct path is its sample 0; keeps length and level."""
    wet = scipy.signal.oaconvolve(pcm, response)[: len(pcm)].astype(np.float32)
    before, after = speech_level(pcm), speech_level(wet)
    return wet * np.float32(before / after) if after > 1e-9 else wet


def limit_band(pcm: Array, low_hz: float, high_hz: float) -> Array:
    """Zero-phase band limit with gentle edges (a tenth of the corner frequencies)."""
    size = scipy.fft.next_fast_len(len(pcm) + 2400, real=True)
    frequency = scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = np.interp(frequency, [low_hz * 0.8, low_hz * 1.1, high_hz * 0.95, high_hz * 1.1], [0.0, 1.0, 1.0, 0.0])
    return scipy.fft.irfft(scipy.fft.rfft(pcm, size) * gain.astype(np.float32), size)[: len(pcm)].astype(np.float32)


def low_bit(pcm: Array, rng: np.random.Generator) -> Array:
    """Companded 8-bit telephony, or 6 to 10 linear bits."""
    peak = np.float32(np.abs(pcm).max() + 1e-6)
    if rng.random() < 0.5:
        with _seeded(rng):
            return _bit_crush()(pcm / peak, sample_rate=SAMPLE_RATE).astype(np.float32) * peak
    companded = np.log1p(255.0 * np.abs(pcm / peak)) / np.log(256.0)
    steps = np.round(companded * 127.0) / 127.0
    return (np.sign(pcm) * (np.power(np.float32(256.0), steps) - 1.0) / 255.0 * peak).astype(np.float32)


def equalise(pcm: Array, rng: np.random.Generator, most_db: float) -> Array:
    """A seven-band microphone colouring, up to ``most_db`` either way per band."""
    with _seeded(rng):
        transform = audiomentations.SevenBandParametricEQ(-most_db, most_db, p=1.0)
        return np.asarray(transform(pcm, sample_rate=SAMPLE_RATE), dtype=np.float32)


def clip_distort(pcm: Array, rng: np.random.Generator) -> Array:
    """Clips at a low share of the peak, as an overdriven input does."""
    limit = np.float32(speech_level(pcm) * rng.uniform(0.8, 2.5))
    return np.clip(pcm, -limit, limit) if limit > 0 else pcm


def _bit_crush() -> Callable[..., Array]:
    transform: Callable[..., Array] = audiomentations.BitCrush(min_bit_depth=6, max_bit_depth=10, p=1.0)
    return transform


@contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    """Lets a library that draws from the global generators draw from ``rng``; restores both afterwards."""
    seed = int(rng.integers(1 << 31))
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def load_noises(folder: Path, max_total_s: float = MAX_BANK_S) -> tuple[Array, ...]:
    """Reads all recordings under a folder, as mono at 24 kHz, in name order, up to ``max_total_s`` in all.

    Raises:
        AugmentError: none is readable.
    """
    bank: list[Array] = []
    total = 0
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES):
        if total >= max_total_s * SAMPLE_RATE:
            break
        clip = _read(path)
        if clip is not None and len(clip):
            bank.append(clip)
            total += len(clip)
    if not bank:
        raise AugmentError(f"{folder}: no readable recording")
    return tuple(bank)


def load_rooms(folder: Path) -> tuple[Array, ...]:
    """Reads impulse responses; each is cut to start at its direct path, to last 1 s at most, and scaled to it.

    Raises:
        AugmentError: none is readable.
    """
    rooms = []
    for response in load_noises(folder):
        direct = int(np.argmax(np.abs(response)))
        if response[direct] != 0:
            rooms.append(response[direct : direct + int(MAX_RIR_S * SAMPLE_RATE)] / response[direct])
    if not rooms:
        raise AugmentError(f"{folder}: every impulse response is silent")
    return tuple(rooms)


def _read(path: Path) -> Array | None:
    try:
        pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError):
        return None
    mono = pcm[:, 0]
    return np.asarray(mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE), dtype=np.float32)
