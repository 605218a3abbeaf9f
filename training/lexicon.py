"""Pronunciations of English words, from the CMU dictionary that the pocketsphinx package carries."""

from __future__ import annotations

import functools
from pathlib import Path

from training.phones import ARPABET, PHONES

DICTIONARY = "en-us/cmudict-en-us.dict"


@functools.lru_cache(maxsize=1)
def pronunciations() -> dict[str, tuple[str, ...]]:
    """First pronunciation of every word, in ARPABET without stress; empty where pocketsphinx is not installed."""
    try:
        import pocketsphinx
    except ImportError:
        return {}
    known = frozenset(ARPABET)
    table: dict[str, tuple[str, ...]] = {}
    for line in Path(pocketsphinx.get_model_path(DICTIONARY)).read_text("utf8").splitlines():
        word, *phones = line.split()
        if word not in table and known.issuperset(phones):
            table[word] = tuple(phones)
    return table


def phones_of(text: str) -> tuple[str, ...] | None:
    """Phones of a text of lower-case words; None when one of them is not in the dictionary."""
    table = pronunciations()
    phones: list[str] = []
    for word in text.split():
        if word not in table:
            return None
        phones += table[word]
    return tuple(phones)


@functools.cache
def phone_labels(text: str) -> tuple[int, ...]:
    """:func:`phones_of` as indices into PHONES; empty where it knows none."""
    return tuple(PHONES.index(phone) for phone in phones_of(text) or ())
