"""What prosody tokens did to a sentence: semitones, milliseconds and decibels against the same sentence without them.

Pitch is Praat's (autocorrelation, Boersma 1993) through ``parselmouth``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.tts import SAMPLE_RATE, Segment, TtsError

STEP_S = 0.01
PITCH_RANGE_HZ = (75.0, 500.0)
GLIDE_S = 0.3
SILENCE_DB = -38.0  # under the loudest 10 ms
_MARGIN_S = 0.06  # by which word edges may be wrong


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence with its words. octaves [T]: log2 of F0 every STEP_S, NaN where unvoiced; level_db [T]."""

    words: tuple[Segment, ...]
    octaves: np.ndarray
    level_db: np.ndarray

    def part(self, track: np.ndarray, start_s: float, end_s: float) -> np.ndarray:
        """The values of a track between two times."""
        return track[max(round(start_s / STEP_S), 0) : max(round(end_s / STEP_S), 0)]


def listen(pcm: np.ndarray, words: Sequence[Segment]) -> Spoken:
    """Measure float32 [N] at 24 kHz, spoken with these word times.

    Raises:
        TtsError: the package praat-parselmouth is missing.
    """
    try:
        import parselmouth
    except ImportError as error:
        raise TtsError("measuring pitch needs praat-parselmouth: pip install '.[measure]'") from error
    size = int(len(pcm) / SAMPLE_RATE / STEP_S)
    low, high = PITCH_RANGE_HZ
    sound = parselmouth.Sound(pcm.astype(np.float64), SAMPLE_RATE)
    pitch = sound.to_pitch_ac(time_step=STEP_S, pitch_floor=low, pitch_ceiling=high)
    at = (np.arange(size) + 0.5) * STEP_S
    index = np.round((at - pitch.x1) / STEP_S).astype(int)
    hz = pitch.selected_array["frequency"]
    inside = (index >= 0) & (index < len(hz))
    f0 = np.where(inside, hz[np.clip(index, 0, len(hz) - 1)], 0.0)
    octaves = np.where(f0 > 0, np.log2(np.maximum(f0, 1.0)), np.nan)
    frame = round(STEP_S * SAMPLE_RATE)
    power = np.square(pcm[: size * frame].astype(np.float64)).reshape(size, frame).mean(axis=1)
    return Spoken(tuple(words), octaves, 10 * np.log10(power + 1e-10))


def pitch_change_st(plain: Spoken, tagged: Spoken, first: int, last: int) -> float:
    """Semitones by which the median F0 of words ``first`` to ``last`` is higher; NaN where nothing is voiced."""
    return 12 * (_median_octave(tagged, first, last) - _median_octave(plain, first, last))


def has_pitch(spoken: Spoken, first: int, last: int) -> bool:
    """Whether anything of words ``first`` to ``last`` is voiced."""
    return bool(np.isfinite(_median_octave(spoken, first, last)))


def _median_octave(spoken: Spoken, first: int, last: int) -> float:
    part = spoken.part(spoken.octaves, spoken.words[first][1], spoken.words[last][2])
    voiced = part[np.isfinite(part)]
    return float(np.median(voiced)) if len(voiced) else float("nan")


def final_slope_st(spoken: Spoken, first: int, last: int) -> float:
    """Semitones of a straight line through the last GLIDE_S of voiced sound of words ``first`` to ``last``."""
    start = spoken.words[first][1]
    part = spoken.part(spoken.octaves, start, spoken.words[last][2] + _MARGIN_S)
    voiced = np.flatnonzero(np.isfinite(part))
    voiced = voiced[voiced > voiced[-1] - GLIDE_S / STEP_S] if len(voiced) else voiced
    if len(voiced) < 8:
        return float("nan")
    times, values = voiced * STEP_S, part[voiced]
    pairs = np.triu_indices(len(voiced), 3)
    slopes = (values[pairs[1]] - values[pairs[0]]) / (times[pairs[1]] - times[pairs[0]])
    return float(12 * GLIDE_S * np.median(slopes))


def silence_s(spoken: Spoken, before: int) -> float:
    """All silence around the place after the word ``before``, in seconds.

    Counted from the middle of the word before that one to the middle of the next but one: an aligner may put a short
    word, such as an article, on the wrong side of a pause. Gaps within words (stops) are in both of two sentences.
    """
    first, last = (spoken.words[min(max(at, 0), len(spoken.words) - 1)] for at in (before - 1, before + 2))
    quiet = spoken.part(spoken.level_db, sum(first[1:]) / 2, sum(last[1:]) / 2)
    quiet = quiet < spoken.level_db.max() + SILENCE_DB
    return float(quiet.sum() * STEP_S)


def emphasis(plain: Spoken, tagged: Spoken, word: int) -> tuple[float, float, float]:
    """How a word stands out of the rest more than in the plain sentence: semitones, decibels; and its length ratio."""
    pitch, level = (_stands_out(tagged, word)[i] - _stands_out(plain, word)[i] for i in range(2))
    lengths = [spoken.words[word][2] - spoken.words[word][1] for spoken in (tagged, plain)]
    return pitch, level, lengths[0] / max(lengths[1], STEP_S)


def _stands_out(spoken: Spoken, word: int) -> tuple[float, float]:
    """Median semitones and mean decibels of a word above the other words."""
    _, start, end = spoken.words[word]
    at = (np.arange(len(spoken.octaves)) + 0.5) * STEP_S
    inside = (at >= start) & (at < end)
    speech = (at >= spoken.words[0][1]) & (at < spoken.words[-1][2])
    loud = spoken.level_db > spoken.level_db.max() + SILENCE_DB
    voiced = np.isfinite(spoken.octaves)

    def mean(track: np.ndarray, where: np.ndarray) -> float:
        return float(np.mean(track[where])) if where.any() else float("nan")

    def middle(values: np.ndarray) -> float:
        return float(np.median(values)) if len(values) else float("nan")

    pitch = middle(spoken.octaves[inside & voiced]) - middle(spoken.octaves[speech & ~inside & voiced])
    power = 10 ** (spoken.level_db / 10)
    level = mean(power, inside & loud), mean(power, speech & ~inside & loud)
    return 12 * pitch, float(10 * np.log10(level[0] / level[1]))


def speech_s(spoken: Spoken) -> float:
    """Length from the first sound to the last, in seconds."""
    loud = np.flatnonzero(spoken.level_db > spoken.level_db.max() + SILENCE_DB)
    return float((loud[-1] + 1 - loud[0]) * STEP_S)
