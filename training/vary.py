"""Changes the speed, the speaker's size and the rhythm of an utterance, with its times following exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from training.phones import SILENCE
from training.tts import SAMPLE_RATE, Segment, Utterance

_HOP = 240  # 10 ms
_WINDOW = 2 * _HOP
_SEARCH = 120  # +- 5 ms
_FADE_IN = np.hanning(_WINDOW + 1)[:_WINDOW].astype(np.float32)


@dataclass(frozen=True, slots=True)
class VaryConfig:
    """Ranges, drawn uniformly; the jitter is the deviation of the log duration of each phone."""

    speed: tuple[float, float] = (0.85, 1.2)
    formant: tuple[float, float] = (0.88, 1.14)
    duration_jitter: float = 0.12


def speed_and_formant(utterance: Utterance, rng: np.random.Generator, cfg: VaryConfig | None = None) -> Utterance:
    """Draws a speed, a warp of pitch and formants together, and a factor for the length of every phone.

    Args:
        utterance: speech; without phones it is stretched evenly.
        rng: source of all randomness.
        cfg: ranges.

    Returns:
        A new utterance; its words and phones have the times they now have.
    """
    cfg = cfg or VaryConfig()
    speed, warp = rng.uniform(*cfg.speed), rng.uniform(*cfg.formant)
    source = [0.0]
    target = [0.0]
    for _, start, end in utterance.phones or ((SILENCE, 0.0, utterance.duration_s),):
        jitter = float(np.clip(np.exp(rng.normal(0.0, cfg.duration_jitter)), 0.7, 1.4))
        source.append(end)
        target.append(target[-1] + (end - start) / speed * jitter)
    warped = np.asarray(soxr.resample(utterance.pcm, SAMPLE_RATE * warp, SAMPLE_RATE), dtype=np.float32)
    length = round(target[-1] * SAMPLE_RATE)
    pcm = stretch(warped, np.asarray(source) / warp, np.asarray(target), length)

    def moved(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        return tuple(
            (name, float(np.interp(start, source, target)), float(np.interp(end, source, target)))
            for name, start, end in segments
        )

    phones = moved(utterance.phones)
    return Utterance(pcm, moved(utterance.words), phones)


def stretch(pcm: np.ndarray, source_s: np.ndarray, target_s: np.ndarray, length: int) -> np.ndarray:
    """Time-stretches by waveform-similarity overlap-add along a piecewise linear map.

    Args:
        pcm: float32 [samples].
        source_s: increasing times in ``pcm``, seconds.
        target_s: where they shall be, seconds; as many.
        length: samples to make.

    Returns:
        float32 [length].
    """
    frames = length // _HOP + 2
    source_s, target_s = (np.append(times, times[-1] + 1.0) for times in (source_s, target_s))  # past the end: as it is
    centres = np.interp(np.arange(frames) * _HOP / SAMPLE_RATE, target_s, source_s) * SAMPLE_RATE
    margin = _WINDOW + _SEARCH
    padded = np.pad(pcm, (margin, 2 * margin))
    out = np.zeros((frames + 1) * _HOP, dtype=np.float32)
    limit = len(padded) - _WINDOW - _HOP
    position = 0
    for index in range(frames):
        wanted = round(centres[index]) + margin - _HOP
        if index == 0:
            position = wanted
        else:
            expected = padded[min(position + _HOP, limit) :][:_WINDOW:2]
            low = max(0, min(wanted - _SEARCH, limit - 2 * _SEARCH))
            low -= (low - position - _HOP) % 2  # every second place is tried: let the natural continuation be one
            low = max(low, (position + _HOP) % 2)
            region = padded[low : low + _WINDOW + 2 * _SEARCH : 2]
            position = low + 2 * int(np.argmax(_similarity(region, expected)))
        start = index * _HOP - _HOP
        frame = padded[min(position, limit) :][:_WINDOW] * _FADE_IN
        if start < 0:
            out[:_HOP] += frame[_HOP:]
        else:
            out[start : start + _WINDOW] += frame[: len(out) - start]
    return out[:length]


def _similarity(region: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Correlation of ``expected`` with every place in ``region``, normalised by the energy there."""
    score = np.correlate(region, expected, "valid")
    energy = np.cumsum(np.concatenate([[0.0], np.square(region)]))
    window = energy[len(expected) :] - energy[: len(energy) - len(expected)]
    return score / np.sqrt(window + 1e-6)
