"""How far a decoded clip is from the original, on aligned pairs of mono audio at 16 kHz.

Each measure takes the original and the decoded clip, float [N] each, and returns a number, or None where it says
nothing (too short, no speech). Libraries that only measuring needs are the extra ``measure``; they are optional.
"""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from pystoi import stoi

from models.features import mel_bank

RATE_HZ = 16_000
RESOLUTIONS = (256, 512, 1024, 2048)  # samples; hop a quarter
FLOOR_DB = -60.0  # below the original's loudest band; what is quieter counts as silence
SPEECH_DB = -40.0  # below the original's loudest frame; quieter frames have no cepstral distortion
CEPSTRA = 24
PITCH_STEP_S, PITCH_LOW_HZ, PITCH_HIGH_HZ = 0.01, 60.0, 500.0
MAX_DELAY_S, DELAY_STEP_S = 0.1, 0.001


@dataclass(frozen=True, slots=True)
class Metric:
    """One measure: how it is called in tables, the package it needs, and the function."""

    label: str
    package: str
    measure: Callable[[np.ndarray, np.ndarray], float | None]

    @property
    def available(self) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(self.package) is not None


def pesq_wideband(true: np.ndarray, made: np.ndarray) -> float | None:
    """PESQ-WB (ITU-T P.862.2), 1.04 to 4.64."""
    import pesq

    if not (true.any() and made.any()):
        return None
    try:
        return float(pesq.pesq(RATE_HZ, true.astype(np.float32), made.astype(np.float32), "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError):
        return None


def intelligibility(true: np.ndarray, made: np.ndarray, extended: bool = False) -> float | None:
    """STOI, or ESTOI: short-time objective intelligibility, at most 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(true, made, RATE_HZ, extended=extended))
        except RuntimeWarning:  # fewer than 30 frames of speech
            return None


def _log_mels(pcm: np.ndarray, size: int, bands: int, hop: int | None = None) -> np.ndarray:
    """Mel power in dB, [T, bands]: windows of ``size`` samples, ``hop`` (a quarter of them by default) apart."""
    padded = np.pad(pcm, size // 2)
    spans = np.lib.stride_tricks.sliding_window_view(padded, size)[:: hop or size // 4]
    spectra = np.fft.rfft(spans * np.hanning(size), axis=1)
    power = (np.abs(spectra) ** 2) @ mel_bank(bands, 0.0, RATE_HZ / 2, size // 2 + 1, RATE_HZ / size)
    return np.asarray(10.0 * np.log10(power + 1e-12))


def mel_distance(true: np.ndarray, made: np.ndarray) -> float | None:
    """Mean difference of log-mel spectra over several resolutions, dB."""
    errors = []
    for size in RESOLUTIONS:
        first, second = (_log_mels(pcm, size, 80 * size // 1024) for pcm in (true, made))
        floor = first.max() + FLOOR_DB
        errors.append(np.abs(np.maximum(first, floor) - np.maximum(second, floor)).mean())
    return float(np.mean(errors))


def cepstral_distortion(true: np.ndarray, made: np.ndarray) -> float | None:
    """Mel-cepstral distortion (Kubichek, 1993) of 24 coefficients over frames with speech, dB; frames correspond."""
    first, second = (_log_mels(pcm, 512, 40) for pcm in (true, made))
    level = 10.0 * np.log10((10.0 ** (first / 10.0)).sum(axis=1))
    speech = level > level.max() + SPEECH_DB
    floor = first.max() + FLOOR_DB
    nepers = (np.maximum(first, floor) - np.maximum(second, floor))[speech] * (np.log(10.0) / 20.0)
    cepstra = scipy.fft.dct(nepers, axis=1)[:, 1 : CEPSTRA + 1] / nepers.shape[1]
    return float((10.0 / np.log(10.0) * np.sqrt(2.0 * np.square(cepstra).sum(axis=1))).mean())


def aligned_distortion(true: np.ndarray, made: np.ndarray) -> float | None:
    """As :func:`cepstral_distortion` for clips of other timing: along the cheapest path through both, dB.

    Dynamic time warping (Sakoe and Chiba, 1978) over the frames with speech; the mean over the path's steps.
    """
    first, second = (_speech_cepstra(pcm) for pcm in (true, made))
    if not (len(first) and len(second)):
        return None
    away = np.sqrt(np.maximum(((first[:, None] - second[None]) ** 2).sum(axis=2), 0.0))
    rows, columns = away.shape
    cost, steps = np.full(columns + 1, np.inf), np.zeros(columns + 1, int)
    cost[0] = 0.0
    for row in range(rows):
        before, counted = cost.tolist(), steps.tolist()
        here, taken = [np.inf], [0]
        for column, local in enumerate(away[row].tolist()):
            diagonal, up, left = before[column], before[column + 1], here[-1]
            if diagonal <= up and diagonal <= left:
                best, length = diagonal, counted[column]
            elif up <= left:
                best, length = up, counted[column + 1]
            else:
                best, length = left, taken[-1]
            here.append(best + local)
            taken.append(length + 1)
        cost, steps = np.array(here), np.array(taken)
    return float(10.0 / np.log(10.0) * np.sqrt(2.0) * cost[-1] / steps[-1])


def _speech_cepstra(pcm: np.ndarray) -> np.ndarray:
    """24 mel cepstra, without the level, of the frames with speech every 16 ms, [T, 24]."""
    mels = _log_mels(pcm, 512, 40, 256)
    level = 10.0 * np.log10((10.0 ** (mels / 10.0)).sum(axis=1))
    nepers = np.maximum(mels, mels.max() + FLOOR_DB)[level > level.max() + SPEECH_DB] * (np.log(10.0) / 20.0)
    return np.asarray(scipy.fft.dct(nepers, axis=1)[:, 1 : CEPSTRA + 1] / mels.shape[1])


def _pitch_hz(pcm: np.ndarray) -> np.ndarray:
    """Praat's F0 every 10 ms, 0 where there is no voice."""
    import parselmouth

    sound = parselmouth.Sound(pcm.astype(np.float64), RATE_HZ)
    pitch = sound.to_pitch_ac(time_step=PITCH_STEP_S, pitch_floor=PITCH_LOW_HZ, pitch_ceiling=PITCH_HIGH_HZ)
    return np.asarray(pitch.selected_array["frequency"])


def pitch_error(true: np.ndarray, made: np.ndarray) -> float | None:
    """Root mean square F0 error over frames with voice in both, semitones."""
    first, second = _pitch_hz(true), _pitch_hz(made)
    both = (first > 0) & (second > 0)
    if not both.any():
        return None
    return float(np.sqrt(np.mean(np.square(12.0 * np.log2(second[both] / first[both])))))


def voicing_error(true: np.ndarray, made: np.ndarray) -> float | None:
    """Frames that have voice in only one of the two, percent of all."""
    return float(100.0 * np.mean((_pitch_hz(true) > 0) != (_pitch_hz(made) > 0)))


METRICS = {
    "pesq_wb": Metric("PESQ-WB", "pesq", pesq_wideband),
    "stoi": Metric("STOI", "pystoi", intelligibility),
    "estoi": Metric("ESTOI", "pystoi", lambda true, made: intelligibility(true, made, extended=True)),
    "mel_db": Metric("mel distance, dB", "numpy", mel_distance),
    "mcd_db": Metric("mel-cepstral distortion, dB", "scipy", cepstral_distortion),
    "f0_semitones": Metric("log-F0 RMSE, semitones", "parselmouth", pitch_error),
    "voicing_percent": Metric("voicing error, %", "parselmouth", voicing_error),
}


def opinions(pcm: np.ndarray) -> dict[str, float]:
    """What people would think of a clip at 16 kHz, 1 to 5: P.808 and overall (DNSMOS, Reddy et al., arXiv 2110.01763).

    Raises:
        ImportError: the package ``speechmos`` is missing.
    """
    from speechmos import dnsmos

    found = dnsmos.run(pcm / max(1.0, float(np.abs(pcm).max())), sr=RATE_HZ)
    return {"p808": float(found["p808_mos"]), "overall": float(found["ovrl_mos"])}


def perplexity(codes: np.ndarray) -> float:
    """How many values of a code are in use, evenly counted: 2 to the entropy of the values in int [N]."""
    counts = np.unique(codes, return_counts=True)[1]
    share = counts / counts.sum()
    return float(2.0 ** -(share * np.log2(share)).sum())


def common_delay(true: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> float:
    """The fixed delay of a codec in seconds: where the band levels of all its clips correlate best, within 100 ms.

    Levels, unlike samples, are the same for a codec that makes its own phases. They are taken every millisecond.
    """
    reach = round(MAX_DELAY_S / DELAY_STEP_S)
    total = np.zeros(2 * reach + 1)
    for first, second in zip(true, made, strict=True):
        tracks = [_log_mels(pcm, 512, 20, round(DELAY_STEP_S * RATE_HZ)) for pcm in (first, second)]
        tracks = [np.maximum(track, track.max() + FLOOR_DB) for track in tracks]
        size = scipy.fft.next_fast_len(sum(len(track) for track in tracks), real=True)
        before, after = (np.fft.rfft(track - track.mean(axis=0), size, axis=0) for track in tracks)
        cross = np.fft.irfft((np.conj(before) * after).sum(axis=1), size)
        total += np.concatenate([cross[-reach:], cross[: reach + 1]])
    return (int(np.argmax(total)) - reach) * DELAY_STEP_S


def advance(pcm: np.ndarray, delay: int, length: int) -> np.ndarray:
    """The clip without its delay (samples; negative: it came early), zero-padded or cut to ``length``."""
    moved = pcm[delay:] if delay >= 0 else np.concatenate([np.zeros(-delay, pcm.dtype), pcm])
    return np.pad(moved[:length], (0, max(0, length - len(moved))))
