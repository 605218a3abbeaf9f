"""How understanding and word errors are counted.

- A command is understood when its intent and every labelled slot are right; slots the label does not have are counted
  apart and do not make it wrong. The agent may be read from its spoken reply or from the user transcript.
- Word errors are Levenshtein distances over words, summed over the corpus before dividing.
- Every rate comes with a 95 % bootstrap interval over clips.
- A spoken number is an item with the one slot `number`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.domain.understanding import normal_words
from models.prosody import strip_marks
from training.domain import Domain

# Benchmark labels -> the domain intents that mean the same.
INTENT_NAMES: dict[str, frozenset[str]] = {"orderDrink": frozenset({"order", "add"})}
NUMBER, UNKNOWN = "number", "unknown"  # intents of every domain that the evaluation knows by name
CHANGES = frozenset({"change", "remove", "remove_last", "cancel"})
READ_BACKS = frozenset({"read_back", "done"})
RESAMPLES = 2000

Items = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says was understood: the intents it fits, and the items it names, one mapping of slots an item."""

    intents: frozenset[str]
    items: Items


@dataclass(frozen=True, slots=True)
class Understanding:
    """What was right in one reading of one command; slots are named."""

    intent_right: bool
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def understood(self) -> bool:
        """Whether the intent and every labelled slot are right."""
        return self.intent_right and not self.wrong


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of a count, or another figure of so many clips, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    count: int

    def to_json(self) -> dict[str, float | int]:
        """Rounded to four places."""
        return {
            "value": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "count": self.count,
        }

    def __str__(self) -> str:
        """`.873 [.820, .927] of 150`, as it stands in tables."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.count}"


def read_transcript(domain: Domain, text: str) -> Reading:
    """What a user transcript says."""
    parsed = domain.parse_user(text)
    items = ({NUMBER: parsed.number},) if parsed.number else parsed.items
    return Reading(frozenset({parsed.intent}), items)


def read_reply(domain: Domain, text: str) -> Reading:
    """What an agent reply says it understood: the intents whose rules give such a reply, and the items it names."""
    name = reply_name(domain, text)
    if name is None:
        return Reading(frozenset(), [])
    template = domain.spec.replies[name]
    intents = frozenset(rule.intent for rule in domain.spec.rules if rule.reply == name)
    if f"{{{NUMBER}}}" in template:
        said = _template(template).fullmatch(_line(text))
        return Reading(intents, ({NUMBER: said[NUMBER].strip()},) if said else ())
    return Reading(intents, domain.parse_reply(text))


def reply_name(domain: Domain, text: str) -> str | None:
    """The domain's reply that a text is, by its template; the most literal one of those that fit, None if none does."""
    line = _line(text)
    fitting = [name for name, template in domain.spec.replies.items() if _template(template).fullmatch(line)]
    return max(fitting, key=lambda name: len(_literals(domain.spec.replies[name])), default=None)


def orders(domain: Domain, text: str) -> bool:
    """Whether a reply, whole or broken off, puts in an item or comes with an action; fixed wording names no item."""
    line, name = _line(text), reply_name(domain, text)
    if name is None:
        fixed = [_line(reply) for reply in domain.spec.replies.values() if "{" not in reply]
        return bool(domain.parse_reply(text)) and not any(reply.startswith(line) for reply in fixed)
    fit = _template(domain.spec.replies[name]).fullmatch(line)
    acts = any(rule.action is not None for rule in domain.spec.rules if rule.reply == name)
    return acts or (fit is not None and any(domain.parse_reply(words) for words in fit.groups()))


def reads_back_after_change(intents: Sequence[str | None]) -> bool:
    """Whether a dialogue's turns are three to six, with a read-back or an end somewhere after a change."""
    changes = [index for index, intent in enumerate(intents) if intent in CHANGES]
    return 3 <= len(intents) <= 6 and bool(changes) and not READ_BACKS.isdisjoint(intents[changes[0] + 1 :])


def is_read_back(domain: Domain, intent: str | None, reply: str) -> bool:
    """Whether the right reply to a turn tells the whole order, or that there is none."""
    name = reply_name(domain, reply)
    if name is None:
        return False
    empty = any(r.reply == name and r.when == "empty" and r.intent == intent in READ_BACKS for r in domain.spec.rules)
    return empty or "{order}" in domain.spec.replies[name]


def compare(intent: str, slots: Mapping[str, str], reading: Reading) -> Understanding:
    """Scores one reading of a command that orders one item.

    Args:
        intent: Labelled intent.
        slots: Labelled slots, name -> value.
        reading: What was read. Of several items the one that agrees most is compared and every slot of the others is
            extra.
    """

    def agreeing(item: Mapping[str, str]) -> int:
        return sum(_same(item, name, value) for name, value in slots.items())

    best = max(range(len(reading.items)), key=lambda i: (agreeing(reading.items[i]), -i), default=None)
    item: Mapping[str, str] = {} if best is None else reading.items[best]
    right = tuple(name for name, value in slots.items() if _same(item, name, value))
    extra = [name for name in item if name not in slots]
    extra += [name for i, other in enumerate(reading.items) if i != best for name in other]
    wrong = tuple(name for name in slots if name not in right)
    return Understanding(same_intent(intent, reading.intents), right, wrong, tuple(extra))


