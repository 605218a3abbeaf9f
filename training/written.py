"""Dialogues in text alone for the S2S model, drawn from a domain file without end."""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from models.prosody import canonical, strip_marks
from models.tokenizer import FIRST_PIECE, FIRST_PROSODY, UNKNOWN_WORD, Tokenizer
from training.domain import load_domain
from training.encode_dataset import EncodedTurn
from training.mishearing import MISHEARD_SHARE, mishear_words
from training.s2s_data import WrittenTurn

MAX_WRITTEN_TURNS = 8


def has_marks(dialogues: Iterable[Sequence[EncodedTurn]]) -> bool:
    """Whether replies to a user carry prosody tokens; written ones have to, then, as well."""
    words = (ids for turns in dialogues for turn in turns if len(turn.user) for ids, _ in turn.agent_words)
    return any(FIRST_PROSODY <= token < FIRST_PIECE for ids in words for token in ids)


def written_dialogues(
    path: Path, tokenizer: Tokenizer, marked: bool = False
) -> Callable[[np.random.Generator], list[WrittenTurn]]:
    """A source of dialogues in text alone, drawn from a domain file; ``marked`` replies keep their prosody tokens."""
    domain, as_written = load_domain(path), canonical if marked else strip_marks
    unknown = UNKNOWN_WORD.strip()
    others = [*sorted(domain.vocabulary), *[unknown] * len(domain.vocabulary)]

    def heard(text: str, rng: np.random.Generator) -> list[list[int]]:
        text = mishear_words(domain, text, others, rng) if rng.random() < MISHEARD_SHARE else text
        return [tokenizer.unknown_word if word == unknown else tokenizer.encode(word) for word in text.split()]

    def draw(rng: np.random.Generator) -> list[WrittenTurn]:
        dialogue = domain.sample_dialogue(random.Random(int(rng.integers(1 << 62))), MAX_WRITTEN_TURNS)
        return [
            (heard(turn.user_text, rng),
             [tokenizer.encode(word) for word in as_written(turn.reply).split()],
             tokenizer.encode(domain.note(turn.state)))
            for turn in dialogue
        ]  # fmt: skip

    return draw
