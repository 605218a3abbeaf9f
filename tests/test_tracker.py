"""What replies do: the tracker against the domain's own policy, and against replies that went wrong."""

import random
from pathlib import Path

import pytest

from agent.domain.domain_file import read_domain_file
from agent.domain.tracker import ReplyReader, Tracker, nearest
from training.domain import load_domain

COFFEE = Path(__file__).resolve().parent.parent / "configs" / "domains" / "coffee.yaml"
LATTE = {"size": "large", "coffeeDrink": "latte", "milkAmount": "a lot of soy milk"}
MOCHA = {"coffeeDrink": "mocha"}
ORDER_LATTE = "Okay, a large latte with a lot of soy milk. Anything else?"
ORDER_MOCHA = "Okay, a mocha. Anything else?"
PLACED = "Great, your order is coming right up."
CANCELED = "Okay, I canceled your order."


@pytest.fixture(scope="module")
def replies() -> ReplyReader:
    """The coffee counter's replies."""
    return ReplyReader(*read_domain_file(COFFEE))


def after(replies: ReplyReader, *said: str) -> Tracker:
    """A tracker that has heard these replies."""
    tracker = Tracker(replies)
    for text in said:
        tracker.take(text)
    return tracker


def names(tracker: Tracker, text: str) -> list[str]:
    return [action["name"] for action in tracker.take(text)]


def test_a_whole_conversation(replies: ReplyReader) -> None:
    """Order, add, change, remove, confirm and place, each with its arguments; the next order starts fresh."""
    tracker = Tracker(replies)
    small = LATTE | {"size": "small"}
    for text, expected in [
        ("Hello! What would you like?", ()),
        (ORDER_LATTE, ({"name": "add_items", "arguments": {"items": [LATTE]}},)),
        ("Okay, a mocha and a mocha. Anything else?", ({"name": "add_items", "arguments": {"items": [MOCHA, MOCHA]}},)),
        (
            "Okay, now a small latte with a lot of soy milk. Anything else?",
            ({"name": "change_item", "arguments": {"index": 0, "item": small}},),
        ),
        ("Okay, no mocha. Anything else?", ({"name": "remove_item", "arguments": {"index": 2, "item": MOCHA}},)),
        ("A mocha is five dollars.", ()),
        ("So that is a small latte with a lot of soy milk and a mocha. Is that right?", ()),
        (PLACED, ({"name": "place_order", "arguments": {"items": [small, MOCHA]}},)),
        (ORDER_MOCHA, ({"name": "add_items", "arguments": {"items": [MOCHA]}},)),
        (CANCELED, ({"name": "cancel_order", "arguments": {}},)),
    ]:
        assert tracker.take(text) == expected, text
    assert tracker.state.items == ()


def test_it_agrees_with_the_policy(replies: ReplyReader) -> None:
    """Over drawn dialogues the replies alone give the policy's actions; rarely one leaves open which drink it means."""
    domain, rng = load_domain(COFFEE), random.Random(5)
    wrong = total = 0
    for _ in range(600):
        tracker = Tracker(replies)
        for turn in domain.sample_dialogue(rng):
            taken = tracker.take(turn.reply)
            assert [a["name"] for a in taken] == [a["name"] for a in turn.actions], turn.reply
            wrong += taken != turn.actions
            total += 1
            assert len(tracker.state.items) == len(turn.state.items)
    assert total > 1_000
    assert wrong <= 0.003 * total


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Okay, a large latte with a lot of soy milk. Any",
        "Okay, now. Anything else?",
        "Okay, not latte. Anything else?",
        "Okay, a large with soy milk. Anything else?",
        "Okay, a pizza. Anything else?",
        "Okay, <loud>a latte. Anything else?",
        "There is no latte in your order.",
        "We have americano, cappuccino, espresso, latte, mocha, iced mocha, and coffee: house, drip or iced.",
        PLACED,
        "Okay, now a latte. Anything else?",
        "Okay, no latte. Anything else?",
    ],
)
def test_replies_that_do_nothing(replies: ReplyReader, text: str) -> None:
    """Half a reply, a drink that is none, a change without an order: no action, and the order stays empty."""
    tracker = Tracker(replies)
    assert tracker.take(text) == ()
    assert tracker.state.items == ()


@pytest.mark.parametrize(
    "text",
    [
        "You ordered a mocha.",
        "So that is a mocha. Is that right?",
        "So that is <emph>a mocha. Is that right<pitch_rising>?",
    ],
)
def test_naming_the_whole_order_puts_it_right(replies: ReplyReader, text: str) -> None:
    """What was missed or misread is corrected without an action, and is what gets placed."""
    tracker = after(replies, ORDER_LATTE)
    assert tracker.take(text) == ()
    assert tracker.take(PLACED) == ({"name": "place_order", "arguments": {"items": [MOCHA]}},)


