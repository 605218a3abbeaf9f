"""The domain file: its schema, read strictly, with every mistake named by file and line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.domain.grammar import GrammarError, Node, fills_of, parse_phrase
from agent.domain.source_map import DomainError, SourceMap, Where
from models.errors import ProsodyTagError
from models.prosody import strip_marks

DOMAIN_FILE = "domain.yaml"  # beside an exported S2S model
USER_FILLS = frozenset({"items", "changes", "additions", "target", "drink", "option", "number"})
REPLY_FILL = re.compile(r"\{([^{}]*)\}")
REPLY_FILLS = frozenset({"items", "order", "changed", "target", "a_drink", "price", "option", "number"})
When = Literal["empty", "has_items", "no_target", "confirming", "placed", "too_many"]
Operation = Literal["add", "change", "remove", "clear", "confirm", "place", "reopen"]
FillKind = Literal["items", "changes", "target", "drink", "option", "number"]
ARGUMENTS = {"add": {"items"}, "change": {"index", "item"}, "remove": {"index", "item"}, "place": {"items"}}
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SlotSpec(_Strict):
    """A slot: its values, what else people call them, and amounts that may stand before them."""

    values: list[str] = Field(min_length=1)
    amounts: list[str] = []
    aliases: dict[str, list[str]] = {}


class ItemSpec(_Strict):
    """How one ordered item is put into words."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)
    head: str
    modifiers: list[str]
    additions: list[str]
    with_word: str = Field(alias="with")
    joiner: str
    slot_probability: Probability
    amount_probability: Probability
    bare_probability: Probability
    loose_probability: Probability
    loose_joiners: list[str] = Field(min_length=1)
    loose_additions: list[str] = []
    alias_probability: Probability
    target_words: list[str] = Field(min_length=1)
    emphasis: str
    not_heard: str | None = None
    """How a reply goes on that said the article of an item when nobody has named one; None: as the model will."""
    max_items: int = Field(ge=1, le=100)


class NumberSpec(_Strict):
    """Spoken numbers."""

    digits: list[str] = Field(min_length=1)
    teens: list[str]
    tens: list[str]
    max_digits: int = Field(ge=1, le=16)
    digit_probability: Probability


class PhraseSpec(_Strict):
    """A phrase grammar and how often it is drawn."""

    say: str
    weight: float = Field(gt=0, default=1.0, strict=False)


class IntentSpec(_Strict):
    """What people say for one intent, and the cues it is known by when they say it differently."""

    phrases: list[str | PhraseSpec] = Field(min_length=1)
    fill: FillKind | None = None
    like: str | None = None
    cues: list[str] = []


class RuleSpec(_Strict):
    """One dialogue rule."""

    intent: str
    reply: str
    when: When | None = None
    do: Operation | None = None
    action: str | None = None


class ActionSpec(_Strict):
    """What leaves the agent as a tool call; its arguments are those that the rule's operation has."""

    description: str
    arguments: list[str]


class DisfluencySpec(_Strict):
    """How often people hesitate: fillers between words, and beginnings said twice."""

    fillers: list[str] = []
    filler_probability: Probability = 0.0
    restart_probability: Probability = 0.0


class FlowSpec(_Strict):
    """A shape of dialogue and how often it is drawn."""

    weight: float = Field(gt=0, strict=False)
    turns: list[str] = Field(min_length=1)


class DialogueSpec(_Strict):
    """How dialogues are drawn."""

    item_counts: list[Annotated[float, Field(gt=0, strict=False)]] = Field(min_length=1)
    flows: list[FlowSpec] = Field(min_length=1)


class DomainSpec(_Strict):
    """The whole file."""

    version: Literal[1]
    name: str
    language: str
    slots: dict[str, SlotSpec]
    item: ItemSpec
    prices: dict[str, str]
    numbers: NumberSpec
    macros: dict[str, str]
    intents: dict[str, IntentSpec]
    rules: list[RuleSpec]
    replies: dict[str, str]
    prompts: list[str] | None = Field(None, min_length=2, max_length=2)  # to nothing that was said: at first, and later
    actions: dict[str, ActionSpec]
    disfluency: DisfluencySpec = DisfluencySpec()
    dialogues: DialogueSpec


