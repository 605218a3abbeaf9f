"""The conversation domain: its file, its grammar, its policy, and what it understands."""

import random
from collections import Counter
from pathlib import Path

import pytest

from agent.domain.grammar import GrammarError, parse_phrase, speak, to_regex
from models.prosody import strip_marks
from training.domain import Domain, DomainError, OrderState, disfluent, load_domain

COFFEE = Path(__file__).resolve().parent.parent / "configs" / "domains" / "coffee.yaml"
LATTE = {"size": "large", "coffeeDrink": "latte", "milkAmount": "a lot of soy milk"}
ESPRESSO = {"coffeeDrink": "espresso"}
THE_LATTE = {"coffeeDrink": "latte"}
ORDER_REPLY = '  order: "Okay, {items}. Anything else<pitch_rising>?"'

# Written by hand from the command grammar: every modifier, amount and kind, alone and together. The slots of the item
# are told by their values.
COMMANDS = [
    ("brew a twelve ounce double shot coffee", "twelve ounce, double shot, coffee"),
    ("can i get an iced mocha", "iced mocha"),
    ("can i have a dark roast mocha with some brown sugar", "dark roast, mocha, some brown sugar"),
    (
        "i want a house coffee with a little bit of skim milk and lots of sugar",
        "house coffee, a little bit of skim milk, lots of sugar",
    ),
    ("get me a triple shot medium medium roast cappuccino", "medium, medium roast, triple shot, cappuccino"),
    ("give me drip coffee with sweetener and a bit of cream", "drip coffee, a bit of cream, sweetener"),
    (
        "i'd like an eight ounce light roast iced coffee with lots of whole milk",
        "eight ounce, light roast, iced coffee, lots of whole milk",
    ),
    (
        "make me a single shot small espresso with a lot of sweetener and almond milk",
        "small, single shot, espresso, almond milk, a lot of sweetener",
    ),
    ("may i have an americano with milk and sugar", "americano, milk, sugar"),
    ("sixteen ounce latte", "sixteen ounce, latte"),
    ("just a twenty ounce coffee with soy milk please", "twenty ounce, coffee, soy milk"),
    ("can i please have a large latte with a double shot", "large, double shot, latte"),
    (
        "i would like a mocha with a little bit of brown sugar with some milk",
        "mocha, some milk, a little bit of brown sugar",
    ),
    ("can I get a decaf ice coffee, thanks.", "iced coffee"),
]


def _item(domain: Domain, values: str) -> dict[str, str]:
    """The item whose slot values are listed; a value with an amount belongs to the slot of its kind."""
    kinds = {kind: slot for slot, spec in domain.spec.slots.items() for kind in spec.values}
    kinds |= {
        f"{amount} {kind}": slot
        for slot, spec in domain.spec.slots.items()
        for amount in spec.amounts
        for kind in spec.values
    }
    return {kinds[value]: value for value in values.split(", ")}


@pytest.fixture(scope="module")
def coffee() -> Domain:
    return load_domain(COFFEE)


def test_a_note_names_items_by_their_heads_first() -> None:
    """All that is to be remembered, in a fixed order; nothing for an empty, open order."""
    domain = load_domain(COFFEE)
    assert domain.note(OrderState()) == ""
    assert domain.note(OrderState((LATTE, ESPRESSO))) == "latte large a lot of soy milk, espresso"
    assert domain.note(OrderState((ESPRESSO,), "confirming")) == "confirming espresso"


def test_every_slot_value_survives_speech_and_reply(coffee: Domain) -> None:
    """Each value of each slot, with each amount, comes back from the user's words and from the agent's reply."""
    rng = random.Random(1)
    for slot, spec in coffee.spec.slots.items():
        for value in [v for kind in spec.values for v in (kind, *(f"{amount} {kind}" for amount in spec.amounts))]:
            item = {"coffeeDrink": "latte", slot: value}
            assert list(coffee.parse_user(coffee.sample_order_text([item], rng)).items) == [item]
            assert coffee.parse_reply(coffee.respond(OrderState(), "order", [item])[0]) == [item]