def same_intent(label: str, intents: Collection[str]) -> bool:
    """Whether one of the domain intents is what the label asks for."""
    return not INTENT_NAMES.get(label, frozenset({label})).isdisjoint(intents)


def _same(item: Mapping[str, str], name: str, value: str) -> bool:
    return normal_words(item.get(name, "")) == normal_words(value)


def _literals(template: str) -> list[str]:
    return normal_words(re.sub(r"\{\w+\}", " ", strip_marks(template)))


def _line(text: str) -> str:
    return "".join(f"{word} " for word in normal_words(strip_marks(text)))


def _template(template: str) -> re.Pattern[str]:
    """A reply template as a pattern over words with a space after each; a fill is one word or more, by its name."""
    literal, *rest = re.split(r"\{(\w+)\}", strip_marks(template))
    pattern, named = _line(literal), set()
    for fill, literal in zip(rest[::2], rest[1::2], strict=True):
        pattern += ("(?:" if fill in named else f"(?P<{fill}>") + r"(?:\w+ )+?)" + _line(literal)
        named.add(fill)
    return re.compile(pattern)


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Substitutions, deletions and insertions that turn `reference` into `heard`."""
    row = list(range(len(heard) + 1))
    for i, expected in enumerate(reference, start=1):
        previous, row[0] = row[0], i
        for j, got in enumerate(heard, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (expected != got))
    return row[-1]


def rate(hits: Sequence[float], of: Sequence[float] | None = None, seed: int = 0) -> Rate:
    """A ratio of sums over clips, with its percentile bootstrap interval.

    Args:
        hits: Numerator of each clip: 1.0 / 0.0 for a yes / no, or its word errors.
        of: Denominator of each clip, e.g. its words; ones by default.
        seed: Of the resampling, so that a figure can be repeated.

    Returns:
        The rate; all zeros when there is nothing to divide by.

    Raises:
        ValueError: The two lengths differ.
    """
    top = np.asarray(hits, dtype=np.float64)  # [N]
    bottom = np.ones_like(top) if of is None else np.asarray(of, dtype=np.float64)  # [N]
    if top.shape != bottom.shape:
        raise ValueError(f"{top.size} numerators, {bottom.size} denominators")
    if not bottom.sum():
        return Rate(0.0, 0.0, 0.0, int(bottom.sum()))
    picks = np.random.default_rng(seed).integers(0, top.size, (RESAMPLES, top.size))  # [R, N]
    sums = bottom[picks].sum(axis=1)
    drawn = top[picks].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Rate(float(top.sum() / bottom.sum()), float(low), float(high), int(bottom.sum()))


def percentile(values: Sequence[float], share: float, seed: int = 0) -> Rate:
    """A percentile with its bootstrap interval; `share` is 50 for the median. All zeros for no values."""
    if not values:
        return Rate(0.0, 0.0, 0.0, 0)
    known = np.asarray(values, dtype=np.float64)  # [N]
    picks = np.random.default_rng(seed).integers(0, known.size, (RESAMPLES, known.size))  # [R, N]
    low, high = np.percentile(np.percentile(known[picks], share, axis=1), [2.5, 97.5])
    return Rate(float(np.percentile(known, share)), float(low), float(high), known.size)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, rounded to 0.01; empty for no values."""
    if not values:
        return {}
    p50, p95, p99 = np.percentile(np.asarray(values, dtype=np.float64), [50, 95, 99])
    named = {"p50": p50, "p95": p95, "p99": p99, "max": max(values)}
    return {name: round(float(value), 2) for name, value in named.items()}


def summarise(readings: Sequence[Understanding]) -> dict[str, Any]:
    """Rates over clips: understood in full, intent, all slots together and each slot; extra slots as a count."""
    slots = sorted({name for reading in readings for name in reading.right + reading.wrong})
    return {
        "understood": rate([reading.understood for reading in readings]),
        "intent": rate([reading.intent_right for reading in readings]),
        "slots": rate([len(r.right) for r in readings], [len(r.right) + len(r.wrong) for r in readings]),
        "per_slot": {
            name: rate([name in r.right for r in readings], [name in r.right + r.wrong for r in readings])
            for name in slots
        },
        "extra_slots": sum(len(reading.extra) for reading in readings),
        "clips_with_extra_slots": sum(bool(reading.extra) for reading in readings),
    }