def test_an_order_is_placed_once(replies: ReplyReader) -> None:
    """A second "coming right up" sends nothing again, also when the order was read back in between."""
    tracker = after(replies, ORDER_LATTE, PLACED)
    assert names(tracker, PLACED) == []
    assert names(tracker, "You ordered a large latte with a lot of soy milk.") == []
    assert names(tracker, PLACED) == []
    assert names(tracker, ORDER_MOCHA) == ["add_items"]
    assert tracker.take(PLACED)[0]["arguments"] == {"items": [MOCHA]}


def test_the_order_is_bounded(replies: ReplyReader) -> None:
    """More drinks than the domain allows are not added."""
    tracker = after(replies, *[ORDER_MOCHA] * replies.spec.item.max_items)
    assert names(tracker, ORDER_MOCHA) == []
    assert len(tracker.state.items) == replies.spec.item.max_items


def test_values_with_missing_words_still_count(replies: ReplyReader) -> None:
    """A slip inside an amount leaves the drink as it was understood."""
    (action,) = Tracker(replies).take("Okay, a latte with a lot soy milk. Anything else?")
    assert action["arguments"]["items"] == [{"coffeeDrink": "latte", "milkAmount": "soy milk"}]


@pytest.mark.parametrize(
    ("items", "changed", "index"),
    [
        ([LATTE, MOCHA], LATTE | {"size": "small"}, 0),
        ([LATTE, MOCHA], MOCHA | {"size": "small"}, 1),
        ([LATTE, MOCHA], LATTE | {"coffeeDrink": "espresso"}, 0),
        ([MOCHA, MOCHA], MOCHA | {"size": "small"}, 1),
    ],
)
def test_the_changed_item_is_the_nearest(items: list[dict[str, str]], changed: dict[str, str], index: int) -> None:
    """The item that differs least, the last one when several do."""
    assert nearest(tuple(items), changed) == index


def goes_on(tracker: Tracker, heard: str) -> dict[str, str]:
    """How replies go on that begin in a way that is possible."""
    return {before: after for before, after in tracker.openings(heard).items() if after is not None}


def test_what_follows_from_the_order_is_not_left_to_the_model(replies: ReplyReader) -> None:
    """What is read back is what is known; a drink that is changed keeps the rest of it, whichever it was."""
    tracker = Tracker(replies)
    assert goes_on(tracker, "what did i order") == replies.asking
    tracker.take("Okay, a large latte with some milk and a mocha. Anything else?")
    order = "a large latte with some milk and a mocha"
    known = {"You ordered": f"{order}.", "So that is": f"{order}. Is that right?"}
    assert goes_on(tracker, "") == known
    assert goes_on(tracker, "what did i order") == known | replies.asking
    change = goes_on(tracker, "make the latte a small one uh dark roast please")
    assert change == known | {"Okay, now": "a small dark roast latte with some milk. Anything else?"}
    assert goes_on(tracker, "with sugar")["Okay, now"] == "a mocha with sugar. Anything else?"
    assert goes_on(tracker, "change the espresso to a mocha") == known | {"There is no": "espresso in your order."}
    assert goes_on(tracker, "take the large latte off") == known | {"Okay, no": "latte. Anything else?"}
    assert "Okay, no" not in goes_on(tracker, "take the espresso off")


def test_an_order_of_which_no_drink_was_heard_becomes_a_question(replies: ReplyReader) -> None:
    """The question is asked instead of a drink, is understood as one, and changes nothing; a drink's name is enough."""
    tracker = after(replies, ORDER_MOCHA)
    for heard in ("i want a uh coffee", "the expresso", "two iced mochas", "i … … with some sweetener"):
        assert not replies.asking.items() & goes_on(tracker, heard).items()
    before, note = tracker.state, tracker.note
    for article in ("a", "an"):
        asks = goes_on(tracker, "i need to have a sugar with")[f"Okay, {article}"]
        assert asks.endswith("drink would you like<pitch_rising>?")
        assert tracker.take(f"Okay, {article}{asks}") == ()
        assert (tracker.state, tracker.note) == (before, note)