def test_every_alias_means_its_value(coffee: Domain) -> None:
    """What people call a value is understood as that value."""
    for slot, spec in coffee.spec.slots.items():
        for value, forms in spec.aliases.items():
            for form in forms:
                text = f"brew a {form}" if slot == "coffeeDrink" else f"brew a latte with {form}"
                assert coffee.parse_user(text).items[0][slot] == value


@pytest.mark.parametrize(("text", "values"), COMMANDS)
def test_command_is_understood(coffee: Domain, text: str, values: str) -> None:
    """A spoken command yields exactly its slots, and the reply echoes exactly these."""
    item = _item(coffee, values)
    parsed = coffee.parse_user(text)
    assert (parsed.intent, list(parsed.items)) == ("order", [item])
    reply, _, actions = coffee.respond(OrderState(), "order", parsed.items)
    assert coffee.parse_reply(reply) == coffee.parse_reply(strip_marks(reply)) == [item]
    assert actions == ({"name": "add_items", "arguments": {"items": [item]}},)


def test_random_items_can_be_said_and_echoed(coffee: Domain) -> None:
    """Any combination of slots, one to three drinks at once, is expressible, understood and echoed."""
    rng = random.Random(2)
    for _ in range(500):
        items = coffee.sample_items(rng)
        parsed = coffee.parse_user(coffee.sample_order_text(items, rng))
        assert (parsed.intent, list(parsed.items)) == ("order", items)
        reply, _, _ = coffee.respond(OrderState(), "order", items)
        assert coffee.parse_reply(strip_marks(reply)) == items


def test_reply_is_canonical(coffee: Domain) -> None:
    """The order reply names values in one fixed order whatever the order of the slots."""
    full = {"sugarAmount": "some brown sugar", "coffeeDrink": "latte", "numberOfShots": "double shot",
            "milkAmount": "a lot of soy milk", "roast": "dark roast", "size": "large"}  # fmt: skip
    reply, _, _ = coffee.respond(OrderState(), "order", [full, ESPRESSO])
    assert reply == (
        "Okay, a <emph>large dark roast double shot latte with a lot of soy milk and some brown sugar "
        "and an <emph>espresso. Anything else<pitch_rising>?"
    )


@pytest.mark.parametrize(
    ("text", "intent", "slots"),
    [
        ("make that a large", "change", {"items": [{"size": "large"}]}),
        ("change the latte to a mocha", "change", {"items": [{"coffeeDrink": "mocha"}], "target": THE_LATTE}),
        (
            "make the small latte a large",
            "change",
            {"items": [{"size": "large"}], "target": {"size": "small", **THE_LATTE}},
        ),
        ("add soy milk to the latte", "change", {"items": [{"milkAmount": "soy milk"}], "target": THE_LATTE}),
        ("with some sugar please", "change", {"items": [{"sugarAmount": "some sugar"}]}),
        ("could i get it with cream", "change", {"items": [{"milkAmount": "cream"}]}),
        ("add a latte with soy milk", "add", {"items": [{"coffeeDrink": "latte", "milkAmount": "soy milk"}]}),
        ("remove the iced mocha", "remove", {"target": {"coffeeDrink": "iced mocha"}}),
        ("cancel the latte", "remove", {"target": {"coffeeDrink": "latte"}}),
        ("cancel my order", "cancel", {}),
        ("what did i order", "read_back", {}),
        ("can you read that back", "read_back", {}),
        ("no that's all", "done", {}),
        ("No, thats all.", "done", {}),
        ("how much is a house coffee", "price", {"option": "house coffee"}),
        ("do you have almond milk", "available", {"option": "almond milk"}),
        ("what sizes do you have", "sizes", {}),
        ("three five one", "number", {"number": "three five one"}),
        ("my number is twenty one", "number", {"number": "twenty one"}),
        ("add milk to my shopping list", "unknown", {}),
        ("the frog jumped over the wall", "unknown", {}),
        ("", "unknown", {}),
    ],
)
def test_turn_is_understood(coffee: Domain, text: str, intent: str, slots: dict) -> None:
    """Intent and values of turns that are not plain orders."""
    parsed = coffee.parse_user(text)
    assert (parsed.intent, parsed.slots()) == (intent, slots)


