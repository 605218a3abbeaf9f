"""What the agent did, read from what it said: reply texts in, actions out.

- A reply is known by the template it fits; its values are found as everywhere else in the domain.
- Only words that the domain's own wording has count: a reply that fits no template, or holds a word no item has, does
  nothing.
- An order of which no drink was heard becomes a question for it; one that is heard without a gap, or has many drinks,
  is said as it was heard.
- A reply that no turn can have as the order stands ("Okay, now ..." where nothing was ordered) is not begun.
- The order is kept as said. A reply that names the whole order puts it right, silently; a change that the known order
  has no place for causes no action.
- A reply that was broken off after it had named its drinks has done to the order what it would have.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.domain.dialogue import (
    Item,
    OrderState,
    Parsed,
    find_target,
    items_text,
    note_text,
    possible_replies,
    respond,
)
from agent.domain.domain_file import REPLY_FILL, DomainSpec, Operation
from agent.domain.grammar import Node
from agent.domain.understanding import Understanding, normal_words
from models.errors import ProsodyTagError
from models.prosody import strip_marks
from models.tokenizer import UNKNOWN

MANY_ITEMS = 3  # in one turn: from so many on models leave one out now and then
_ITEM_FILLS = frozenset({"items", "order", "changed", "target"})


@dataclass(frozen=True, slots=True)
class Said:
    """A reply as read.

    Attributes:
        do: what its rule does to the order.
        action: the action that goes with it.
        items: the drinks in each fill that names drinks.
    """

    do: Operation | None
    action: str | None
    items: Mapping[str, tuple[Item, ...]]


@dataclass(frozen=True, slots=True)
class _Template:
    pattern: re.Pattern[str]  # over words, each followed by a space
    begun: re.Pattern[str]  # the same, broken off after the last fill; nothing, when what follows cannot tell its end
    fills: tuple[str, ...]
    literal_words: int
    do: Operation | None
    action: str | None


class ReplyReader:
    """Knows the replies of one domain; shared by all conversations.

    Args:
        spec: the checked domain file.
        macros: its macros as phrase trees.
    """

    def __init__(self, spec: DomainSpec, macros: Mapping[str, Node]) -> None:
        self.spec = spec
        self._head = spec.item.head
        self._understanding = Understanding(spec, macros)
        self._item_words = _item_words(spec)
        self.around = {fill: _around(spec, fill) for fill in ("order", "changed", "target")}
        self.adding = _adding(spec)
        question = spec.item.not_heard
        self.asking = {} if question is None else dict.fromkeys(self.adding, question)
        self._impossible: dict[tuple[bool, str], set[str]] = {}
        self._asked = {_line(before + rest) for before, rest in self.asking.items()}
        templates = [_template(spec, name, self._item_words) for name in spec.replies]
        self._templates = sorted(templates, key=lambda template: -template.literal_words)

    def read(self, text: str, complete: bool = True) -> Said | None:
        """The reply with this text (with or without prosody marks), None when it fits no template.

        One that is not ``complete`` fits when it has fills, and all of them are there.
        """
        try:
            line = _line(text)
        except ProsodyTagError:
            return None
        if line in self._asked:
            return Said(None, None, {})
        for template in self._templates:
            match = (template.pattern if complete else template.begun).fullmatch(line)
            if match is None:
                continue
            fills = dict(zip(template.fills, match.groups(), strict=True))
            items = {name: self._items(words) for name, words in fills.items() if name in _ITEM_FILLS}
            if all(items.values()):
                return Said(template.do, template.action, items)
        return None

    def understand(self, heard: str) -> Parsed:
        """What a user's turn means, from its transcript."""
        return self._understanding.parse(heard)

    def may_name_item(self, heard: str) -> bool:
        """Whether a user's turn holds the name of an item, also in the plural, or a word that was not understood."""
        words = normal_words(heard)
        singular = [word.removesuffix("s") for word in words]
        found = (*self._understanding.find(words), *self._understanding.find(singular))
        return UNKNOWN in heard or any(value.slot == self._head for value in found)

    def impossible(self, state: OrderState) -> set[str]:
        """What only replies begin with that no turn gets in this state, as short as can be."""
        kind = (bool(state.items), state.status)  # what there is besides makes no difference
        if kind not in self._impossible:
            possible, replies = possible_replies(self.spec, state), self.spec.replies
            others = [strip_marks(replies[name]) for name in possible]
            found = (self._own_beginning(strip_marks(replies[name]), others) for name in replies.keys() - possible)
            self._impossible[kind] = {beginning for beginning in found if beginning}
        return self._impossible[kind]

    def _own_beginning(self, reply: str, others: list[str]) -> str:
        """The first words of a reply, before any fill, that tell it from all others; empty when they do not."""
        words = reply.partition("{")[0].split()
        for count in range(1, len(words) + 1):
            beginning = " ".join(words[:count])
            same = re.compile(re.escape(beginning) + r"(?!\w)")
            if words[count - 1] not in self._item_words and not any(same.match(other) for other in others):
                return beginning
        return ""

    def _items(self, words: str) -> tuple[Item, ...]:
        """The drinks a fill names, none when it holds anything else."""
        if not self._item_words.issuperset(words.split()):
            return ()
        items = self._understanding.reply_items(words)
        return tuple(items) if all(self._head in item for item in items) else ()


