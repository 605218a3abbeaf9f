"""Whose settings of turn detection are in force."""

from agent.detection import Detection
from agent.turn import EAGERNESS, MODEL_OFF, TurnConfig
from agent.turn_events import Rules
from streaming.frames import ms_to_samples
from streaming.realtime_config import SemanticVad, ServerVad
from streaming.vad import VadConfig

DAEMON = (VadConfig(silence_duration_ms=700), TurnConfig(end_of_turn_threshold=0.6))


def test_the_daemon_decides_where_nobody_else_has() -> None:
    """At first, with "auto", and again when somebody has taken the eagerness back."""
    detection = Detection(*DAEMON)
    assert (detection.vad, detection.turns) == DAEMON
    detection.be_eager("high")
    assert detection.turns.end_of_turn_threshold == EAGERNESS["high"][0]["end_of_turn_threshold"]
    detection.be_eager("medium")
    assert (detection.vad, detection.turns) == DAEMON


def test_the_client_goes_first() -> None:
    """What it has chosen stays; what it leaves open follows the eagerness, also one that was said before."""
    detection = Detection(*DAEMON)
    detection.ask(SemanticVad(eagerness="low"))
    detection.be_eager("high")
    assert detection.turns.end_of_turn_threshold == EAGERNESS["low"][0]["end_of_turn_threshold"]
    detection.ask(SemanticVad())
    assert detection.vad.silence_duration_ms == EAGERNESS["high"][-1]
    detection.ask(ServerVad(silence_duration_ms=300))
    assert (detection.vad.silence_duration_ms, detection.turns.end_of_turn_threshold) == (300, MODEL_OFF)


def test_rules_and_silence() -> None:
    """Push to talk detects nothing; only a client that asked for it is answered when nobody speaks."""
    detection = Detection(*DAEMON)
    assert detection.rules == Rules()
    assert not detection.timed_out(10**9)
    detection.ask(ServerVad(idle_timeout_ms=6_000, interrupt_response=False))
    assert detection.rules == Rules(interrupt_response=False)
    assert [detection.timed_out(ms_to_samples(ms)) for ms in (5_999, 6_000)] == [False, True]
    detection.ask(None)
    assert detection.rules == Rules(detect=False)
    assert not detection.timed_out(10**9)


def test_words_that_ask_for_the_turn() -> None:
    """Two words do, and one of those that are set; one that the model did not know is none, nor is a hesitation."""
    detection = Detection(*DAEMON)
    assert [detection.asks_for_turn(text) for text in ("", "mhm", "… mhm", "um a", "a second", "wait", "and then")] == [
        False, False, False, False, False, True, True,
    ]  # fmt: skip
