"""Lays the turns of a conversation on one timeline, with pauses as people make them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from training.conversation import SAMPLE_RATE, Span
from training.phones import SILENCE
from training.tts import Segment, Utterance, tile

LEAD_S = (0.3, 0.8)
USER_GAP_S = (0.5, 0.9)  # end of the user's speech to the agent's first sound
AGENT_GAP_S = (0.4, 1.0)
TRAIL_S = 0.8
PAUSE_S = (0.2, 1.1)
PAUSE_PROBABILITY = 0.35
PAUSE_MIN_WORDS = 4
_NOISE = 1e-4  # -80 dBFS, so that a pause is not digital zero


@dataclass(frozen=True, slots=True)
class Placed:
    """An utterance on the timeline: its span of speech, words and phones, in seconds."""

    start_s: float
    end_s: float
    words: tuple[Span, ...]
    phones: tuple[Span, ...]


def insert_pause(utterance: Utterance, at_s: float, length_s: float, rng: np.random.Generator) -> Utterance:
    """Cuts the audio at ``at_s`` and puts near-silence of ``length_s`` there; later times move along."""
    cut, length = round(at_s * SAMPLE_RATE), round(length_s * SAMPLE_RATE)
    before, after = utterance.pcm[:cut].copy(), utterance.pcm[cut:].copy()
    fade = min(120, len(before), len(after))  # 5 ms
    before[len(before) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    after[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
    quiet = (rng.standard_normal(length) * _NOISE).astype(np.float32)
    pcm = np.concatenate([before, quiet, after])
    shift = length / SAMPLE_RATE

    def moved(segments: tuple[Segment, ...]) -> list[Segment]:
        later = at_s - 1e-6
        return [(n, s + shift * (s >= later), e + shift * (e > at_s + 1e-6 or s >= later)) for n, s, e in segments]

    phones: list[Segment] = []
    for name, start, end in moved(utterance.phones):
        if start < at_s - 1e-6 < at_s + shift < end - 1e-6 and name != SILENCE:
            phones += [(name, start, at_s), (name, at_s + shift, end)]
        else:
            phones.append((name, start, end))
    return Utterance(pcm, tuple(moved(utterance.words)), tile(tuple(phones), len(pcm) / SAMPLE_RATE))


def hesitate(utterance: Utterance, rng: random.Random) -> Utterance:
    """In a third of the utterances of more than three words, inserts one pause at a word boundary."""
    words = utterance.words
    if len(words) < PAUSE_MIN_WORDS or rng.random() >= PAUSE_PROBABILITY:
        return utterance
    start = words[rng.randint(1, len(words) - 1)][1]
    return insert_pause(utterance, start, rng.uniform(*PAUSE_S), np.random.default_rng(rng.getrandbits(32)))


def lay_out(
    pairs: list[tuple[Utterance, Utterance]], rng: random.Random
) -> tuple[np.ndarray, np.ndarray, list[tuple[Placed, Placed]]]:
    """Places (user, agent) pairs one after the other, without overlap.

    Returns:
        User audio and agent audio (float32 [samples], 24 kHz, equal length) and where each utterance lies.
    """
    now = rng.uniform(*LEAD_S)  # where the next speech begins
    places: list[list[tuple[int, Utterance]]] = [[], []]
    placed: list[tuple[Placed, Placed]] = []
    end = 0
    for index, pair in enumerate(pairs):
        both = []
        for side, utterance in enumerate(pair):
            if side == 1:
                now += rng.uniform(*USER_GAP_S)
            elif index:
                now += rng.uniform(*AGENT_GAP_S)
            first = max(0, round((now - utterance.speech_span[0]) * SAMPLE_RATE))
            places[side].append((first, utterance))
            both.append(_place(utterance, first / SAMPLE_RATE))
            now, end = both[-1].end_s, first + len(utterance.pcm)
        placed.append((both[0], both[1]))
    length = max(end, round((now + TRAIL_S) * SAMPLE_RATE))
    tracks = []
    for row in places:
        track = np.zeros(length, dtype=np.float32)
        for first, utterance in row:
            track[first : first + len(utterance.pcm)] += utterance.pcm
        tracks.append(track)
    return tracks[0], tracks[1], placed


def _place(utterance: Utterance, offset: float) -> Placed:
    start, end = utterance.speech_span
    words, phones = (
        tuple(Span(n, s + offset, e + offset) for n, s, e in segments)
        for segments in (utterance.words, utterance.phones)
    )
    return Placed(start + offset, end + offset, words, phones)
