"""How words are spoken: pitch, loudness and length of each, the pauses between, and the prosody tokens these amount to.

Pitch is counted in semitones above the speaker's median, so that a mark means the same for every voice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.features import FRAME_SIZE, HOP, SAMPLE_RATE, VOICED_STRENGTH, analyse, new_history
from training.tts import Segment

HOP_S = HOP / SAMPLE_RATE
QUIET_BELS = 3.5  # below the loudest hop of a clip: what is softer has no pitch
OCTAVE_JUMP = 0.6  # octaves from the clip's median: a tracking error
MIN_VOICED_HOPS = 4

PAUSE_SHORT_S, PAUSE_LONG_S = 0.12, 0.4
HIGH_ST = 3.0  # above or below the line through the phrase
MOVE_ST = 3.0  # from the first to the last third of the last word before a pause
STRESS_DB, STRESS_LENGTH, STRESS_ST = 2.0, 1.25, 1.0


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """One word as it was spoken. Pitch values are None where too little of it is voiced."""

    name: str
    start_s: float
    end_s: float
    gap_s: float  # silence before it, 0 for the first word
    pitch_st: float | None  # median, above the speaker's median
    move_st: float | None  # from its first to its last third
    level_db: float  # loudest 50 ms
    length: float  # of its phones, 1 is usual for this speaker


def pitch_track(pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pitch in octaves above 120 Hz (nan where there is none) and level in bels, every 10 ms.

    Args:
        pcm: float32 [N] at 24 kHz.
    """
    padded = np.pad(pcm, (0, -len(pcm) % FRAME_SIZE)).astype(np.float32)
    pitch = analyse(padded, new_history()).pitch
    voiced = (pitch[:, 1] > VOICED_STRENGTH) & (pitch[:, 2] > pitch[:, 2].max() - QUIET_BELS)
    octave = np.where(voiced, pitch[:, 0], np.nan)
    if voiced.any():
        middle = float(np.nanmedian(octave))
        octave[np.abs(octave - middle) > OCTAVE_JUMP] = np.nan
    return octave, pitch[:, 2]


def speaker_median(tracks: Sequence[np.ndarray]) -> float:
    """The speaker's usual pitch in octaves above 120 Hz, 0 without voice."""
    voiced = np.concatenate([track[np.isfinite(track)] for track in tracks]) if tracks else np.zeros(0)
    return float(np.median(voiced)) if len(voiced) else 0.0


def phone_lengths(phones: Sequence[Segment]) -> dict[str, float]:
    """Usual length of every phone in seconds: the median over a recording."""
    lengths: dict[str, list[float]] = {}
    for name, start, end in phones:
        lengths.setdefault(name, []).append(end - start)
    return {name: float(np.median(values)) for name, values in lengths.items()}


def measure_words(
    words: Sequence[Segment],
    phones: Sequence[Segment],
    track: tuple[np.ndarray, np.ndarray],
    middle: float,
    usual: dict[str, float],
) -> list[SpokenWord]:
    """Measure every word of a clip.

    Args:
        words: with their seconds.
        phones: with theirs, of the same clip.
        track: of :func:`pitch_track`.
        middle: of :func:`speaker_median`.
        usual: of :func:`phone_lengths`.
    """
    octave, level = track
    measured, before = [], None
    for name, start, end in words:
        hops = slice(int(start / HOP_S), max(int(np.ceil(end / HOP_S)), int(start / HOP_S) + 1))
        values = 12.0 * (octave[hops] - middle)
        voiced = values[np.isfinite(values)]
        third = max(len(voiced) // 3, 1)
        enough = len(voiced) >= MIN_VOICED_HOPS
        inside = [
            phone for phone in phones if start - 1e-6 <= phone[1] and phone[2] <= end + 1e-6 and phone[0] in usual
        ]
        expected = sum(usual[phone[0]] for phone in inside)
        heard = level[hops] if len(level[hops]) else np.array([-7.0])
        smooth = np.convolve(np.pad(heard, 2, "edge"), np.full(5, 0.2), "valid")
        measured.append(
            SpokenWord(
                name, start, end, 0.0 if before is None else max(start - before, 0.0),
                float(np.median(voiced)) if enough else None,
                float(np.median(voiced[-third:]) - np.median(voiced[:third])) if enough else None,
                10.0 * float(smooth.max()),
                (end - start) / expected if expected else 1.0,
            )
        )  # fmt: skip
        before = end
    return measured


def propose_marks(words: Sequence[SpokenWord]) -> list[tuple[str, ...]]:
    """The prosody tokens before each word that its measures amount to: at most a pause and one other.

    ``<pitch_high>`` and ``<pitch_low>`` are distances from the straight line through the pitch of the phrase, which
    falls in most; ``<pitch_rising>`` and ``<pitch_falling>`` are movements within the last word before a pause.
    """
    marks: list[tuple[str, ...]] = [() for _ in words]
    bounds = [0, *(i for i, word in enumerate(words) if word.gap_s >= PAUSE_SHORT_S), len(words)]
    for first, end in itertools.pairwise(bounds):
        phrase = words[first:end]
        if not phrase:
            continue
        away = _from_line(phrase)
        usual_db = float(np.median([word.level_db for word in phrase]))
        for index, word in enumerate(phrase):
            pause = "<pause_long>" if word.gap_s >= PAUSE_LONG_S else "<pause_short>"
            found = (pause,) if word.gap_s >= PAUSE_SHORT_S else ()
            marks[first + index] = found + _tone(word, away[index], index + 1 == len(phrase), usual_db)
    return marks


def _from_line(phrase: Sequence[SpokenWord]) -> list[float]:
    times = np.array([word.start_s for word in phrase if word.pitch_st is not None])
    pitch = np.array([word.pitch_st for word in phrase if word.pitch_st is not None])
    if len(pitch) < 3:
        return [word.pitch_st or 0.0 for word in phrase]
    slope, offset = np.polyfit(times, pitch, 1)
    return [0.0 if w.pitch_st is None else float(w.pitch_st - slope * w.start_s - offset) for w in phrase]


def _tone(word: SpokenWord, away_st: float, last: bool, usual_db: float) -> tuple[str, ...]:
    if last and word.move_st is not None and abs(word.move_st) >= MOVE_ST:
        return ("<pitch_rising>" if word.move_st > 0 else "<pitch_falling>",)
    if word.level_db >= usual_db + STRESS_DB and word.length >= STRESS_LENGTH and away_st >= STRESS_ST:
        return ("<emph>",)
    if abs(away_st) >= HIGH_ST:
        return ("<pitch_high>" if away_st > 0 else "<pitch_low>",)
    return ()