def test_sampled_turns_mean_what_they_were_drawn_for(coffee: Domain) -> None:
    """The user side never says what the rules would read as something else."""
    rng = random.Random(3)
    for _ in range(1500):
        for turn in coffee.sample_dialogue(rng):
            parsed = coffee.parse_user(turn.user_text)
            same = parsed.intent == turn.intent or {parsed.intent, turn.intent} == {"order", "add"}
            assert same and parsed.slots() == turn.slots, turn.user_text


def test_values_join_the_right_drink(coffee: Domain) -> None:
    """Modifiers belong to the next drink, additions to the one before, breaks are at articles and joiners."""
    assert coffee.parse_user("a small latte with sugar and an eight ounce mocha and coffee with milk").items == (
        {"size": "small", "coffeeDrink": "latte", "sugarAmount": "sugar"},
        {"size": "eight ounce", "coffeeDrink": "mocha"},
        {"coffeeDrink": "coffee", "milkAmount": "milk"},
    )
    assert coffee.parse_user("get me a latte dark roast and a small mocha").items == (
        {"coffeeDrink": "latte", "roast": "dark roast"},
        {"size": "small", "coffeeDrink": "mocha"},
    )


def test_order_is_changed_confirmed_and_placed(coffee: Domain) -> None:
    """State goes through an order; the read-back holds what was ordered turns ago."""
    reply, state, _ = coffee.respond(OrderState(), "order", [LATTE])
    _, state, _ = coffee.respond(state, "add", [ESPRESSO])
    reply, state, actions = coffee.respond(state, "change", [{"size": "small"}], target={"coffeeDrink": "latte"})
    assert strip_marks(reply) == "Okay, now a small latte with a lot of soy milk. Anything else?"
    assert actions[0]["arguments"] == {"index": 0, "item": {**LATTE, "size": "small"}}
    reply, state, _ = coffee.respond(state, "read_back")
    assert strip_marks(reply) == "You ordered a small latte with a lot of soy milk and an espresso."
    reply, state, _ = coffee.respond(state, "remove_last")
    assert strip_marks(reply) == "Okay, no espresso. Anything else?"
    reply, state, _ = coffee.respond(state, "done")
    assert strip_marks(reply) == "So that is a small latte with a lot of soy milk. Is that right?"
    _, state, actions = coffee.respond(state, "yes")
    assert (state.status, actions[0]["name"]) == ("placed", "place_order")
    _, state, _ = coffee.respond(state, "order", [ESPRESSO])
    assert state.to_json() == {"items": [ESPRESSO], "status": "open"}


def test_edges_of_the_order(coffee: Domain) -> None:
    """Nothing ordered, an absent drink, and more drinks than allowed each have their reply and change nothing."""
    empty, one = OrderState(), OrderState((LATTE,))
    for intent in ("read_back", "remove_last", "cancel", "done"):
        assert coffee.respond(empty, intent) == ("You have not ordered anything yet.", empty, ())
    reply, state, actions = coffee.respond(one, "remove", target={"coffeeDrink": "mocha"})
    assert (strip_marks(reply), state, actions) == ("There is no mocha in your order.", one, ())
    full = OrderState((ESPRESSO,) * coffee.spec.item.max_items)
    assert coffee.respond(full, "add", [LATTE])[1:] == (full, ())
    with pytest.raises(ValueError, match="no rule answers"):
        coffee.respond(empty, "dance")


def test_number_is_repeated(coffee: Domain) -> None:
    """A spoken number comes back."""
    assert coffee.respond(OrderState(), "number", number="three five one")[0] == "You said <emph>three five one."


