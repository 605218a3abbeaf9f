"""Dialogue state and the deterministic policy: what the agent answers, given the state and one understood turn.

- The reply is a pure function of (state, turn), so that a small model can learn it exactly.
- Items are plain ``slot -> value`` mappings; amounts stay in the value verbatim ("a lot of soy milk").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agent.domain.domain_file import DomainSpec, RuleSpec

Item = Mapping[str, str]
Status = Literal["open", "confirming", "placed"]


@dataclass(frozen=True, slots=True)
class OrderState:
    """What the agent remembers between turns."""

    items: tuple[Item, ...] = ()
    status: Status = "open"

    def to_json(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        return {"items": [dict(item) for item in self.items], "status": self.status}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "OrderState":
        """The state that :meth:`to_json` gave; an empty mapping is a new one."""
        return cls(tuple(values.get("items", ())), values.get("status", "open"))


@dataclass(frozen=True, slots=True)
class Parsed:
    """One user turn as understood.

    Attributes:
        intent: name of an intent of the domain.
        items: ordered items; for ``change`` one item with the new slot values.
        target: slot values that point at an item already ordered; None for the last one.
        option: a slot value or drink asked about.
        number: spoken digits, as words.
        whole: whether a phrase of the intent fits word by word, with values that are; no part of the meaning.
    """

    intent: str
    items: tuple[Item, ...] = ()
    target: Item | None = None
    option: str = ""
    number: str = ""
    whole: bool = field(default=False, compare=False)

    def slots(self) -> dict[str, Any]:
        """What was said beside the intent, as plain JSON values; absent parts are left out."""
        found: dict[str, Any] = {}
        if self.items:
            found["items"] = [dict(item) for item in self.items]
        if self.target is not None:
            found["target"] = dict(self.target)
        if self.option:
            found["option"] = self.option
        if self.number:
            found["number"] = self.number
        return found


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """One user turn and the agent's answer.

    Attributes:
        user_text: lower case, no punctuation, numbers as words.
        reply: with prosody marks.
        state: after the turn.
        actions: ``{"name": ..., "arguments": {...}}``, in order.
    """

    user_text: str
    intent: str
    slots: dict[str, Any]
    reply: str
    state: OrderState
    actions: tuple[dict[str, Any], ...] = ()


Dialogue = list[DialogueTurn]


@dataclass(frozen=True, slots=True)
class _Effect:
    state: OrderState
    arguments: dict[str, Any] = field(default_factory=dict)
    touched: Item | None = None


def article(words: str) -> str:
    """``a`` or ``an``, as the first letter asks for."""
    return "an" if words[:1] in tuple("aeiou") else "a"


def item_text(spec: DomainSpec, item: Item, emphasis: str = "") -> str:
    """The canonical wording of an item: modifiers, head, additions, each in the order of the domain file.

    An item without its head (new slot values only) is worded by what it has.
    """
    rules = spec.item
    front = " ".join(item[slot] for slot in (*rules.modifiers, rules.head) if slot in item)
    back = f" {rules.joiner} ".join(item[slot] for slot in rules.additions if slot in item)
    parts = [f"{article(front)} {emphasis}{front}"] if front else []
    if back:
        parts.append(f"{rules.with_word} {back}")
    return " ".join(parts)


def items_text(spec: DomainSpec, items: tuple[Item, ...], emphasis: str = "") -> str:
    """Canonical wording of several items: ``a``, ``a and b``, ``a, b, and c``."""
    texts = [item_text(spec, item, emphasis) for item in items]
    if len(texts) <= 2:
        return " and ".join(texts)
    return ", ".join(texts[:-1]) + ", and " + texts[-1]


def note_text(spec: DomainSpec, state: OrderState) -> str:
    """What a model has to remember of a state; empty for an empty, open order.

    Items are named by their heads first: a value is found by the item it belongs to, and a network that has read no
    further than the value must know that item already.
    """
    rules = spec.item
    slots = (rules.head, *rules.modifiers, *rules.additions)
    items = ", ".join(" ".join(item[slot] for slot in slots if slot in item) for item in state.items)
    return f"{'' if state.status == 'open' else state.status} {items}".strip()


def find_target(items: tuple[Item, ...], target: Item | None) -> int:
    """Index of the last item that has all slot values of ``target`` (None: the last item); -1 if there is none."""
    for index in range(len(items) - 1, -1, -1):
        if target is None or all(items[index].get(slot) == value for slot, value in target.items()):
            return index
    return -1


def respond(spec: DomainSpec, state: OrderState, parsed: Parsed) -> tuple[str, OrderState, tuple[dict[str, Any], ...]]:
    """Answer one turn.

    Returns:
        The reply with prosody marks, the state after the turn, and the actions taken.

    Raises:
        ValueError: the intent is not one of the domain's.
    """
    rule = next((r for r in spec.rules if r.intent == parsed.intent and _holds(spec, r, state, parsed)), None)
    if rule is None:
        raise ValueError(f"no rule answers the intent {parsed.intent!r}")
    effect = _apply(spec, rule, state, parsed)
    reply = _reply(spec, rule, effect, parsed)
    actions = () if rule.action is None else ({"name": rule.action, "arguments": effect.arguments},)
    return reply, effect.state, actions


def possible_replies(spec: DomainSpec, state: OrderState) -> set[str]:
    """Names of the replies that some turn would get in this state."""
    possible: set[str] = set()
    for intent in spec.intents:
        for rule in (rule for rule in spec.rules if rule.intent == intent):
            by_turn = rule.when in ("no_target", "too_many")  # which depends on what is said, too
            if by_turn or _holds(spec, rule, state, Parsed(intent)):
                possible.add(rule.reply)
                if not by_turn:
                    break
    return possible


def _holds(spec: DomainSpec, rule: RuleSpec, state: OrderState, parsed: Parsed) -> bool:
    match rule.when:
        case None:
            return True
        case "empty":
            return not state.items
        case "has_items":
            return bool(state.items)
        case "no_target":
            return find_target(state.items, parsed.target) < 0
        case "too_many":
            kept = 0 if state.status == "placed" else len(state.items)
            return kept + len(parsed.items) > spec.item.max_items
        case status:
            return state.status == status


def _apply(spec: DomainSpec, rule: RuleSpec, state: OrderState, parsed: Parsed) -> _Effect:
    match rule.do:
        case "add":
            kept = () if state.status == "placed" else state.items
            added = [dict(item) for item in parsed.items]
            return _Effect(OrderState((*kept, *parsed.items)), {"items": added})
        case "change":
            index = find_target(state.items, parsed.target)
            old = state.items[index]
            new = {slot: value for part in (old, *parsed.items) for slot, value in part.items()}
            items = (*state.items[:index], new, *state.items[index + 1 :])
            return _Effect(OrderState(items), {"index": index, "item": dict(new)}, new)
        case "remove":
            index = find_target(state.items, parsed.target)
            old = state.items[index]
            items = state.items[:index] + state.items[index + 1 :]
            return _Effect(OrderState(items), {"index": index, "item": dict(old)}, old)
        case "clear":
            return _Effect(OrderState())
        case "confirm":
            return _Effect(replace(state, status="confirming"))
        case "place":
            return _Effect(replace(state, status="placed"), {"items": [dict(item) for item in state.items]})
        case "reopen":
            return _Effect(replace(state, status="open"))
        case None:
            return _Effect(state)


def _reply(spec: DomainSpec, rule: RuleSpec, effect: _Effect, parsed: Parsed) -> str:
    head = spec.item.head
    mark = spec.item.emphasis
    target = effect.touched or parsed.target or {}
    fills = {
        "items": items_text(spec, parsed.items, mark),
        "order": items_text(spec, effect.state.items, mark),
        "changed": item_text(spec, effect.touched, mark) if effect.touched else "",
        "target": target.get(head, ""),
        "a_drink": f"{article(parsed.option).capitalize()} {parsed.option}",
        "price": spec.prices.get(parsed.option, ""),
        "option": parsed.option,
        "number": parsed.number,
    }
    reply = spec.replies[rule.reply]
    for name, value in fills.items():
        reply = reply.replace("{" + name + "}", value)
    return reply
