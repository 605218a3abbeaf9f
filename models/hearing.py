"""The user's words, heard in several ways at once: a beam search over the transcript, frame by frame.

A word is written some frames after its end, and what comes next often tells that it was another one. So the likeliest
ways to hear a turn go on side by side until what follows has told them apart: a frame-synchronous beam in which ways
of the same words are one, with the sum of their probabilities (Graves, "Sequence transduction with recurrent neural
networks", arXiv 1211.3711). Nothing is copied when ways part: they share one window of keys and values, and each step
attends to what all have in common and to its own way alone (tree attention, as in SpecInfer, arXiv 2305.09781).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.sampling import NO_GUESS, likelier_word
from models.tokenizer import PAD

MOST_WAYS = 3
MARGIN = 3.0  # a way whose log probability is so much less than the best one's is given up
PAD_BONUS = 0.5  # to its logit: in training "no word" counts less than a word


@dataclass(frozen=True, slots=True)
class Way:
    """One way to hear a turn.

    score: log probability, the best way's is near 0.
    pieces: written since the ways parted; what all have written is told and forgotten.
    slots: of the window, where its steps since then are.
    latest: the piece of the latest frame.
    recent: as the state has it.
    guess: the word it holds if it holds any; None: it does.
    end_of_turn: probability that the user has finished.
    """

    score: float = 0.0
    pieces: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    latest: int = PAD
    recent: tuple[int, ...] = (PAD,) * 4
    guess: tuple[float, int] | None = NO_GUESS
    end_of_turn: float = 0.0

    def after(self, slot: int, recent: Sequence[int], end_of_turn: float) -> "Way":
        """The way after one more step, whose piece is not chosen yet."""
        return replace(self, slots=(*self.slots, slot), recent=tuple(recent), end_of_turn=end_of_turn)


@dataclass(slots=True)
class _Found:
    """Ways of the same words: the likeliest of them goes on, for all."""

    score: float
    single: float
    parent: int
    piece: int = PAD


def go_on(
    scores: Sequence[float], words: Sequence[tuple[int, ...]], logits: np.ndarray, most: int
) -> list[tuple[int, int, float]]:
    """The likeliest ways after one more frame.

    Args:
        scores: log probability of each way [N].
        words: what each has written.
        logits: of each way's transcript, [N, V].
        most: that are kept; 1: the likeliest piece, as it is.

    Returns:
        Way, its next piece and its new score, the best first; the best one's score is 0.
    """
    if most == 1:
        return [(0, int(np.argmax(logits[0])), 0.0)]
    found: dict[tuple[int, ...], _Found] = {}
    for way, row in enumerate(logits.astype(np.float64)):
        row[PAD] += PAD_BONUS
        row -= row.max()
        row -= math.log(np.exp(row).sum())
        for piece in np.argsort(-row)[:most].tolist():
            score = scores[way] + float(row[piece])
            heard = words[way] if piece == PAD else (*words[way], piece)
            known = found.setdefault(heard, _Found(-math.inf, -math.inf, way))
            known.score = float(np.logaddexp(known.score, score))
            if score > known.single:
                known.single, known.parent, known.piece = score, way, piece
    ranked = sorted(found.values(), key=lambda one: -one.score)[:most]
    best = ranked[0].score
    return [(one.parent, one.piece, one.score - best) for one in ranked if one.score > best - MARGIN]


def branch(ways: Sequence[Way], logits: np.ndarray, most: int) -> tuple[list[Way], tuple[int, ...]]:
    """The ways after one more frame, and the pieces that all of them have; arguments as for :func:`go_on`."""
    after = []
    for index, piece, score in go_on([way.score for way in ways], [way.pieces for way in ways], logits, most):
        way = ways[index]
        guess = None if piece != PAD else likelier_word(logits[index], way.guess)
        pieces = way.pieces if piece == PAD else (*way.pieces, piece)
        after.append(replace(way, score=score, pieces=pieces, latest=piece, guess=guess))
    common = 0
    for same in zip(*(way.pieces for way in after), strict=False):
        if len(set(same)) > 1:
            break
        common += 1
    return [replace(way, pieces=way.pieces[common:]) for way in after], after[0].pieces[:common]
