"""A conversation domain, from one YAML file: it speaks as the user, answers as the agent, and understands both."""

import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.domain.dialogue import Dialogue, DialogueTurn, Item, OrderState, Parsed, article, note_text, respond
from agent.domain.domain_file import REPLY_FILL, DisfluencySpec, DomainSpec, read_domain_file
from agent.domain.grammar import Node, fills_of, parse_phrase, speak, words_of
from agent.domain.source_map import DomainError
from agent.domain.understanding import Understanding, normal_words
from models.prosody import strip_marks

__all__ = [
    "Dialogue",
    "DialogueTurn",
    "Domain",
    "DomainError",
    "DomainSpec",
    "Item",
    "OrderState",
    "Parsed",
    "load_domain",
]


def load_domain(path: str | Path, extra_unknown: Sequence[str] = ()) -> "Domain":
    """Load a domain file.

    Args:
        path: the YAML file.
        extra_unknown: more sentences that have nothing to do with the domain (lower case, no punctuation).

    Raises:
        DomainError: the file breaks a rule; the message names file and line.
    """
    spec, macros = read_domain_file(Path(path))
    return Domain(spec, macros, extra_unknown)


def disfluent(text: str, spec: DisfluencySpec, rng: random.Random) -> str:
    """Puts a filler before a word, or says the first words twice, as often as ``spec`` says."""
    words = text.split()
    if spec.fillers and rng.random() < spec.filler_probability:
        words.insert(rng.randrange(len(words)), rng.choice(spec.fillers))
    if len(words) > 3 and rng.random() < spec.restart_probability:
        words = words[: rng.randint(1, min(4, len(words) - 1))] + words
    return " ".join(words)


