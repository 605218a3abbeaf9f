"""From logits to symbols, numpy only."""

from collections.abc import Sequence

import numpy as np


def greedy(logits: np.ndarray) -> int:
    """The most likely id of [..., V] logits with a single position."""
    return int(np.argmax(logits.reshape(-1)))


class CodeSampler:
    """One code a group from the logits of all quantiser dimensions, most likely level each.

    Args:
        groups: levels of every dimension, by group.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        levels = [level for group in groups for level in group]
        self._edges = np.cumsum([0, *levels])
        self._radix = [np.cumprod([1, *group[:-1]]) for group in groups]

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Logits [..., sum(levels)] of a single position -> codes int64 [groups]."""
        row = logits.reshape(-1)
        picks = np.array([np.argmax(row[a:b]) for a, b in zip(self._edges[:-1], self._edges[1:], strict=True)])
        codes, start = [], 0
        for radix in self._radix:
            codes.append(int((picks[start : start + len(radix)] * radix).sum()))
            start += len(radix)
        return np.array(codes, np.int64)


def sigmoid(x: float) -> float:
    """Logistic function."""
    return float(1.0 / (1.0 + np.exp(-x)))
