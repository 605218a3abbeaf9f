"""The lexicon of a model: how its teacher voice pronounces common words, and the sounds to write them with."""

from __future__ import annotations

import functools
import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import tokenizers
import wordfreq

from models.lexicon import Lexicon
from models.tokenizer import split_words
from training.tts import TtsError

_MARKS = re.compile(r'[.,!?;:—…"()“”]')


@functools.lru_cache(maxsize=1)
def _g2p() -> Any:
    try:
        from hibari.g2p import G2P
    except ImportError as error:
        raise TtsError(f"hibari is missing: pip install hibari-tts ({error})") from error
    return G2P()


def phonemes(text: str) -> str:
    """What hibari reads a text as: IPA with stress marks, punctuation as it stands.

    Raises:
        TtsError: the package is missing.
    """
    return str(_g2p()(text))


def build_lexicon(sentences: Iterable[str], words: int) -> tuple[Lexicon, Counter[str]]:
    """Pronunciations of all words of ``sentences`` and of the ``words`` most common ones of English.

    A word is pronounced as it mostly is in the sentences, where small words are unstressed; a word that is not in them
    as it is alone.

    Returns:
        The lexicon, and how often every pronunciation came up in the sentences.

    Raises:
        TtsError: the hibari package is missing.
    """
    heard: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        written, spoken = sentence.split(), _MARKS.sub("", phonemes(sentence)).split()
        if len(written) != len(spoken):
            continue  # a number, an abbreviation
        for token, sounds in zip(written, spoken, strict=True):
            parts = [part.strip().lower() for part in split_words(token) if part.strip()[0].isalpha()]
            if len(parts) == 1:
                heard[parts[0]][sounds] += 1
    table = {word: counts.most_common(1)[0][0] for word, counts in heard.items()}
    common = (word for word in wordfreq.top_n_list("en", words) if word.isascii() and word.replace("'", "").isalpha())
    for word in common:
        sounds = _MARKS.sub("", phonemes(word)) if word not in table else ""
        if sounds and " " not in sounds:
            table[word] = sounds
    table |= {letter: phonemes(letter) for letter in string.ascii_uppercase}
    counts: Counter[str] = Counter()
    for pronounced in heard.values():
        counts.update(pronounced)
    return Lexicon(table), counts


def learn_sounds(lexicon: Lexicon, counts: Counter[str], size: int) -> list[str]:
    """About ``size`` strings of phones that words are made of, by byte-pair encoding (Sennrich et al., 1508.07909).

    Every single phone is among them, with and without a leading space, so that any pronunciation can be written.
    """
    phones = sorted({phone for sounds in lexicon.table.values() for phone in sounds})
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, show_progress=False)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "merged_with_next")
    everything = Counter({sounds: 1 for sounds in lexicon.table.values()}) + counts
    model.train_from_iterator((f" {sounds}" for sounds in everything.elements()), trainer)
    singles = [lead + phone for phone in phones for lead in ("", " ")]
    return list(dict.fromkeys([*singles, *sorted(part for part in model.get_vocab() if part.strip())]))
