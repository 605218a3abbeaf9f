"""Batches of frame sequences for the S2S model: dialogues of similar length, written dialogues among them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.s2s import LISTEN, FrameInput, S2SConfig
from models.tokenizer import PAD
from training.encode_dataset import EncodedTurn
from training.s2s_data import (
    IGNORE,
    LEAD_FRAMES,
    TRAIL_FRAMES,
    FrameSequence,
    WrittenTurn,
    build_sequence,
    build_written,
)

TYPED_SHARE = 0.08  # of disturbed training batches, see build_sequence
PREDICTED_SHARE = 0.2  # of written batches have the user's words as targets, too: few of them can be known
WRITTEN_POOL = 256  # written dialogues that are drawn together, to be sorted by length


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded sequences as tensors: model input, padding [B, T] (1 = real), targets by name."""

    frame: FrameInput
    padding: Tensor
    text: Tensor
    transcript: Tensor
    turn: Tensor


def collate(sequences: Sequence[FrameSequence]) -> Batch:
    """Pad at the end to the longest sequence."""
    longest = max(len(sequence.mode) for sequence in sequences)

    def stack(name: str, fill: int) -> Tensor:
        rows = []
        for sequence in sequences:
            value = getattr(sequence, name)
            width = [(0, longest - len(value))] + [(0, 0)] * (value.ndim - 1)
            rows.append(np.pad(value, width, constant_values=fill))
        return torch.from_numpy(np.stack(rows)).long()

    padding = torch.tensor([[1] * len(s.mode) + [0] * (longest - len(s.mode)) for s in sequences])
    frame = FrameInput(
        stack("mode", LISTEN), stack("user", 0), stack("text", PAD), stack("transcript", PAD), stack("agent", -1),
        stack("recent", PAD),
    )  # fmt: skip
    return Batch(
        frame, padding, stack("text_target", IGNORE), stack("transcript_target", IGNORE),
        stack("turn_target", IGNORE),
    )  # fmt: skip


class Batcher:
    """Endless batches of about ``frames`` steps, of dialogues of similar length, without repeats inside an epoch.

    ``written`` draws a written dialogue; ``written_share`` of the batches are made of them. With the ``unknown`` word,
    some turns are misheard; with ``sounds``, some begin after one.
    """

    def __init__(
        self,
        dialogues: Sequence[Sequence[EncodedTurn]],
        config: S2SConfig,
        frames: int,
        corrupt: float,
        seed: int,
        written: Callable[[np.random.Generator], list[WrittenTurn]] | None = None,
        written_share: float = 0.0,
        unknown: list[int] | None = None,
        sounds: Sequence[np.ndarray] = (),
    ) -> None:
        self._sounds = sounds
        self._written, self._written_share = written, written_share
        self._dialogues, self._config, self._frames, self._corrupt = dialogues, config, frames, corrupt
        self._unknown = unknown
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._lengths = np.array([self._most_steps(turns, config) for turns in dialogues])
        self._queue: list[np.ndarray] = []
        self._written_queue: list[list[FrameSequence]] = []

    @staticmethod
    def _most_steps(turns: Sequence[EncodedTurn], config: S2SConfig) -> int:
        around = LEAD_FRAMES[1] + TRAIL_FRAMES[1] + config.lead_frames
        return sum(
            int(turn.speech[1] - turn.speech[0]) + around + len(turn.agent) + len(turn.note or ()) + 1 for turn in turns
        )

    def _refill(self) -> None:
        rng = self._rng
        usable = np.flatnonzero(self._lengths <= self._config.window)
        order = usable[np.argsort(self._lengths[usable] * rng.uniform(0.85, 1.15, len(usable)))]
        batches, start = [], 0
        while start < len(order):
            longest = self._lengths[order[start]]
            count = max(int(self._frames // longest), 1)
            batches.append(order[start : start + count])
            start += count
        rng.shuffle(batches)  # type: ignore[arg-type]
        self._queue = batches

    @property
    def usable(self) -> int:
        """How many dialogues fit into the window; the others are left out."""
        return int((self._lengths <= self._config.window).sum())

    def restart(self, step: int) -> None:
        """Go on with batches that differ from those before ``step``: what a resumed run calls."""
        self._rng, self._queue, self._written_queue = np.random.default_rng([self._seed, step]), [], []

    def epoch_batches(self) -> int:
        """About how many batches an epoch has."""
        return max(int(self._lengths.sum() / self._frames), 1)

    def next(self) -> Batch:
        """The next batch; a new epoch begins when one is used up."""
        if self._written and self._rng.random() < self._written_share:
            return self._written_batch()
        typed = TYPED_SHARE if self._corrupt else 0.0
        if not self._queue:
            self._refill()
        return collate(
            [build_sequence(self._dialogues[pick], self._config, self._rng, self._corrupt, typed, self._unknown,
                            self._sounds)
             for pick in self._queue.pop()]
        )  # fmt: skip

    def _written_batch(self) -> Batch:
        if not self._written_queue:
            self._written_queue = self._draw_written()
        batch = collate(self._written_queue.pop())
        if self._rng.random() >= PREDICTED_SHARE:
            batch.transcript.fill_(IGNORE)
        return batch

    def _draw_written(self) -> list[list[FrameSequence]]:
        """Written dialogues of a pool in batches of similar length: less than a tenth of their steps is padding."""
        assert self._written is not None
        drawn = (build_written(self._written(self._rng), self._config, self._rng) for _ in range(WRITTEN_POOL))
        pool = sorted((one for one in drawn if len(one.mode) <= self._config.window), key=lambda one: len(one.mode))
        batches: list[list[FrameSequence]] = [[]]
        for sequence in pool:
            if batches[-1] and (len(batches[-1]) + 1) * len(sequence.mode) > self._frames:
                batches.append([])
            batches[-1].append(sequence)
        self._rng.shuffle(batches)  # type: ignore[arg-type]
        return batches
