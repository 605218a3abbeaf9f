"""How words are spoken: pitch, loudness and length of each, the pauses between, and the prosody tokens these amount to.

Pitch is counted in semitones above the speaker's median, so that a mark means the same for every voice.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.features import FRAME_SIZE, HOP, SAMPLE_RATE, VOICED_STRENGTH, analyse, new_history
from models.prosody import GLIDES, LEVELS, PAUSES, place_marks, plan_delivery
from training.tts import Segment

HOP_S = HOP / SAMPLE_RATE
QUIET_BELS = 3.5  # below the loudest hop of a clip: what is softer has no pitch
OCTAVE_JUMP = 0.6  # octaves from the clip's median: a tracking error
MIN_VOICED_HOPS = 4

PAUSE_SHORT_S, PAUSE_LONG_S = 0.2, 0.5  # longer than usual at such a place: what the tokens add at least
LEVEL_ST = 2.0  # that a phrase's median is above or below the speaker's
MOVE_ST = 3.0  # from the first to the last third of a phrase's last word
SOUND_BELS = 3.0  # below the loudest hop of a clip: what is softer is silence
STRESS_DB, STRESS_LENGTH, STRESS_ST = 2.0, 1.25, 1.0  # of a word against its phrase


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """One word as it was spoken. Pitch values are None where too little of it is voiced."""

    name: str
    start_s: float
    end_s: float
    gap_s: float  # longest silence between the middles of the word before and this one, 0 for the first word
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


def sounds(level: np.ndarray) -> np.ndarray:
    """Whether each hop of a clip is no silence, bool [T] from its level in bels."""
    return np.asarray(level > max(level.max(initial=-7.0) - SOUND_BELS, -6.0))


def silences_s(sounding: np.ndarray) -> np.ndarray:
    """Lengths in seconds of the silences between sounds, of :func:`sounds`; none before the first or after the last."""
    gaps = (np.diff(np.flatnonzero(sounding)) - 1) * HOP_S
    return gaps[gaps > 0]


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
    sounding = sounds(level)
    measured: list[SpokenWord] = []
    before = 0.0
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
        between = sounding[int(before / HOP_S) : int((start + end) / 2.0 / HOP_S)]
        gap = float(silences_s(np.pad(between, 1, constant_values=True)).max(initial=0.0))
        measured.append(
            SpokenWord(
                name, start, end, gap if measured else 0.0,
                float(np.median(voiced)) if enough else None,
                float(np.median(voiced[-third:]) - np.median(voiced[:third])) if enough else None,
                10.0 * float(smooth.max()),
                (end - start) / expected if expected else 1.0,
            )
        )  # fmt: skip
        before = (start + end) / 2.0
    return measured


def usual_gaps(clips: Sequence[Sequence[SpokenWord]]) -> dict[bool, float]:
    """Usual silence before a word in seconds, after punctuation (True) and elsewhere: medians over a recording.

    Of what is no pause, that is: who often rests at a comma, but mostly does not, rests at a comma when told to.
    """
    gaps: dict[bool, list[float]] = {False: [], True: []}
    for words in clips:
        for before, word in itertools.pairwise(words):
            gaps[bounds(before.name)].append(word.gap_s)
    return {kind: _usual(values) for kind, values in gaps.items()}


def _usual(gaps: list[float]) -> float:
    usual = float("inf")
    while kept := [gap for gap in gaps if gap - usual < PAUSE_SHORT_S]:
        if (middle := float(np.median(kept))) == usual:
            return usual
        usual = middle
    return 0.0


def bounds(name: str) -> bool:
    """Whether a word, as written, ends a phrase: what follows may rest without being told to."""
    return not name[-1:].isalnum()


def propose_marks(words: Sequence[SpokenWord], usual: Mapping[bool, float]) -> list[tuple[str, ...]]:
    """The prosody tokens before each word that its measures amount to, in their canonical places.

    What each token acts on is told in :mod:`models.prosody`. A phrase that lies higher or lower than the speaker's
    usual pitch is marked where it begins; a rise or fall counts in its last word. A pause is what is longer than usual:
    a speaker rests at a comma without being told to.

    Args:
        words: as written, punctuation included: it bounds the phrases.
        usual: of :func:`usual_gaps`.
    """
    plan = plan_delivery(" ".join(word.name for word in words))
    assert len(plan) == len(words), "a word is one token of the text"
    for phrase in dict.fromkeys(word.phrase for word in plan):
        places = [index for index, word in enumerate(plan) if word.phrase == phrase]
        part = [words[index] for index in places]
        pitch = [word.pitch_st for word in part if word.pitch_st is not None]
        middle = float(np.median(pitch)) if pitch else 0.0
        level = "" if abs(middle) < LEVEL_ST else LEVELS[middle < 0]
        usual_db = float(np.median([word.level_db for word in part]))
        for index, word in zip(places, part, strict=True):
            longer = word.gap_s - usual[bounds(words[index - 1].name)] if index else 0.0
            pause = "" if longer < PAUSE_SHORT_S else PAUSES[longer >= PAUSE_LONG_S]
            above = 0.0 if word.pitch_st is None else word.pitch_st - middle
            louder = word.level_db - usual_db
            emph = len(part) > 1 and louder >= STRESS_DB and word.length >= STRESS_LENGTH and above >= STRESS_ST
            plan[index] = replace(plan[index], emph=emph, pause=pause, level=level)
        move = part[-1].move_st
        if move is not None and abs(move) >= MOVE_ST:
            plan[places[-1]] = replace(plan[places[-1]], glide=GLIDES[move < 0])
    return place_marks(plan)