class Domain:
    """One conversation domain.

    Args:
        spec: the checked domain file.
        macros: its macros as phrase trees.
        extra_unknown: more sentences for the intent ``unknown``; when given, half of the draws take one of them.
    """

    def __init__(self, spec: DomainSpec, macros: dict[str, Node], extra_unknown: Sequence[str] = ()) -> None:
        self.spec = spec
        self._extra_unknown = tuple(extra_unknown)
        self._understanding = Understanding(spec, macros, extra_unknown)
        self._phrases: dict[str, tuple[list[Node], list[float]]] = {}
        for name, intent in spec.intents.items():
            nodes = [parse_phrase(p if isinstance(p, str) else p.say, macros) for p in intent.phrases]
            self._phrases[name] = (nodes, [1.0 if isinstance(p, str) else p.weight for p in intent.phrases])
        for name, intent in spec.intents.items():
            if intent.like is not None:
                nodes, weights = self._phrases[intent.like]
                own_nodes, own_weights = self._phrases[name]
                share = sum(own_weights) / sum(weights) / 2
                self._phrases[name] = (own_nodes + nodes, own_weights + [w * share for w in weights])

    # --- the agent -----------------------------------------------------------------------------------------------

    def respond(
        self,
        state: OrderState,
        intent: str,
        items: Sequence[Item] = (),
        target: Item | None = None,
        option: str = "",
        number: str = "",
    ) -> tuple[str, OrderState, tuple[dict[str, Any], ...]]:
        """Answer one turn; a pure function of its arguments.

        Returns:
            The reply with prosody marks, the state after the turn, and the actions taken.

        Raises:
            ValueError: the intent is not one of the domain's.
        """
        return respond(self.spec, state, Parsed(intent, tuple(items), target, option, number))

    def note(self, state: OrderState) -> str:
        """What there is to remember of a state: `note_text`."""
        return note_text(self.spec, state)

    def answer(self, state: OrderState, parsed: Parsed) -> tuple[str, OrderState, tuple[dict[str, Any], ...]]:
        """`respond` to a parsed turn."""
        return respond(self.spec, state, parsed)

    # --- understanding -------------------------------------------------------------------------------------------

    def parse_user(self, text: str) -> Parsed:
        """Intent and values of a user's turn, from a transcript."""
        return self._understanding.parse(text)

    def parse_reply(self, text: str) -> list[dict[str, str]]:
        """Items named in an agent's reply, in order; amounts stay in the value."""
        return self._understanding.reply_items(text)

    # --- the user ------------------------------------------------------------------------------------------------

    def sample_item(self, rng: random.Random) -> dict[str, str]:
        """An item: the head uniformly, every other slot independently present."""
        rules = self.spec.item
        item = {}
        for slot in (*rules.modifiers, rules.head, *rules.additions):
            if slot == rules.head or rng.random() < rules.slot_probability:
                item[slot] = self._sample_value(slot, rng)
        return item

    def sample_items(self, rng: random.Random) -> list[dict[str, str]]:
        """One or more items, as many as the domain's ``item_counts`` weigh."""
        weights = self.spec.dialogues.item_counts
        count = rng.choices(range(1, len(weights) + 1), weights)[0]
        return [self.sample_item(rng) for _ in range(count)]

    def sample_order_text(self, items: Sequence[Item], rng: random.Random, intent: str = "order") -> str:
        """What a person might say to order ``items``."""
        return self._say(intent, rng, {"items": self._items_spoken(items, rng)})

    def sample_dialogue(self, rng: random.Random, max_turns: int = 6) -> Dialogue:
        """Draw a whole dialogue of 1 to ``max_turns`` turns."""
        flows = self.spec.dialogues.flows
        flow = rng.choices(flows, [f.weight for f in flows])[0]
        steps = [step.rstrip("?") for step in flow.turns if not step.endswith("?") or rng.random() < 0.5]
        state, dialogue = OrderState(), Dialogue()
        for step in steps[:max_turns]:
            text, parsed = self.sample_turn(rng.choice(step.split("|")), state, rng)
            reply, state, actions = self.answer(state, parsed)
            spoken = disfluent(text, self.spec.disfluency, rng)
            # "a medium a medium roast" would mean something else
            text = spoken if spoken == text or self.parse_user(spoken) == self.parse_user(text) else text
            dialogue.append(DialogueTurn(text, parsed.intent, parsed.slots(), reply, state, actions))
        return dialogue

    def sample_turn(self, intent: str, state: OrderState, rng: random.Random) -> tuple[str, Parsed]:
        """Draw one user turn with the given intent, and what it means."""
        if intent == "unknown" and self._extra_unknown and rng.random() < 0.5:
            return rng.choice(self._extra_unknown), Parsed(intent)
        nodes, weights = self._phrases[intent]
        node = rng.choices(nodes, weights)[0]
        wanted = fills_of(node)
        fills: dict[str, str] = {}
        items: tuple[Item, ...] = ()
        target, option, number = None, "", ""
        if "items" in wanted:
            items = tuple(self.sample_items(rng))
            fills["items"] = self._items_spoken(items, rng)
        if "target" in wanted:
            target = self._sample_target(state, rng)
            fills["target"] = " ".join(target.values())
        if wanted & {"changes", "additions"}:
            kind = "changes" if "changes" in wanted else "additions"
            change = self._sample_change(kind, state, target, rng)
            items, fills[kind] = (change,), self._item_spoken(change, rng, with_word=kind == "changes")
        if wanted & {"drink", "option"}:
            slot = self.spec.item.head if "drink" in wanted else rng.choice(list(self.spec.slots))
            option = rng.choice(self.spec.slots[slot].values)
            fills["drink"] = fills["option"] = option
        if "number" in wanted:
            number = fills["number"] = self._sample_number(rng)
        return self._fix_articles(speak(node, rng, fills)), Parsed(intent, items, target, option, number)

    # --- what there is -------------------------------------------------------------------------------------------

    def words(self) -> list[str]:
        """Every word a user of the domain can say (without ``extra_unknown``), sorted."""
        spec = self.spec
        texts = [*spec.item.loose_joiners, spec.item.with_word, spec.item.joiner, "a an"]
        texts += [*spec.disfluency.fillers, *spec.numbers.digits, *spec.numbers.teens, *spec.numbers.tens]
        for slot in spec.slots.values():
            texts += [*slot.values, *slot.amounts, *(form for forms in slot.aliases.values() for form in forms)]
        for nodes, _ in self._phrases.values():
            texts += [word for node in nodes for word in words_of(node)]
        return sorted({word for text in texts for word in text.split()})

    @functools.cached_property
    def vocabulary(self) -> frozenset[str]:
        """:meth:`words` as a set."""
        return frozenset(self.words())

    def reply_words(self) -> list[str]:
        """Every word the agent can say, lower case, without punctuation or marks, sorted."""
        spec = self.spec
        texts = [spec.item.with_word, spec.item.joiner, "a an", *spec.prices.values()]
        texts += [*spec.numbers.digits, *spec.numbers.teens, *spec.numbers.tens]
        for slot in spec.slots.values():
            texts += [*slot.values, *slot.amounts]
        texts += [REPLY_FILL.sub(" ", strip_marks(reply)) for reply in spec.replies.values()]
        return sorted({word for text in texts for word in normal_words(text)})

    def all_reply_samples(self, rng: random.Random, n: int) -> list[str]:
        """Different replies without marks: every fixed one, then drawn ones until there are ``n``.

        Fewer come back when the domain does not yield ``n`` in a bounded number of draws.
        """
        plain = (strip_marks(reply) for reply in self.spec.replies.values())
        seen = dict.fromkeys(reply for reply in plain if not REPLY_FILL.search(reply))
        for _ in range(20 * n):
            if len(seen) >= n:
                break
            for turn in self.sample_dialogue(rng):
                seen.setdefault(strip_marks(turn.reply))
        return list(seen)

    # --- drawing -------------------------------------------------------------------------------------------------

    def _say(self, intent: str, rng: random.Random, fills: dict[str, str]) -> str:
        nodes, weights = self._phrases[intent]
        usable = [(n, w) for n, w in zip(nodes, weights, strict=True) if fills_of(n) <= set(fills)]
        node = rng.choices([n for n, _ in usable], [w for _, w in usable])[0]
        return self._fix_articles(speak(node, rng, fills))

    def _sample_value(self, slot: str, rng: random.Random) -> str:
        spec = self.spec.slots[slot]
        value = rng.choice(spec.values)
        if spec.amounts and rng.random() < self.spec.item.amount_probability:
            return f"{rng.choice(spec.amounts)} {value}"
        return value

    def _sample_target(self, state: OrderState, rng: random.Random) -> Item:
        head = self.spec.item.head
        if not state.items or rng.random() < 0.05:
            return {head: self._sample_value(head, rng)}
        item = rng.choice(state.items)
        target = {head: item[head]}
        for first in self.spec.item.modifiers[:1]:
            if first in item and rng.random() < 0.3:
                target = {first: item[first], **target}
        return target

    def _sample_change(self, kind: str, state: OrderState, target: Item | None, rng: random.Random) -> dict[str, str]:
        rules = self.spec.item
        groups: list[Sequence[str]] = [rules.additions]
        if kind == "changes":
            groups = [rules.modifiers, rules.modifiers, [rules.head], rules.additions]
        slots = [rng.choice(rng.choice(groups))]
        if kind == "changes" and rng.random() < 0.3:
            slots.append(rng.choice([rules.head, *rules.modifiers]))
        change = {slot: self._sample_value(slot, rng) for slot in slots}
        named = target or (state.items[-1] if state.items else {})
        if rules.head in change:
            others = [value for value in self.spec.slots[rules.head].values if value != named.get(rules.head)]
            change[rules.head] = rng.choice(others or [change[rules.head]])
        return change

    def _sample_number(self, rng: random.Random) -> str:
        numbers = self.spec.numbers
        if rng.random() < numbers.digit_probability or not numbers.tens:
            return " ".join(rng.choice(numbers.digits) for _ in range(rng.randint(1, numbers.max_digits)))
        if numbers.teens and rng.random() < 0.3:
            return rng.choice(numbers.teens)
        ten = rng.choice(numbers.tens)
        units = [digit for digit in numbers.digits if digit not in ("zero", "oh")]
        return ten if rng.random() < 0.2 else f"{ten} {rng.choice(units)}"

    # --- wording -------------------------------------------------------------------------------------------------

    def _items_spoken(self, items: Sequence[Item], rng: random.Random) -> str:
        bare = rng.random() < self.spec.item.bare_probability
        return " and ".join(self._item_spoken(item, rng, bare=bare) for item in items)

    def _item_spoken(self, item: Item, rng: random.Random, bare: bool = False, with_word: bool = True) -> str:
        rules = self.spec.item
        loose = rng.random() < rules.loose_probability
        moved = [s for s in rules.loose_additions if s in item and loose and rules.head in item and rng.random() < 0.5]
        modifiers = [slot for slot in rules.modifiers if slot in item and slot not in moved]
        rng.shuffle(modifiers)
        front = " ".join(self._value_spoken(slot, item[slot], rng) for slot in (*modifiers, rules.head) if slot in item)
        if front and not bare and (rules.head in item or rng.random() < 0.6):
            front = f"{article(front)} {front}"
        back = [self._value_spoken(slot, item[slot], rng) for slot in rules.additions if slot in item]
        back += [f"{article(item[slot])} {item[slot]}" for slot in moved]
        if not back:
            return front
        rng.shuffle(back)
        joiner = rng.choice(rules.loose_joiners) if loose else rules.joiner
        joined = f" {joiner} ".join(back)
        return f"{front} {rules.with_word} {joined}" if with_word else joined

    def _value_spoken(self, slot: str, value: str, rng: random.Random) -> str:
        if rng.random() >= self.spec.item.alias_probability:
            return value
        for name, forms in self.spec.slots[slot].aliases.items():
            if value == name or value.endswith(f" {name}"):
                return value[: len(value) - len(name)] + rng.choice(forms)
        return value

    @staticmethod
    def _fix_articles(text: str) -> str:
        """``a americano`` becomes ``an americano``, where a phrase brought its own article."""
        words = text.split()
        for index, word in enumerate(words[:-1]):
            if word in ("a", "an") and words[index + 1] not in ("a", "an"):
                words[index] = article(words[index + 1])
        return " ".join(words)
