"""What waits for a broker."""

from streaming.outbox import Letter, Outbox, Rank


def drain(outbox: Outbox) -> list[str]:
    """Everything that waits, in the order it would be sent."""
    sent = []
    while (letter := outbox.first()) is not None:
        sent.append(letter.payload)
        outbox.arrived(letter)
    return sent


def test_the_important_first_and_each_rank_in_order() -> None:
    """State, then orders, then the rest; a rank is a queue."""
    outbox = Outbox(10)
    for rank in (Rank.LOW, Rank.HIGH, Rank.NORMAL):
        for number in (1, 2):
            outbox.put(Letter("t", f"{rank.name}{number}", rank=rank))
    outbox.keep("state", "idle")
    assert drain(outbox) == ["idle", "HIGH1", "HIGH2", "NORMAL1", "NORMAL2", "LOW1", "LOW2"]
    assert len(outbox) == 0


def test_when_full_the_oldest_of_the_least_important_leave() -> None:
    """Metrics make room for orders, and everything that left was counted."""
    outbox = Outbox(4)
    for number in range(3):
        outbox.put(Letter("t", f"low{number}", rank=Rank.LOW))
    for number in range(3):
        outbox.put(Letter("t", f"high{number}", rank=Rank.HIGH))
    assert drain(outbox) == ["high0", "high1", "high2", "low2"]
    assert outbox.dropped == {Rank.LOW: 2}


def test_orders_leave_only_for_orders() -> None:
    """A full box of orders refuses metrics and gives up its oldest order for a new one."""
    outbox = Outbox(2)
    for number in range(3):
        outbox.put(Letter("t", f"high{number}", rank=Rank.HIGH))
    outbox.put(Letter("t", "low", rank=Rank.LOW))
    assert drain(outbox) == ["high1", "high2"]
    assert outbox.dropped == {Rank.HIGH: 1, Rank.LOW: 1}


def test_state_is_one_a_topic_and_the_newest_wins() -> None:
    """Old states are not sent late, and state takes no room from messages."""
    outbox = Outbox(1)
    outbox.put(Letter("t", "message"))
    for payload in ("idle", "listening", "thinking"):
        outbox.keep("state", payload)
    outbox.keep("options", "{}")
    assert drain(outbox) == ["thinking", "{}", "message"]
    assert not outbox.dropped


def test_a_new_connection_gets_all_state_again() -> None:
    """The broker may have forgotten it; messages that arrived are not repeated."""
    outbox = Outbox(4)
    outbox.keep("a", "1")
    outbox.keep("b", "2")
    outbox.put(Letter("t", "message"))
    drain(outbox)
    outbox.renew()
    assert drain(outbox) == ["1", "2"]


def test_what_did_not_arrive_stays_first() -> None:
    """A message in flight when the connection broke is sent again, before the others."""
    outbox = Outbox(4)
    outbox.put(Letter("t", "first"))
    outbox.put(Letter("t", "second"))
    assert outbox.first() is outbox.first()
    assert drain(outbox) == ["first", "second"]


def test_a_message_that_changed_in_flight() -> None:
    """State that was replaced while it was sent is sent again; a message that was dropped meanwhile is no other's."""
    outbox = Outbox(1)
    outbox.keep("state", "old")
    under_way = outbox.first()
    assert under_way is not None
    outbox.keep("state", "new")
    outbox.arrived(under_way)
    assert drain(outbox) == ["new"]
    outbox.put(Letter("t", "same"))
    under_way = outbox.first()
    assert under_way is not None
    outbox.put(Letter("t", "same"))  # the first one has left
    outbox.arrived(under_way)
    assert drain(outbox) == ["same"]


def test_the_same_state_again_while_it_is_in_flight() -> None:
    """Equal text is not the same message."""
    outbox = Outbox(1)
    outbox.keep("state", "idle")
    under_way = outbox.first()
    assert under_way is not None
    outbox.keep("state", "busy")
    outbox.keep("state", "idle")
    outbox.arrived(under_way)
    assert drain(outbox) == ["idle"]