def read_domain_file(path: Path) -> tuple[DomainSpec, dict[str, Node]]:
    """Read and check a domain file.

    Returns:
        The checked file and its macros as phrase trees.

    Raises:
        DomainError: the file is missing, is not YAML, or breaks a rule; the message names file and line.
    """
    source = SourceMap(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise source.error((), f"cannot be read: {exc}") from exc
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise source.error((), "the file must be a mapping")
        data = source.build(loader, node)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise DomainError(f"{path}:{line}: not YAML: {exc.problem}") from exc
    except yaml.YAMLError as exc:
        raise source.error((), f"not YAML: {exc}") from exc
    finally:
        if loader is not None:
            loader.dispose()
    try:
        spec = DomainSpec.model_validate(data)
    except ValidationError as exc:
        # A misspelt key is both unknown and missing: the unknown one has a line of its own.
        first = min(exc.errors(), key=lambda error: error["type"] != "extra_forbidden")
        raise source.error(first["loc"], first["msg"]) from exc
    return spec, _check(spec, source)


def _check(spec: DomainSpec, source: SourceMap) -> dict[str, Node]:
    macros: dict[str, Node] = {}
    for name, text in spec.macros.items():
        macros[name] = _phrase(text, macros, source, ("macros", name), frozenset())
    _check_slots(spec, source)
    _check_intents(spec, macros, source)
    for name, reply in spec.replies.items():
        _check_reply(reply, source, ("replies", name))
    for index, name in enumerate(spec.prompts or ()):
        _one_of(name, list(spec.replies), source, ("prompts", index), "reply")
        if REPLY_FILL.search(spec.replies[name]):
            raise source.error(("prompts", index), f"the reply {name!r} holds a fill, and there is nothing to fill in")
    _check_rules(spec, source)
    _check_flows(spec, source)
    return macros


def _phrase(text: str, macros: dict[str, Node], source: SourceMap, where: Where, allowed: frozenset[str]) -> Node:
    try:
        node = parse_phrase(text, macros)
    except GrammarError as exc:
        raise source.error(where, str(exc)) from exc
    if unknown := fills_of(node) - allowed:
        raise source.error(where, f"unknown fill {{{min(unknown)}}}; allowed: {' '.join(sorted(allowed)) or 'none'}")
    return node


def _one_of(name: str, known: Sequence[str], source: SourceMap, where: Where, what: str) -> None:
    if name not in known:
        raise source.error(where, f"unknown {what} {name!r}; known: {', '.join(known)}")


def _check_slots(spec: DomainSpec, source: SourceMap) -> None:
    slots = list(spec.slots)
    _one_of(spec.item.head, slots, source, ("item", "head"), "slot")
    rules = spec.item
    named = {"modifiers": rules.modifiers, "additions": rules.additions, "loose_additions": rules.loose_additions}
    if _plain(rules.emphasis, source, ("item", "emphasis")):
        raise source.error(("item", "emphasis"), "must be a prosody mark or empty")
    if not re.fullmatch(r"[^{}]*\w[^{}]*", _plain(rules.not_heard or "none", source, ("item", "not_heard"))):
        raise source.error(("item", "not_heard"), "must be words, without a fill")
    for key, names in named.items():
        for index, name in enumerate(names):
            _one_of(name, slots, source, ("item", key, index), "slot")
    seen: dict[str, str] = {}
    for slot, slot_spec in spec.slots.items():
        for name in slot_spec.aliases:
            _one_of(name, slot_spec.values, source, ("slots", slot, "aliases", name), "value")
        for value in [*slot_spec.values, *(alias for forms in slot_spec.aliases.values() for alias in forms)]:
            if value in seen:
                raise source.error(("slots", slot), f"{value!r} stands twice (also in {seen[value]})")
            seen[value] = slot
    head_values = spec.slots[spec.item.head].values
    for name in spec.prices:
        _one_of(name, head_values, source, ("prices", name), f"{spec.item.head}")
    for value in head_values:
        if value not in spec.prices:
            raise source.error(("prices",), f"no price for {value!r}")


def _check_intents(spec: DomainSpec, macros: dict[str, Node], source: SourceMap) -> None:
    for name, intent in spec.intents.items():
        if intent.like is not None:
            _one_of(intent.like, list(spec.intents), source, ("intents", name, "like"), "intent")
        for index, phrase in enumerate(intent.phrases):
            text = phrase if isinstance(phrase, str) else phrase.say
            where = ("intents", name, "phrases", index)
            fills = fills_of(_phrase(text, macros, source, where, USER_FILLS))
            if fills and intent.fill is None:
                raise source.error(where, f"the phrase holds {{{min(fills)}}}, but the intent has no 'fill'")
            filled = fills | ({"changes"} if "additions" in fills else set())
            if intent.fill is not None and intent.fill not in filled:
                raise source.error(where, f"the intent fills {{{intent.fill}}}, but the phrase does not hold it")
        for index, cue in enumerate(intent.cues):
            _phrase(cue, macros, source, ("intents", name, "cues", index), frozenset())
    if "unknown" not in spec.intents:
        raise source.error(("intents",), "the intent 'unknown' is missing: it answers what fits nothing else")


def _check_rules(spec: DomainSpec, source: SourceMap) -> None:
    covered: set[str] = set()
    guarded: dict[str, set[str | None]] = {}
    for index, rule in enumerate(spec.rules):
        where = ("rules", index)
        _one_of(rule.intent, list(spec.intents), source, (*where, "intent"), "intent")
        _one_of(rule.reply, list(spec.replies), source, (*where, "reply"), "reply")
        _check_rule_fills(spec, rule, source, where)
        _check_rule_action(spec, rule, source, where)
        if rule.do in ("change", "remove") and not guarded.get(rule.intent, set()) & _guards(spec, rule):
            raise source.error(
                where, f"'do: {rule.do}' needs an earlier rule of {rule.intent!r} with 'when: no_target'"
            )
        guarded.setdefault(rule.intent, set()).add(rule.when)
        if rule.intent in covered:
            raise source.error(where, f"is never reached: an earlier rule takes every {rule.intent!r}")
        if rule.when is None:
            covered.add(rule.intent)
    for name in spec.intents:
        if name not in covered:
            raise source.error(("intents", name), "no rule without 'when' answers this intent")


def _guards(spec: DomainSpec, rule: RuleSpec) -> set[str | None]:
    """Conditions that keep ``rule`` from an order without its target; an intent that names none needs an item only."""
    return {"no_target"} if spec.intents[rule.intent].fill else {"no_target", "empty"}


def _check_rule_fills(spec: DomainSpec, rule: RuleSpec, source: SourceMap, where: Where) -> None:
    """A rule may only do and say what its intent provides."""
    given = spec.intents[rule.intent].fill
    needed = {"add": "items", "change": "changes"}.get(rule.do or "")
    if needed is not None and given != needed:
        raise source.error((*where, "do"), f"'do: {rule.do}' needs an intent with 'fill: {needed}'")
    provided = {
        "order": True,
        "items": given == "items",
        "changed": rule.do in ("change", "remove"),
        "target": rule.do in ("change", "remove") or rule.when == "no_target",
        "a_drink": given == "drink",
        "price": given == "drink",
        "option": given in ("drink", "option"),
        "number": given == "number",
    }
    for name in REPLY_FILL.findall(spec.replies[rule.reply]):
        if not provided.get(name, True):
            raise source.error((*where, "reply"), f"the reply holds {{{name}}}, which this rule does not provide")


def _check_rule_action(spec: DomainSpec, rule: RuleSpec, source: SourceMap, where: Where) -> None:
    """What the agent does is read from what it says: a reply means one action and holds what that one is told."""
    for other in spec.rules:
        if other.reply == rule.reply and (other.do, other.action) != (rule.do, rule.action) and rule.action:
            raise source.error((*where, "reply"), f"another rule with the reply {rule.reply!r} does not do the same")
    if rule.action is None:
        return
    _one_of(rule.action, list(spec.actions), source, (*where, "action"), "action")
    arguments = ARGUMENTS.get(rule.do or "", set())
    if set(spec.actions[rule.action].arguments) != arguments:
        named = ", ".join(sorted(arguments)) or "none"
        raise source.error(("actions", rule.action, "arguments"), f"'do: {rule.do}' has the arguments: {named}")
    told = {"add": "{items}", "change": "{changed}"}.get(rule.do or "", "")
    if told not in spec.replies[rule.reply]:
        raise source.error((*where, "reply"), f"the action is read from the reply, which does not hold {told}")


def _plain(text: str, source: SourceMap, where: Where) -> str:
    try:
        return strip_marks(text)
    except ProsodyTagError as exc:
        raise source.error(where, str(exc)) from exc


def _check_reply(reply: str, source: SourceMap, where: Where) -> None:
    plain = _plain(reply, source, where)
    fills = set(REPLY_FILL.findall(plain))
    if not plain:
        raise source.error(where, "the reply is empty")
    if unknown := fills - REPLY_FILLS:
        raise source.error(where, f"unknown fill {{{min(unknown)}}}; known: {' '.join(sorted(REPLY_FILLS))}")


def _check_flows(spec: DomainSpec, source: SourceMap) -> None:
    for index, flow in enumerate(spec.dialogues.flows):
        for step, names in enumerate(flow.turns):
            for name in names.rstrip("?").split("|"):
                _one_of(name, list(spec.intents), source, ("dialogues", "flows", index, "turns", step), "intent")