def test_people_hesitate(coffee: Domain) -> None:
    """Fillers and beginnings said twice, as often as the file says; fillers mean nothing."""
    rng = random.Random(6)
    spec = coffee.spec.disfluency
    words = "can i get a large latte"
    made = [disfluent(words, spec, rng) for _ in range(4000)]
    filled = [text for text in made if not set(spec.fillers).isdisjoint(text.split())]
    restarted = [text for text in made if text.count("can") == 2]
    assert len(filled) / len(made) == pytest.approx(spec.filler_probability, abs=0.02)
    assert len(restarted) / len(made) == pytest.approx(spec.restart_probability, abs=0.015)
    assert all(coffee.parse_user(text) == coffee.parse_user(words) for text in made)
    assert disfluent(words, spec.model_copy(update={"fillers": [], "restart_probability": 0.0}), rng) == words


def test_dialogues_follow_the_plan(coffee: Domain) -> None:
    """Length, share of single orders, coverage of intents and values; the same seed draws the same dialogues."""
    rng = random.Random(4)
    dialogues = [coffee.sample_dialogue(rng) for _ in range(4000)]
    again = random.Random(4)
    assert dialogues[:50] == [coffee.sample_dialogue(again) for _ in range(50)]
    lengths = [len(dialogue) for dialogue in dialogues]
    assert min(lengths) == 1 and max(lengths) == 6 and 2.1 < sum(lengths) / len(lengths) < 2.7
    single = sum(len(d) == 1 and d[0].intent == "order" for d in dialogues) / len(dialogues)
    assert 0.30 < single < 0.40
    intents = Counter(turn.intent for dialogue in dialogues for turn in dialogue)
    assert set(intents) == set(coffee.spec.intents)
    orders = [turn.slots["items"] for d in dialogues for turn in d if turn.intent == "order"]
    drinks = Counter(item["coffeeDrink"] for items in orders for item in items)
    assert min(drinks.values()) > 0.6 * max(drinks.values())
    assert all(len(coffee.sample_dialogue(rng, max_turns=2)) <= 2 for _ in range(200))


def test_words_cover_what_is_said(coffee: Domain) -> None:
    """`words` and `reply_words` hold every word of sampled dialogues; user text is lower case without punctuation."""
    rng = random.Random(5)
    words, reply_words = set(coffee.words()), set(coffee.reply_words())
    for _ in range(1500):
        for turn in coffee.sample_dialogue(rng):
            assert set(turn.user_text.split()) <= words
            assert turn.user_text.replace("'", "").replace(" ", "").isalpha() and turn.user_text.islower()
            spoken = strip_marks(turn.reply).lower()
            assert {word.strip(",.?!:") for word in spoken.split()} <= reply_words
    assert len(reply_words) < 200


def test_replies_strip_cleanly(coffee: Domain) -> None:
    """Without marks no reply has a space before punctuation, and asked-for samples are all different."""
    replies = coffee.all_reply_samples(random.Random(6), 300)
    assert len(replies) == len(set(replies)) >= 300
    for reply in replies:
        assert not any(f" {sign}" in reply for sign in ",.?!") and "  " not in reply and "<" not in reply


def test_extra_sentences_are_unknown() -> None:
    """Sentences given by the caller are drawn as out of domain and understood as such, whatever words they hold."""
    domain = load_domain(COFFEE, extra_unknown=["no one knows how much the coffee cost"])
    assert domain.parse_user("no one knows how much the coffee cost").intent == "unknown"
    rng = random.Random(7)
    assert any(domain.sample_turn("unknown", OrderState(), rng)[0].startswith("no one") for _ in range(50))


# --- the file ------------------------------------------------------------------------------------------------------