class Tracker:
    """The order of one conversation, as the agent's replies have it."""

    def __init__(self, replies: ReplyReader) -> None:
        self.state = OrderState()
        self._replies, self._understood = replies, True

    @property
    def note(self) -> str | None:
        """What there is to remember of the order, as models are taught it; None: the latest reply is unknown."""
        return note_text(self._replies.spec, self.state) if self._understood else None

    def openings(self, heard: str) -> dict[str, str | None]:
        """How the reply to what was heard goes on where that follows from the order, by the words before it.

        Whether it is such a reply is the model's to say; what is read back, and what a drink is after a change, is not.
        None: no reply begins like that now.
        """
        replies = self._replies
        found: dict[str, str | None] = dict.fromkeys(replies.impossible(self.state))
        if self.state.items:
            order = items_text(replies.spec, self.state.items)
            found |= {before.strip(): f"{order}{after}" for before, after in replies.around["order"]}
        if not heard.strip():
            return found
        parsed = replies.understand(heard)
        said = strip_marks(respond(replies.spec, self.state, parsed)[0])
        clear = parsed.whole and UNKNOWN not in heard
        if clear or len(parsed.items) >= MANY_ITEMS:
            added = {before: said[len(before) + 1 :] for before in replies.adding if said.startswith(f"{before} ")}
            found |= dict.fromkeys(replies.adding if added else ()) | added
        changed = [before for before, _ in replies.around["changed"] if said.startswith(before)]
        removed = [before for before, _ in replies.around["target"] if said.startswith(before)]
        if not replies.may_name_item(heard):
            found |= dict.fromkeys(replies.adding) if changed and clear else replies.asking
        return found | {before.strip(): said[len(before) :] for before in (*changed, *removed)}

    def take(self, text: str, complete: bool = True) -> tuple[dict[str, Any], ...]:
        """Read one reply.

        Returns:
            The actions it stands for, in order, as the policy makes them: ``{"name": ..., "arguments": {...}}``.
        """
        said = self._replies.read(text, complete)
        if said is not None and not complete and said.do in ("place", "clear"):
            said = None  # too much to do for a reply that was not heard
        self._understood = said is not None
        if said is None:
            return ()
        if said.do in (None, "confirm", "reopen", "place") and "order" in said.items:
            self.state = replace(self.state, items=said.items["order"])
        arguments = self._apply(said)
        if arguments is None or said.action is None:
            return ()
        return ({"name": said.action, "arguments": arguments},)

    def _apply(self, said: Said) -> dict[str, Any] | None:
        """Do to the order what was said; the action's arguments, None when the order has no place for it."""
        state = self.state
        match said.do:
            case "add":
                kept = () if state.status == "placed" else state.items
                added = said.items.get("items", ())
                if not added or len(kept) + len(added) > self._replies.spec.item.max_items:
                    return None
                self.state = OrderState((*kept, *added))
                return {"items": [dict(item) for item in added]}
            case "change":
                new = said.items.get("changed", ())
                if len(new) != 1 or not state.items:
                    return None
                index = nearest(state.items, new[0])
                self.state = OrderState((*state.items[:index], new[0], *state.items[index + 1 :]))
                return {"index": index, "item": dict(new[0])}
            case "remove":
                named = said.items.get("target") or said.items.get("changed") or (None,)
                index = find_target(state.items, named[0])
                if index < 0:
                    return None
                self.state = OrderState((*state.items[:index], *state.items[index + 1 :]))
                return {"index": index, "item": dict(state.items[index])}
            case "clear":
                self.state = OrderState()
                return {}
            case "place":
                if not state.items or state.status == "placed":
                    return None
                self.state = replace(state, status="placed")
                return {"items": [dict(item) for item in state.items]}
            case "confirm":
                self.state = replace(state, status="confirming")
            case "reopen":
                self.state = replace(state, status="open")
        return {}


