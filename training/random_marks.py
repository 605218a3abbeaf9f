"""Prosody tokens at random places of sentences, for an agent that is to obey them anywhere."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

from models.prosody import EMPH, GLIDES, LEVELS, PAUSES, PROSODY_TOKENS, canonical, plan_delivery, strip_marks
from training.domain import load_domain

MOST = 3  # tokens in a sentence
_COUNT_WEIGHTS = (5, 3, 2)
_TWIN = 0.5  # of marked sentences have their unmarked twin beside them
_WORDS = (2, 16)  # of a domain's sentence
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be been but by for from had has have he her his i if in is it its me my of on or
        our she so that the their them there they this to us was we were will with would you your""",
    )
)


def add_marks(text: str, tokens: Sequence[str], rng: random.Random) -> str:
    """A text with these tokens at random places where they act on something, as :func:`canonical` has it.

    A token that has no place in the text, such as a pause in one word, is left out. Emphasis is mostly on words that
    carry something, a glide anywhere in its phrase.

    Raises:
        ProsodyTagError: the text holds an unknown tag.
    """
    words = plan_delivery(strip_marks(text))
    before: list[str] = [""] * len(words)
    phrases = sorted({word.phrase for word in words})
    for token in tokens:
        if token == EMPH:
            telling = [i for i, word in enumerate(words) if word.text.lower().strip(".,;:!?") not in _FUNCTION_WORDS]
            places = telling if telling and rng.random() < 0.85 else list(range(len(words)))
        elif token in PAUSES:
            places = list(range(1, len(words)))
        else:
            taken = {words[i].phrase for i, marks in enumerate(before) if any(t in marks for t in _rivals(token))}
            free = [phrase for phrase in phrases if phrase not in taken]
            chosen = rng.choice(free) if free else None
            places = [i for i, word in enumerate(words) if word.phrase == chosen]
            if token in LEVELS and rng.random() < 0.5:
                places = places[:1]  # from the start of a phrase
        if places:
            before[rng.choice(places)] += token
    return canonical(" ".join(marks + word.text for marks, word in zip(before, words, strict=True)))


def _rivals(token: str) -> tuple[str, ...]:
    return LEVELS if token in LEVELS else GLIDES


def mark_lines(lines: Sequence[str], share: float, rng: random.Random) -> list[str]:
    """Lines of which ``share`` have one to three tokens, all seven equally often; half of those have their twin beside.

    Raises:
        ProsodyTagError: a line holds an unknown tag.
    """
    bag: list[str] = []
    made: list[str] = []
    for line in lines:
        if rng.random() >= share:
            made.append(line)
            continue
        tokens: list[str] = []
        for _ in range(rng.choices(range(1, MOST + 1), _COUNT_WEIGHTS)[0]):
            if not bag:
                bag = rng.sample(PROSODY_TOKENS, len(PROSODY_TOKENS))
            tokens.append(bag.pop())
        made.append(add_marks(line, tokens, rng))
        if rng.random() < _TWIN:
            made.append(line)
    return made


def domain_sentences(path: Path, count: int, rng: random.Random) -> list[str]:
    """``count`` different replies of a domain without tokens.

    Raises:
        DomainError: the file breaks a rule.
        ValueError: the domain does not have so many.
    """
    domain = load_domain(path)
    found: dict[str, None] = {}
    drawn = 0
    while len(found) < count:
        if drawn > 20 * count + 1000:
            raise ValueError(f"{path}: {drawn} dialogues have only {len(found)} different replies, not {count}")
        for turn in domain.sample_dialogue(rng):
            text = strip_marks(turn.reply)
            if _WORDS[0] <= len(text.split()) <= _WORDS[1] and len(found) < count:
                found[text] = None
        drawn += 1
    return list(found)