def test_an_order_without_a_gap_is_said_as_it_was_heard(replies: ReplyReader) -> None:
    """Nothing is added to it nor left out; where a word is missing, what it was is the model's to say."""
    tracker = Tracker(replies)
    heard = "can i get a coffee and a large uh latte with milk please"
    rest = "coffee and a large latte with milk. Anything else?"
    found = tracker.openings(heard)
    assert (found["Okay, a"], found["Okay, an"]) == (rest, None)
    for heard in ("a coffee with", "a house and a latte", "a … latte", "a latte with skim", "a mocha with large mocha"):
        assert not {"Okay, a", "Okay, an"} & tracker.openings(heard).keys()


def test_none_of_many_drinks_is_left_out(replies: ReplyReader) -> None:
    """Three drinks in a turn are said as they were heard, and added, whatever else was not understood."""
    tracker = after(replies, ORDER_MOCHA)
    heard = "may … an iced coffee a small latte and an espresso with lots of brown sugar please"
    rest = "iced coffee, a small latte, and an espresso with lots of brown sugar. Anything else?"
    assert goes_on(tracker, heard)["Okay, an"] == rest
    assert tracker.openings(heard)["Okay, a"] is None
    assert not {"Okay, a", "Okay, an"} & goes_on(tracker, "may … an iced coffee and a small latte").keys()
    too_many = " and ".join([heard, *["a mocha"] * 6])
    assert not {"Okay, a", "Okay, an"} & goes_on(tracker, too_many).keys()
    (action,) = tracker.take(f"Okay, an {rest}")
    assert [item["coffeeDrink"] for item in action["arguments"]["items"]] == ["iced coffee", "latte", "espresso"]
    assert len(tracker.state.items) == 4


def test_a_change_by_its_own_words_is_no_order(replies: ReplyReader) -> None:
    """A phrase that only changes the order begins no reply that adds a drink; words that are not one may ask for it."""
    tracker = after(replies, ORDER_MOCHA)
    assert {tracker.openings("can you please add lots of sugar")[before] for before in replies.adding} == {None}
    assert "with lots of sugar" in goes_on(tracker, "can you please add lots of sugar")["Okay, now"]
    assert goes_on(tracker, "could you lots of sugar").items() >= replies.asking.items()


def test_a_domain_need_not_ask(tmp_path: Path) -> None:
    """Without a question in the domain file, a reply goes on as the model will."""
    text = "".join(line for line in COFFEE.read_text().splitlines(True) if "not_heard" not in line)
    path = tmp_path / "domain.yaml"
    path.write_text(text)
    assert goes_on(Tracker(ReplyReader(*read_domain_file(path))), "i need to have a sugar with") == {}


def test_no_words_are_too_strange_to_go_on_from(replies: ReplyReader) -> None:
    """Whatever was heard, in whatever state of the order."""
    words = ["change", "latte", "the", "with", "milk", "remove", "that", "…", "seven", "wrong", "yes", "to", "mocha"]
    said = [ORDER_MOCHA, PLACED, "Okay, I canceled your order.", "So that is a mocha. Is that right?"]
    rng, tracker = random.Random(5), Tracker(replies)
    for _ in range(300):
        openings = goes_on(tracker, " ".join(rng.choices(words, k=rng.randrange(8))))
        assert all(before and after for before, after in openings.items())
        tracker.take(rng.choice(said))


def test_an_opening_that_others_share_is_none(tmp_path: Path) -> None:
    """Where another reply begins with the same words, it is the model's to say which it is, and how it goes on."""
    lines = COFFEE.read_text("utf8").replace('"You ordered {order}."', '"Okay, {order}."')
    (tmp_path / "domain.yaml").write_text(lines, "utf8")
    tracker = Tracker(ReplyReader(*read_domain_file(tmp_path / "domain.yaml")))
    tracker.take(ORDER_MOCHA)
    assert list(goes_on(tracker, "with milk")) == ["So that is", "Okay, now"]  # and no "Okay, a": either may go on so


def test_replies_that_no_turn_gets_are_not_begun(replies: ReplyReader) -> None:
    """They are known by their first words, as few as tell them from all that are possible as the order stands."""

    def barred(*said: str) -> set[str]:
        tracker = after(replies, *said)
        return {before for before, rest in tracker.openings("a … latte").items() if rest is None}

    change = "Sorry. What would you like to"  # change; without it, it is what an empty order is asked for
    assert barred() == {"Okay, now", "Okay, no", "Okay, I", "You ordered", "So", "There", "Great,", change}
    assert barred(ORDER_MOCHA) == {"You have", "Okay, just", "Great,", "Sorry. What would you like?"}
    asked = "So that is a mocha. Is that right?"
    assert barred(ORDER_MOCHA, asked) == {"You have", "Okay, just", "So", "What", "Sorry. What would you like?"}
    assert barred(ORDER_MOCHA, "Okay, I canceled your order.") == barred()