def _line(text: str) -> int:
    return COFFEE.read_text().splitlines().index(text) + 1


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("version: 1", "version: 2", "version: Input should be 1"),
        ("  head: coffeeDrink", "  head: drink", "item.head: unknown slot 'drink'"),
        ("  coffee: two dollars", "  tea: two dollars", "prices.tea: unknown coffeeDrink 'tea'"),
        ("  max_items: 8", "  max_items: many", "item.max_items: Input should be a valid integer"),
        ("  max_items: 8", "  max_item: 8", "item.max_item"),
        ('      - {say: "brew {items}", weight: 3}', '      - {say: "brew {drinks}"}', "unknown fill {drinks}"),
        ('      - {say: "brew {items}", weight: 3}', '      - "brew it"', "does not hold it"),
        ("  - {intent: change, when: no_target, reply: no_target}", "", "needs an earlier rule"),
        ("    cues: [thanks, thank you]", "    cues: [thanks, (thank you]", "')' is missing"),
        ("  - {intent: thanks, reply: thanks}", "  - {intent: thanks, reply: thank}", "unknown reply 'thank'"),
        ("  - {intent: thanks, reply: thanks}", "  - {intent: thanks, reply: price}", "{a_drink}"),
        ("  - {intent: thanks, reply: thanks}", "  - {intent: greet, reply: greet}", "never reached"),
        ("  - {intent: thanks, reply: thanks}", "  - {intent: thanks, do: add, reply: thanks}", "'fill: items'"),
        (ORDER_REPLY, '  order: "Okay, <loud>{items}."', "<loud>"),
        (ORDER_REPLY, '  order: "Okay, {drinks}."', "unknown fill {drinks}"),
        ("    - {weight: 34, turns: [order]}", "    - {weight: 45, turns: [ordr]}", "unknown intent 'ordr'"),
        ("    - {weight: 34, turns: [order]}", "    - {weight: -1, turns: [order]}", "greater than 0"),
        ("language: en", "language: en\nname: tea", "name: stands twice"),
        ("language: en", "language: [en", "not YAML"),
        ('  please: "[please]"', '  please: "[please] <hello>"', "unknown macro <hello>"),
        ('  "no":', "  no:", "put it in quotes"),
    ],
)
def test_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """Each kind of mistake is refused with file, line and reason."""
    text = COFFEE.read_text()
    assert f"\n{old}\n" in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(f"\n{old}\n", f"\n{new}\n", 1))
    with pytest.raises(DomainError) as caught:
        load_domain(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:") and reason in message
    line = int(message.removeprefix(f"{path}:").split(":")[0])
    assert _line(old) <= line <= _line(old) + 2


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"\xff\xfe\x00", b"name: \x00"])
def test_file_that_is_no_domain_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty, a binary and a list file are refused by name."""
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(DomainError, match=r"bad\.yaml:1:"):
        load_domain(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A missing file is a domain error too."""
    with pytest.raises(DomainError, match="cannot be read"):
        load_domain(tmp_path / "none.yaml")


# --- the phrase grammar --------------------------------------------------------------------------------------------


def test_grammar_speaks_all_its_sentences() -> None:
    """Choices, options, macros and fills are drawn, and nothing else."""
    macros = {"hi": parse_phrase("(hi | hello)")}
    node = parse_phrase("[<hi>] (get | make) me {items}", macros)
    rng = random.Random(8)
    said = {speak(node, rng, {"items": "a latte"}) for _ in range(300)}
    assert said == {f"{hi}{verb} me a latte" for hi in ("", "hi ", "hello ") for verb in ("get", "make")}


@pytest.mark.parametrize("text", ["", "(a", "a)", "[a)", "a <b>", "{a", "a > b"])
def test_broken_grammar_is_refused(text: str) -> None:
    """Brackets that do not match, unknown macros and stray signs are errors."""
    with pytest.raises(GrammarError):
        parse_phrase(text)


def test_grammar_regex_drops_apostrophes() -> None:
    """The pattern fits words as a recogniser writes them."""
    assert to_regex(parse_phrase("that's [all]")) == "thats (?:all |)"