def nearest(items: tuple[Item, ...], changed: Item) -> int:
    """Index of the item that ``changed`` was likely made from: the last of those that differ in the fewest slots."""

    def differing(index: int) -> int:
        item = items[index]
        return sum(item.get(slot) != changed.get(slot) for slot in item.keys() | changed.keys())

    return min(range(len(items) - 1, -1, -1), key=differing)


def _around(spec: DomainSpec, fill: str) -> list[tuple[str, str]]:
    """What stands before and after a fill in the replies that have no other, and that no other begins like."""
    replies = [strip_marks(reply) for reply in spec.replies.values()]
    parts = (reply.split(f"{{{fill}}}") for reply in replies if REPLY_FILL.findall(reply) == [fill])
    return [
        (before, after) for before, after in parts
        if before.strip() and sum(reply.startswith(before) for reply in replies) == 1
    ]  # fmt: skip


def _adding(spec: DomainSpec) -> tuple[str, ...]:
    """How the replies begin that add to the order, and no others, the article of the first item included."""
    replies = [strip_marks(reply) for reply in spec.replies.values()]
    adding = {strip_marks(spec.replies[rule.reply]).partition("{items}") for rule in spec.rules if rule.do == "add"}
    own = [text for text, fill, _ in adding if fill and sum(reply.startswith(f"{text}{{") for reply in replies) == 1]
    return tuple(f"{text}{word}" for text in own for word in ("a", "an"))


def _line(text: str) -> str:
    """What patterns are matched with: the words of a reply, each followed by a space."""
    return "".join(f"{word} " for word in normal_words(strip_marks(text)))


def _template(spec: DomainSpec, name: str, item_words: frozenset[str]) -> _Template:
    rules = [rule for rule in spec.rules if rule.reply == name]
    effects = {(rule.do, rule.action) for rule in rules}
    do, action = effects.pop() if len(effects) == 1 else (None, None)  # several: none of them has an action
    pieces = REPLY_FILL.split(strip_marks(spec.replies[name]))
    words = [normal_words(piece) for piece in pieces[::2]]
    texts = [re.escape("".join(f"{word} " for word in part)) for part in words]
    filled = texts[0] + "".join("((?:[^ ]+ )+?)" + text for text in texts[1:-1])
    filled += "((?:[^ ]+ )+?)" if len(texts) > 1 else ""
    pattern = filled + (texts[-1] if len(texts) > 1 else "")
    begun = "(?!)"
    if len(texts) > 1 and words[-1] and words[-1][0] not in item_words:  # it, and as many more as there are
        more = "".join(f"(?:{re.escape(word)} " for word in words[-1][1:]) + ")?" * (len(words[-1]) - 1)
        begun = f"{filled}{re.escape(words[-1][0])} {more}"
    fills = tuple(pieces[1::2])
    return _Template(re.compile(pattern), re.compile(begun), fills, sum(map(len, words)), do, action)


def _item_words(spec: DomainSpec) -> frozenset[str]:
    """Every word that the domain's wording of items has."""
    texts = [spec.item.with_word, spec.item.joiner, "a an"]
    for slot in spec.slots.values():
        texts += [*slot.values, *slot.amounts]
    return frozenset(word for text in texts for word in normal_words(text))
