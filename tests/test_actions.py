"""From replies to actions, in a conversation."""

from pathlib import Path

import pytest

from agent.actions import ActingEmitter, Actions, load_actions
from agent.errors import ConfigError
from streaming import realtime_events as events

LATTE = events.Action("add_items", {"items": [{"coffeeDrink": "latte"}]})


@pytest.fixture(scope="module")
def actions(shipped_models: Path) -> Actions:
    """Those of the shipped model."""
    loaded = load_actions(shipped_models / "s2s")
    assert loaded is not None
    return loaded


def reply(emitter: ActingEmitter, status: events.ResponseStatus, *pieces: str) -> None:
    emitter(events.ReplyStarted(1))
    for piece in pieces:
        emitter(events.ReplyText(piece))
    emitter(events.ReplyDone(status, None if status == "completed" else "why", events.Usage(1, 2, 3)))


def done(seen: list[events.Event]) -> tuple[events.Action, ...]:
    """What the latest reply did."""
    latest = seen[-1]
    assert isinstance(latest, events.ReplyDone)
    return latest.actions


def test_a_complete_reply_acts(actions: Actions) -> None:
    """Every event passes unchanged, in order; the last one of a complete reply says what it did."""
    seen: list[events.Event] = []
    reply(ActingEmitter(actions.replies, seen.append), "completed", "Okay, a", " latte. Anything", " else?")
    assert [type(event).__name__ for event in seen] == [
        "ReplyStarted",
        "ReplyText",
        "ReplyText",
        "ReplyText",
        "ReplyDone",
    ]
    assert seen[-1] == events.ReplyDone("completed", None, events.Usage(1, 2, 3), (LATTE,))


def test_words_that_were_given_do_nothing(actions: Actions) -> None:
    """An announcement is no order, and no part of the next one."""
    seen: list[events.Event] = []
    emitter = ActingEmitter(actions.replies, seen.append)
    emitter(events.ReplyStarted(1, events.CreateResponse(say="Okay, a mocha.")))
    emitter(events.ReplyText("Okay, a mocha. Anything else?"))
    emitter(events.ReplyDone("completed"))
    assert seen[-1] == events.ReplyDone("completed")
    reply(emitter, "completed", "Okay, a latte. Anything else?")
    assert seen[-1] == events.ReplyDone("completed", None, events.Usage(1, 2, 3), (LATTE,))


@pytest.mark.parametrize("status", ["cancelled", "incomplete"])
def test_an_interrupted_reply_does_nothing(actions: Actions, status: events.ResponseStatus) -> None:
    """Even with all its words written. But what it had understood is known, and done with the next complete reply."""
    seen: list[events.Event] = []
    emitter = ActingEmitter(actions.replies, seen.append)
    reply(emitter, status, "Okay, a lat")
    assert emitter.note() is None
    reply(emitter, status, "Okay, a latte. Any")
    assert emitter.note() is None
    reply(emitter, status, "Okay, a latte. Anything")
    assert seen[-1] == events.ReplyDone(status, "why", events.Usage(1, 2, 3))
    assert emitter.note() == "latte"
    reply(emitter, "completed", "Okay, a small mocha. Anything else?")
    assert emitter.note() == "latte, mocha small"
    mocha = events.Action("add_items", {"items": [{"size": "small", "coffeeDrink": "mocha"}]})
    assert done(seen) == (LATTE, mocha)
    for broken_off in ("You ordered a latte", "Okay, I canceled your order.", "Great, your order is coming right up."):
        reply(emitter, status, broken_off)
        assert done(seen) == ()
    reply(emitter, "completed", "Great, your order is coming right up.")
    drinks = [{"coffeeDrink": "latte"}, {"size": "small", "coffeeDrink": "mocha"}]
    assert done(seen) == (events.Action("place_order", {"items": drinks}),)


def test_a_reply_that_is_taken_back_leaves_the_order_as_it_was(actions: Actions) -> None:
    """Complete or not; the fuller reply after it counts once."""
    seen: list[events.Event] = []
    emitter = ActingEmitter(actions.replies, seen.append)
    reply(emitter, "completed", "Okay, a mocha. Anything else?")
    for status in ("completed", "cancelled"):
        reply(emitter, status, "Okay, a latte. Anything else?")
        emitter(events.ReplyTakenBack())
    reply(emitter, "completed", "Great, your order is coming right up.")
    assert isinstance(done := seen[-1], events.ReplyDone)
    assert [action.arguments["items"] for action in done.actions] == [[{"coffeeDrink": "mocha"}]]


def test_conversations_have_orders_of_their_own(actions: Actions) -> None:
    """What one user ordered is not placed for another."""
    seen: list[events.Event] = []
    first, second = (ActingEmitter(actions.replies, seen.append) for _ in range(2))
    reply(first, "completed", "Okay, a latte. Anything else?")
    reply(second, "completed", "Great, your order is coming right up.")
    assert seen[-1] == events.ReplyDone("completed", None, events.Usage(1, 2, 3))


def test_a_model_without_a_domain_only_speaks(tmp_path: Path) -> None:
    """No domain file, no actions."""
    assert load_actions(tmp_path) is None


def test_a_damaged_domain_is_named(tmp_path: Path) -> None:
    """The file and its line are in the error."""
    (tmp_path / "domain.yaml").write_text("version: 7\n")
    with pytest.raises(ConfigError, match=r"domain\.yaml:\d+: "):
        load_actions(tmp_path)
