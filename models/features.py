"""Causal analysis of 24 kHz audio, 10 ms hops, numpy only: what the codec encoder sees.

* One 768-point spectrum a hop (32 ms span, 25 ms Hann window) serves both mel banks; its bins are those of a 512-point
  spectrum at 16 kHz, so nothing has to be resampled and nothing above 8 kHz is looked at.
* ``mel32``: the 32 bands (60-3800 Hz) that Google's speech_embedding network was trained on (arXiv 2002.01322).
* ``mel64``: 64 bands up to 8 kHz for the acoustic codes.
* ``pitch``: log-F0, voicing strength and log energy from a normalised cross-correlation (Talkin, RAPT, 1995).
* Streaming state is the tail of past samples; any chunking into whole hops gives the same numbers.
"""

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 24_000
FRAME_RATE_HZ = 12.5
HOP = 240  # 10 ms
HOPS_PER_FRAME = 8
FRAME_SIZE = HOP * HOPS_PER_FRAME  # 80 ms
FFT_SIZE = 768  # 31.25 Hz bins
WINDOW = 600  # 25 ms
N_BINS = 257  # up to 8 kHz
N_MEL_LOW, N_MEL = 32, 64
HISTORY = 1024 - HOP  # past samples a hop looks back at
F0_MIN_HZ, F0_MAX_HZ = 60.0, 400.0
F0_REF_HZ = 120.0
VOICED_STRENGTH = 0.55


@dataclass(frozen=True, slots=True)
class Features:
    """Analysis of T hops. mel32 [T, 32] (bels of int16 power + 2), mel64 [T, 64] (bels), pitch [T, 3]."""

    mel32: np.ndarray
    mel64: np.ndarray
    pitch: np.ndarray  # octaves above F0_REF_HZ, voicing strength in [0, 1], log10 energy


def _slaney_mel(hz: np.ndarray) -> np.ndarray:
    linear = hz * 3.0 / 200.0
    return np.where(hz < 1000.0, linear, 15.0 + np.log(np.maximum(hz, 1e-3) / 1000.0) * 27.0 / np.log(6.4))


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


def mel_bank(n_mels: int, low_hz: float, high_hz: float, n_bins: int = N_BINS, bin_hz: float = 31.25) -> np.ndarray:
    """Area-normalised triangular filters on the Slaney scale, float32 [n_bins, n_mels]."""
    edges = _slaney_hz(np.linspace(_slaney_mel(np.array(low_hz)), _slaney_mel(np.array(high_hz)), n_mels + 2))
    bins = np.arange(n_bins)[:, None] * bin_hz
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return (np.clip(np.minimum(rising, falling), 0.0, None) * 2.0 / (edges[2:] - edges[:-2])).astype(np.float32)


_HANN = np.pad(np.hanning(WINDOW + 1)[:-1], (FFT_SIZE - WINDOW) // 2).astype(np.float32)
_BANK32 = mel_bank(N_MEL_LOW, 60.0, 3800.0)
_BANK64 = mel_bank(N_MEL, 40.0, 8000.0)
_POWER_SCALE = (400.0 / WINDOW) ** 2  # a 25 ms window has 400 samples at 16 kHz: same power as there


def new_history() -> np.ndarray:
    """The streaming state: float32 [HISTORY] of past samples, silence at the start."""
    return np.zeros(HISTORY, np.float32)


def analyse(pcm: np.ndarray, history: np.ndarray) -> Features:
    """Analyse whole hops of audio; ``history`` is advanced in place.

    Args:
        pcm: float32 [T * HOP] in [-1, 1].
        history: state from :func:`new_history`.

    Raises:
        ValueError: the length is not a positive multiple of HOP.
    """
    spans = _spans(pcm, history)
    power = _power(spans)
    mel64 = np.log10(power @ _BANK64 + 1e-7).astype(np.float32)
    return Features(_mel32(power), mel64, _pitch(spans))


def analyse_mel32(pcm: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Only ``mel32`` of :func:`analyse`, float32 [T, 32]: what the semantic encoder needs.

    Raises:
        ValueError: the length is not a positive multiple of HOP.
    """
    return _mel32(_power(_spans(pcm, history)))


def _spans(pcm: np.ndarray, history: np.ndarray) -> np.ndarray:
    """The last 1024 samples at every hop, [T, 1024]; advances ``history``."""
    if pcm.ndim != 1 or pcm.size == 0 or pcm.size % HOP:
        raise ValueError(f"expected mono audio of whole {HOP}-sample hops, got shape {pcm.shape}")
    audio = np.concatenate([history, pcm.astype(np.float32, copy=False)])
    history[:] = audio[-HISTORY:]
    return np.lib.stride_tricks.sliding_window_view(audio, HISTORY + HOP)[::HOP]


def _power(spans: np.ndarray) -> np.ndarray:
    """Power spectrum up to 8 kHz, float32 [T, N_BINS]."""
    spectra = np.fft.rfft(spans[:, -FFT_SIZE:] * _HANN, axis=1)[:, :N_BINS]
    return (spectra.real**2 + spectra.imag**2).astype(np.float32) * np.float32(_POWER_SCALE)


def _mel32(power: np.ndarray) -> np.ndarray:
    return (np.log10(np.maximum(power @ _BANK32 * np.float32(32768.0**2), 1.0)) + 2.0).astype(np.float32)


def mel32_filters() -> tuple[np.ndarray, np.ndarray]:
    """Window [FFT_SIZE] and weights of the power spectrum [N_BINS, 32] that ``mel32`` is the logarithm of, plus two."""
    return _HANN, (_BANK32 * np.float32(_POWER_SCALE * 32768.0**2)).astype(np.float32)


def _pitch(spans: np.ndarray) -> np.ndarray:
    """Log-F0, voicing and energy of [T, 1024] spans -> float32 [T, 3]."""
    rate = SAMPLE_RATE / 2
    x = spans.reshape(len(spans), -1, 2).mean(axis=2)  # [T, 512] at 12 kHz
    x = x - x.mean(axis=1, keepdims=True)
    low, high = int(rate / F0_MAX_HZ), int(rate / F0_MIN_HZ)  # lags 30 .. 200
    width = x.shape[1] - high - 1
    recent = x[:, -width:]
    size = 1024
    cross = np.fft.irfft(np.fft.rfft(x, size) * np.conj(np.fft.rfft(recent, size)), size)[:, : high + 2]
    lagged = cross[:, ::-1]  # column i is lag i
    square = np.cumsum(np.pad(x.astype(np.float64) ** 2, ((0, 0), (1, 0))), axis=1)
    starts = np.arange(high + 1, -1, -1)
    energy = square[:, starts + width] - square[:, starts]  # [T, lags]
    strength = lagged / np.sqrt(np.maximum(energy[:, :1] * energy, 1e-9))
    score = strength[:, low : high + 1] - 0.0008 * np.arange(low, high + 1)  # prefer the shorter period
    best = np.argmax(score, axis=1) + low
    rows = np.arange(len(x))
    left, mid, right = strength[rows, best - 1], strength[rows, best], strength[rows, best + 1]
    bend = left - 2 * mid + right
    shift = np.where(np.abs(bend) > 1e-6, 0.5 * (left - right) / np.where(np.abs(bend) > 1e-6, bend, 1.0), 0.0)
    f0 = rate / (best + np.clip(shift, -0.5, 0.5))
    level = np.log10(np.mean(spans[:, -2 * HOP :] ** 2, axis=1) + 1e-7)
    return np.stack([np.log2(f0 / F0_REF_HZ), np.clip(mid, 0.0, 1.0), level], axis=1).astype(np.float32)
