"""From logits to symbols, numpy only."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from models.tokenizer import FIRST_PIECE, PAD

NO_GUESS = (-math.inf, PAD)


def greedy(logits: np.ndarray) -> int:
    """The most likely id of [..., V] logits with a single position."""
    return int(np.argmax(logits.reshape(-1)))


def likelier_word(logits: np.ndarray, best: tuple[float, int] | None) -> tuple[float, int] | None:
    """The word that a turn most likely holds if it holds any, from its transcript's logits [V] frame by frame.

    Args:
        logits: of this frame, in which no piece is written.
        best: of the frames before, log odds and piece; :data:`NO_GUESS` at first, None once a piece was written.

    Returns:
        The better one; None where there is nothing to guess.
    """
    if best is None:
        return None
    piece = FIRST_PIECE + int(np.argmax(logits[FIRST_PIECE:]))
    return max(best, (float(logits[piece] - logits[PAD]), piece))


def median(logits: np.ndarray) -> int:
    """The least level [levels] that at least half of the probability is at or below."""
    mass = np.cumsum(np.exp(logits - logits.max()))
    return int(np.searchsorted(mass, 0.5 * mass[-1]))


class CodeSampler:
    """One code a group from the logits of all quantiser dimensions, the median level of each.

    Levels are in order, so the median is the one with the least expected distance. The likeliest one is the same where
    the talker is sure; where it is not, that is silence and a monotone more often than they are meant.

    Args:
        groups: levels of every dimension, by group.
        chain: weights of :class:`models.chain.CodeChain`, told [D, D, inner] and leave [sum(levels), inner].

    Raises:
        ValueError: the weights are of another quantiser.
    """

    def __init__(self, groups: Sequence[Sequence[int]], chain: tuple[np.ndarray, np.ndarray]) -> None:
        levels = [level for group in groups for level in group]
        self._edges = np.cumsum([0, *levels])
        self._radix = [np.cumprod([1, *group[:-1]]) for group in groups]
        self._values = [np.linspace(-1, 1, level, dtype=np.float32) for level in levels]
        told, leave = (weights.astype(np.float32) for weights in chain)
        if told.shape != (len(levels), len(levels), leave.shape[-1]) or len(leave) != self._edges[-1]:
            raise ValueError(f"chain weights {told.shape} and {leave.shape} do not fit {len(levels)} dimensions")
        self._told, self._leave = told, [leave[a:b] for a, b in pairwise(self._edges)]

    def __call__(self, logits: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Logits [..., sum(levels)] of a single position, and its chain's state -> codes int64 [groups]."""
        row = logits.reshape(-1)
        told = np.repeat(state.reshape(1, -1), len(self._values), axis=0)
        picks = []
        for dim, (a, b) in enumerate(pairwise(self._edges)):
            inner = told[dim] / (1.0 + np.exp(-told[dim]))
            picks.append(median(row[a:b] + self._leave[dim] @ inner))
            told[dim + 1 :] += self._values[dim][picks[-1]] * self._told[dim, dim + 1 :]
        codes, start = [], 0
        for radix in self._radix:
            codes.append(int((np.array(picks[start : start + len(radix)]) * radix).sum()))
            start += len(radix)
        return np.array(codes, np.int64)


def sigmoid(x: float) -> float:
    """Logistic function."""
    return float(1.0 / (1.0 + np.exp(-x)))
