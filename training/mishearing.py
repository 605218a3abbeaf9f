"""User turns as a weak ear hears them: an opening that is not understood, codes that are a little off.

People begin an order in more ways than any domain file knows. Where the first words of a turn carry nothing, some
training turns have them replaced, so that "the ... medium roast cappuccino" is an order and no stranger's sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from training.domain import Domain

if TYPE_CHECKING:
    from training.encode_dataset import EncodedTurn

MOST_WORDS = 5
MISHEARD_SHARE, BLURRED_SHARE = 0.1, 0.3  # of turns
BLUR_SHARE = 0.04  # of quantiser dimensions of a blurred turn move by one level


def loose_opening(domain: Domain, text: str) -> int:
    """How many words at the beginning of a turn that names items can go without changing what it means."""
    words = text.split()
    meant = domain.parse_user(text)
    count, most = 0, min(MOST_WORDS, len(words) - 1) if meant.items else 0
    while count < most and domain.parse_user(" ".join(words[count + 1 :])) == meant:
        count += 1
    return count


def mishear_words(domain: Domain, text: str, others: Sequence[str], rng: np.random.Generator) -> str:
    """The text with words at its beginning that carry nothing replaced by at most as many of ``others``, if it can."""
    words = text.split()
    loose = loose_opening(domain, text)
    if not loose:
        return text
    count = int(rng.integers(1, loose + 1))
    picks = rng.integers(len(others), size=rng.integers(0, count + 1))
    misheard = " ".join([*(others[pick] for pick in picks), *words[count:]])
    return misheard if domain.parse_user(misheard) == domain.parse_user(text) else text


def mishear_opening(turn: EncodedTurn, unknown: list[int], rng: np.random.Generator) -> EncodedTurn:
    """The turn with one to ``turn.loose`` first words as unknown words, their codes those of its frames in disorder."""
    count = int(rng.integers(1, turn.loose + 1))
    begin, end = int(turn.speech[0]), int(np.ceil(turn.user_words[count - 1][1]))
    order = np.arange(len(turn.user))
    spoken = np.arange(begin, max(int(turn.speech[1]), begin + 1))
    order[begin:end] = rng.choice(spoken, max(end - begin, 0))
    words = [(unknown, frame) for _, frame in turn.user_words[:count]]
    words += turn.user_words[count:]
    return replace(turn, user=turn.user[order], user_words=words)


def disturb(
    turn: EncodedTurn, levels: Sequence[Sequence[int]], unknown: list[int], rng: np.random.Generator
) -> EncodedTurn:
    """MISHEARD_SHARE of turns with a misheard opening, BLURRED_SHARE with blurred codes; ``levels`` of their groups."""
    misheard, blurred = rng.random(2) < (MISHEARD_SHARE, BLURRED_SHARE)
    if misheard and turn.loose:
        turn = mishear_opening(turn, unknown, rng)
    return replace(turn, user=blur_codes(turn.user, levels, rng)) if blurred else turn


def blur_codes(codes: np.ndarray, levels: Sequence[Sequence[int]], rng: np.random.Generator) -> np.ndarray:
    """Codes [T, groups] with BLUR_SHARE of their quantiser dimensions moved to a neighbouring level."""
    out = np.empty_like(codes)
    for group, sizes in enumerate(levels):
        rest, place = codes[:, group].astype(np.int64), 1
        total = np.zeros(len(codes), np.int64)
        for size in sizes:
            index, rest = rest % size, rest // size
            step = rng.integers(0, 2, len(codes)) * 2 - 1
            moved = np.clip(index + step * (rng.random(len(codes)) < BLUR_SHARE), 0, size - 1)
            total, place = total + moved * place, place * size
        out[:, group] = total
    return out
