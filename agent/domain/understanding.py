"""Understanding by rule: slot values and intents found in a transcript or in an agent's reply.

- Slot values are found greedily from the left, longest first; everything between them is ignored.
- An intent is known by a phrase that fits word by word, else by the first intent whose cue is heard.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agent.domain.dialogue import Parsed
from agent.domain.domain_file import DomainSpec
from agent.domain.grammar import Node, fills_of, parse_phrase, to_regex
from models.prosody import strip_marks

_NOT_WORD = re.compile(r"[^a-z0-9\s]+")
_ARTICLES = frozenset({"a", "an"})


@dataclass(frozen=True, slots=True)
class Found:
    """A slot value in a text; ``start`` and ``end`` count words."""

    slot: str
    value: str
    start: int
    end: int


@dataclass(slots=True)
class _Group:
    target: bool = False
    item: dict[str, str] = field(default_factory=dict)


def normal_words(text: str) -> list[str]:
    """Lower-case words without punctuation or apostrophes."""
    return _NOT_WORD.sub(" ", text.lower().replace("'", "").replace("’", "").replace("-", " ")).split()


class Understanding:
    """Finds slot values and intents of one domain.

    Args:
        spec: the checked domain file.
        macros: its macros as phrase trees.
        unknown: whole sentences known to be outside the domain.
    """

    def __init__(self, spec: DomainSpec, macros: Mapping[str, Node], unknown: Iterable[str] = ()) -> None:
        self._spec = spec
        self._values = _value_table(spec)
        self._longest = max(len(words) for words in self._values)
        item = spec.item
        between = (item.with_word, item.joiner, *item.loose_joiners, *item.target_words)
        self._connecting = _ARTICLES.union(*map(normal_words, between))
        self._value_words = frozenset(word for words in self._values for word in words) - _ARTICLES
        self._literal: dict[str, re.Pattern[str]] = {}
        self._filled: dict[str, re.Pattern[str]] = {}
        self._cues: dict[str, re.Pattern[str]] = {}
        for name, intent in spec.intents.items():
            nodes = [parse_phrase(p if isinstance(p, str) else p.say, macros) for p in intent.phrases]
            for table, chosen in (
                (self._literal, [node for node in nodes if not fills_of(node)]),
                (self._filled, [node for node in nodes if fills_of(node)]),
            ):
                if chosen:
                    table[name] = re.compile("|".join(f"(?:{to_regex(node)})" for node in chosen))
            if intent.cues:
                cues = [to_regex(parse_phrase(cue, macros)) for cue in intent.cues]
                self._cues[name] = re.compile("|".join(c if c.startswith("^") else rf"(?<![^ ]){c}" for c in cues))
        self._fillers = frozenset(spec.disfluency.fillers)
        numbers = spec.numbers
        self._unknown = frozenset(" ".join(normal_words(text)) for text in unknown)
        self._number_words = frozenset((*numbers.digits, *numbers.teens, *numbers.tens))

    def find(self, words: list[str]) -> list[Found]:
        """Slot values in ``words``, greedily from the left, longest first."""
        found, at = [], 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                hit = self._values.get(tuple(words[at : at + length]))
                if hit is not None:
                    found.append(Found(hit[0], hit[1], at, at + length))
                    at += length
                    break
            else:
                at += 1
        return found

    def items(self, text: str) -> list[dict[str, str]]:
        """Items named in a text, in order; values without a head are joined to the nearest item."""
        words = normal_words(text)
        return [group.item for group in self._groups(words, frozenset())]

    def reply_items(self, text: str) -> list[dict[str, str]]:
        """Items echoed in an agent's reply (with or without prosody marks)."""
        return self.items(strip_marks(text))

    def parse(self, text: str) -> Parsed:
        """Intent and values of a user's turn."""
        words = [word for word in normal_words(text) if word not in self._fillers]
        line = "".join(f"{word} " for word in words)
        if not words or line.rstrip() in self._unknown:
            return Parsed("unknown")
        for name, pattern in self._literal.items():
            if pattern.fullmatch(line):
                return Parsed(name, whole=True)
        found = self.find(words)
        number = self._number(words, found)
        if number:
            return Parsed("number", number=number)
        for table, whole in ((self._filled, True), (self._cues, False)):
            for name, pattern in table.items():
                hit = pattern.fullmatch(line) if whole else pattern.search(line)
                parsed = self._fill(name, words, found) if hit else None
                if parsed is not None:
                    return replace(parsed, whole=whole and self._clear(words, found))
        for name in ("order", "change"):
            parsed = self._fill(name, words, found) if name in self._spec.intents else None
            if parsed is not None:
                return parsed
        return Parsed("unknown")

    def _clear(self, words: list[str], found: list[Found]) -> bool:
        """Whether no word of a value is left over in a text, and after each "with" comes what may follow it."""
        item = self._spec.item
        may_follow = {*item.additions, *item.loose_additions}
        for hit in found:
            before = [word for word in words[: hit.start] if word not in _ARTICLES][-1:]
            if before == [item.with_word] and hit.slot not in may_follow:
                return False
        said = {at for hit in found for at in range(hit.start, hit.end)}
        left = (word for at, word in enumerate(words) if at not in said)
        return self._value_words.isdisjoint(left) and words[-1] not in self._connecting

    def _fill(self, intent: str, words: list[str], found: list[Found]) -> Parsed | None:
        """The intent with its values, or None when the values it needs are not there."""
        head = self._spec.item.head
        heads = [hit for hit in found if hit.slot == head]
        match self._spec.intents[intent].fill:
            case None:
                return Parsed(intent)
            case "items":
                if not heads or self._adds_to_target(words, found):
                    return None
                return Parsed(intent, tuple(g.item for g in self._groups(words, frozenset())))
            case "drink":
                return Parsed(intent, option=heads[-1].value) if heads else None
            case "option":
                return Parsed(intent, option=self._plain(found[0])) if found else None
            case "target":
                groups = self._groups(words, frozenset()) if heads else []
                return Parsed(intent, target=groups[0].item) if groups else None
            case "changes":
                return self._changes(intent, words)
            case _:
                return None

    def _adds_to_target(self, words: list[str], found: list[Found]) -> bool:
        """Whether the turn adds to a drink already ordered: "add soy milk to the latte"."""
        rules = self._spec.item
        to_target = any(group.target for group in self._groups(words, frozenset(rules.target_words)))
        return to_target and found[0].slot in rules.additions

    def _changes(self, intent: str, words: list[str]) -> Parsed | None:
        groups = self._groups(words, frozenset(self._spec.item.target_words))
        target = next((g.item for g in groups if g.target), None)
        new = {slot: value for g in groups if not g.target for slot, value in g.item.items()}
        return Parsed(intent, (new,), target) if new else None

    def _plain(self, hit: Found) -> str:
        """The value without its amount."""
        values = self._spec.slots[hit.slot].values
        return next((v for v in sorted(values, key=len, reverse=True) if hit.value.endswith(v)), hit.value)

    def _number(self, words: list[str], found: list[Found]) -> str:
        """The spoken number, when the turn is one: number words at its end and no slot value."""
        start = len(words)
        while start > 0 and words[start - 1] in self._number_words:
            start -= 1
        line = "".join(f"{word} " for word in words)
        named = "number" in self._filled and self._filled["number"].fullmatch(line)
        return " ".join(words[start:]) if named and not found and start < len(words) else ""

    def _groups(self, words: list[str], target_words: frozenset[str]) -> list[_Group]:
        """Join values to items: modifiers to the next head, additions to the one before, broken at articles.

        With ``target_words``, values between such a word and the next head belong to a target.
        """
        spec = self._spec.item
        groups: list[_Group] = []
        pending: list[Found] = []
        target = False
        at = 0
        for hit in [*self.find(words), None]:
            between = words[at : hit.start if hit else len(words)]
            at = hit.end if hit else at
            if groups and pending and (not _ARTICLES.isdisjoint(between) or spec.joiner in between):
                pending = _give(groups[-1], pending)
            if hit is None:
                break
            if not target_words.isdisjoint(between[-1:]):
                if pending:
                    groups.append(_Group(False, {value.slot: value.value for value in pending}))
                pending, target = [], True
            if hit.slot == spec.head:
                if groups and _clash(pending, hit):
                    pending = [*_give(groups[-1], pending[:1]), *pending[1:]]
                groups.append(_Group(target, {p.slot: p.value for p in pending} | {hit.slot: hit.value}))
                pending, target = [], False
            elif hit.slot in spec.additions and groups and not groups[-1].target and not target:
                pending = _give(groups[-1], [*pending, hit])
            else:
                pending.append(hit)
        return _settle(groups, pending)


