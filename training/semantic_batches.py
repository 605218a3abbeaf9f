"""Batches of user turns for the semantic codes: padded, with phones as they are asked for, people among them."""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.user_features import SUB_FRAMES, UNKNOWN_PHONE

PHONE_DELAY_FRAMES = 2
PEOPLE_SHARE = 0.25  # of every batch, where there are recordings


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """embedding float16 [T, D]; phones uint8 [4 T]; words: classes; spoken: phones without times, SIL left out."""

    embedding: np.ndarray
    phones: np.ndarray
    words: list[int]
    text: str
    spoken: tuple[int, ...]


class Collated(NamedTuple):
    """A batch, padded: embeddings [B, T, D], phones late and ``now`` [B, 4 T], lengths [B]; words, phones in order."""

    embedding: Tensor
    phones: Tensor
    lengths: Tensor
    words: list[list[int]]
    spoken: list[tuple[int, ...]]
    now: Tensor


def collate(examples: Sequence[Example], rng: np.random.Generator | None) -> Collated:
    """Examples as a batch; ``rng``: time masking."""
    longest = max(len(example.embedding) for example in examples)
    embedding = np.zeros((len(examples), longest, examples[0].embedding.shape[1]), np.float32)
    phones = np.full((len(examples), longest * SUB_FRAMES), UNKNOWN_PHONE, np.uint8)
    now = phones.copy()
    delay = PHONE_DELAY_FRAMES * SUB_FRAMES
    for row, example in enumerate(examples):
        size = len(example.embedding)
        embedding[row, :size] = example.embedding
        embedding[row, size:] = example.embedding[-1]
        phones[row, delay : size * SUB_FRAMES] = example.phones[: size * SUB_FRAMES - delay]
        now[row, : size * SUB_FRAMES] = example.phones
        if rng is not None:
            for _ in range(int(rng.integers(0, 3))):
                begin = int(rng.integers(0, size))
                width = int(rng.integers(1, 3))
                embedding[row, begin : begin + width] = embedding[row, max(begin - 1, 0)]
    lengths = torch.tensor([len(example.embedding) for example in examples])
    return Collated(
        torch.from_numpy(embedding),
        torch.from_numpy(phones).long(),
        lengths,
        [example.words for example in examples],
        [example.spoken for example in examples],
        torch.from_numpy(now).long(),
    )


def draw(examples: Sequence[Example], size: int, rng: np.random.Generator) -> list[Example]:
    """Examples of similar lengths: a larger sample is sorted, and a window of it taken."""
    pool = sorted(rng.integers(len(examples), size=size * 6), key=lambda index: len(examples[index].embedding))
    start = int(rng.integers(0, 6)) * size
    return [examples[index] for index in pool[start : start + size]]


def longest(examples: Sequence[Example]) -> int:
    """Frames of the longest example."""
    return max(len(example.embedding) for example in examples)


def draw_up_to(frames: int, examples: Sequence[Example], size: int, rng: np.random.Generator) -> list[Example]:
    """Examples, sorted by length, that do not make a batch of ``frames`` longer; the shortest ones where none is."""
    fitting = bisect.bisect_right(examples, frames, key=lambda example: len(example.embedding))
    return [examples[index] for index in rng.integers(max(fitting, min(size, len(examples))), size=size)]


def draw_mixed(splits: dict[str, list[Example]], size: int, rng: np.random.Generator) -> list[Example]:
    """A batch of synthetic turns and, where there are any, PEOPLE_SHARE recordings of people."""
    people = round(size * PEOPLE_SHARE) if splits["people_train"] else 0
    drawn = draw(splits["train"], size - people, rng)
    return drawn + (draw_up_to(longest(drawn), splits["people_train"], people, rng) if people else [])
