"""Dialogues in text alone for the S2S model, drawn from a domain file without end."""

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from models.prosody import canonical, strip_marks
from models.tokenizer import FIRST_PIECE, FIRST_PROSODY, UNKNOWN, Tokenizer
from training.domain import Dialogue, Domain, OrderState, load_domain
from training.encode_dataset import EncodedTurn
from training.mishearing import MISHEARD_SHARE, mishear_words
from training.s2s_data import WrittenTurn

MAX_WRITTEN_TURNS = 8
PICKY_SHARE = 0.6  # of the dialogues that pick one item of several; a tenth of a domain's own do
MAX_DRAWS = 40  # for one of them


def has_marks(dialogues: Iterable[Sequence[EncodedTurn]]) -> bool:
    """Whether replies to a user carry prosody tokens; written ones have to, then, as well."""
    words = (ids for turns in dialogues for turn in turns if len(turn.user) for ids, _ in turn.agent_words)
    return any(FIRST_PROSODY <= token < FIRST_PIECE for ids in words for token in ids)


def picks_one_of_several(dialogue: Dialogue) -> bool:
    """Whether an item is changed or removed while there are others: what a model gets wrong longest."""
    states = [OrderState(), *(turn.state for turn in dialogue)]
    return any(
        len(before.items) > 1 and before.status != "placed" and after.items
        and after.items[: len(before.items)] != before.items
        for before, after in pairwise(states)
    )  # fmt: skip


def draw_dialogue(domain: Domain, rng: random.Random) -> Dialogue:
    """A dialogue of the domain; PICKY_SHARE of them pick one item of several, if the domain has such dialogues."""
    dialogue = domain.sample_dialogue(rng, MAX_WRITTEN_TURNS)
    if rng.random() < PICKY_SHARE:
        for _ in range(MAX_DRAWS):
            if picks_one_of_several(dialogue):
                break
            dialogue = domain.sample_dialogue(rng, MAX_WRITTEN_TURNS)
    return dialogue


def written_dialogues(
    path: Path, tokenizer: Tokenizer, marked: bool = False
) -> Callable[[np.random.Generator], list[WrittenTurn]]:
    """A source of dialogues in text alone, drawn from a domain file; ``marked`` replies keep their prosody tokens."""
    domain, as_written = load_domain(path), canonical if marked else strip_marks
    others = [*sorted(domain.vocabulary), *[UNKNOWN] * len(domain.vocabulary)]

    def heard(text: str, rng: np.random.Generator) -> list[list[int]]:
        text = mishear_words(domain, text, others, rng) if rng.random() < MISHEARD_SHARE else text
        return [tokenizer.unknown_word if word == UNKNOWN else tokenizer.encode(word) for word in text.split()]

    def draw(rng: np.random.Generator) -> list[WrittenTurn]:
        dialogue = draw_dialogue(domain, random.Random(int(rng.integers(1 << 62))))
        return [
            (heard(turn.user_text, rng),
             [tokenizer.encode(word) for word in as_written(turn.reply).split()],
             tokenizer.encode(domain.note(turn.state)))
            for turn in dialogue
        ]  # fmt: skip

    return draw