def _clash(pending: list[Found], hit: Found) -> bool:
    slots = [value.slot for value in (*pending, hit)]
    return len(set(slots)) < len(slots)


def _give(group: _Group, values: Iterable[Found]) -> list[Found]:
    """Put values into the group where its slots are free; returns those that found no place."""
    left = []
    for value in values:
        if group.target or value.slot in group.item:
            left.append(value)
        else:
            group.item[value.slot] = value.value
    return left


def _settle(groups: list[_Group], pending: list[Found]) -> list[_Group]:
    """Place values after the last head: with that item, or, after a target, as an item of their own."""
    left = _give(groups[-1], pending) if groups else pending
    if left and (not groups or groups[-1].target):
        groups.append(_Group(False, {value.slot: value.value for value in left}))
    return groups


def _value_table(spec: DomainSpec) -> dict[tuple[str, ...], tuple[str, str]]:
    table: dict[tuple[str, ...], tuple[str, str]] = {}
    for slot, slot_spec in spec.slots.items():
        for value in slot_spec.values:
            for form in (value, *slot_spec.aliases.get(value, ())):
                table[tuple(normal_words(form))] = (slot, value)
                for amount in slot_spec.amounts:
                    table[tuple(normal_words(f"{amount} {form}"))] = (slot, f"{amount} {value}")
    return table
