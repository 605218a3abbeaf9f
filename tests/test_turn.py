"""Turn taking: events in, actions out."""

import pytest

from agent.turn import TurnConfig, TurnTaker
from agent.turn_events import (
    Cancel,
    Clear,
    Commit,
    CommitTurn,
    ConcludeDoubt,
    Create,
    DropTurn,
    EndOfTurn,
    HoldReply,
    Overheard,
    Quiet,
    Reject,
    Reply,
    ReplyEnded,
    RestartDetector,
    ResumeReply,
    Rules,
    SetRules,
    Settle,
    StartTurn,
    StopReply,
    StopTurn,
    TimedOut,
    TimeOut,
    WentOn,
)
from streaming.realtime_events import CreateResponse
from streaming.vad import SpeechStarted, SpeechStopped

MS = 24  # samples
CONFIG = TurnConfig(end_of_turn_threshold=0.7, end_of_turn_silence_ms=160, speculate_threshold=2.0)


def taker(rules: Rules | None = None) -> TurnTaker:
    return TurnTaker(CONFIG, rules)


def listening(rules: Rules | None = None) -> TurnTaker:
    """A turn taker in the user's first turn."""
    turns = taker(rules)
    turns.on(SpeechStarted(1_000 * MS, 700 * MS), 1_000 * MS)
    return turns


def replying() -> TurnTaker:
    """A turn taker whose agent answers the first turn."""
    turns = listening()
    turns.on(SpeechStopped(2_000 * MS, 1_500 * MS), 2_000 * MS)
    return turns


def test_speech_opens_a_turn() -> None:
    """The first speech starts turn 1 where its padding begins."""
    assert taker().on(SpeechStarted(500, 100), 500) == [StartTurn(1, 100)]


def test_silence_ends_the_turn_with_a_reply() -> None:
    """The detector's stop commits the turn and asks for a reply that knows when speech ended."""
    actions = listening().on(SpeechStopped(2_000 * MS, 1_500 * MS), 2_000 * MS)
    assert actions == [
        StopTurn(1, 2_000 * MS, 1_500 * MS, "silence"),
        CommitTurn(1),
        Reply(1, 1_500 * MS),
    ]


def test_without_create_response_the_turn_is_only_settled() -> None:
    """create_response false commits and asks for nothing."""
    actions = listening(Rules(create_response=False)).on(SpeechStopped(2_000 * MS, 1_500 * MS), 2_000 * MS)
    assert actions[1:] == [CommitTurn(1), Settle(1, 1_500 * MS)]


def test_the_model_ends_a_turn_early() -> None:
    """A confident model and enough silence end the turn, and the detector starts afresh."""
    turns = listening()
    assert turns.on(Quiet(160 * MS), 1_660 * MS) == []
    actions = turns.on(EndOfTurn(0.9, 1_660 * MS), 1_660 * MS)
    assert actions == [
        StopTurn(1, 1_660 * MS, 1_500 * MS, "model"),
        CommitTurn(1),
        Reply(1, 1_500 * MS),
        RestartDetector(),
    ]


def test_the_model_alone_does_not_end_a_turn() -> None:
    """While the user talks, or has been quiet for too short, the model's opinion waits."""
    turns = listening()
    assert turns.on(EndOfTurn(0.99, 1_500 * MS), 1_500 * MS) == []
    turns.on(Quiet(80 * MS), 1_580 * MS)
    assert turns.on(EndOfTurn(0.99, 1_580 * MS), 1_580 * MS) == []
    assert turns.on(Quiet(160 * MS), 1_660 * MS)[0] == StopTurn(1, 1_660 * MS, 1_500 * MS, "model")


@pytest.mark.parametrize(("chance", "needed_ms"), [(0.5, 320), (0.75, 240), (1.0, 160)])
def test_a_surer_model_needs_less_silence(chance: float, needed_ms: int) -> None:
    """From the full silence at the threshold to the least one at certainty; no sooner, no later."""
    turns = TurnTaker(TurnConfig(end_of_turn_threshold=0.5, end_of_turn_silence_ms=320, sure_silence_ms=160,
                                 speculate_threshold=2.0))  # fmt: skip
    turns.on(SpeechStarted(1_000 * MS, 700 * MS), 1_000 * MS)
    turns.on(Quiet(20 * MS), 1_520 * MS)
    turns.on(EndOfTurn(chance, 1_520 * MS), 1_520 * MS)
    ended = [quiet for quiet in range(40, 400, 20) if turns.on(Quiet(quiet * MS), (1_500 + quiet) * MS)]
    assert ended[0] == needed_ms


def test_the_models_opinion_dies_when_the_user_goes_on() -> None:
    """Speech after a pause forgets what the model thought in the pause."""
    turns = listening()
    turns.on(Quiet(80 * MS), 1_580 * MS)
    turns.on(EndOfTurn(0.99, 1_580 * MS), 1_580 * MS)
    turns.on(Quiet(0), 1_600 * MS)
    assert turns.on(Quiet(300 * MS), 2_600 * MS) == []


def test_an_opinion_about_older_audio_does_not_count() -> None:
    """The model lags: what it says about a frame before the silence is no opinion on the silence."""
    turns = listening()
    turns.on(Quiet(200 * MS), 1_700 * MS)
    assert turns.on(EndOfTurn(0.99, 1_480 * MS), 1_700 * MS) == []


def test_speech_holds_a_reply_and_interrupts_it_when_it_lasts() -> None:
    """Barge-in holds the reply at once; then the user's turn begins where the speech did, and the reply stops."""
    turns = replying()
    assert turns.on(SpeechStarted(3_000 * MS, 2_700 * MS), 3_000 * MS) == [HoldReply()]
    assert turns.doubting
    assert turns.on(Quiet(0), 4_490 * MS) == []
    assert turns.on(Quiet(0), 4_500 * MS) == [StartTurn(2, 2_700 * MS), StopReply("turn_detected")]
    assert turns.listening


def test_a_sound_without_words_only_holds_the_reply() -> None:
    """A cough: what it was is asked once; the reply goes on after it, and the next sound is weighed again."""
    turns = replying()
    turns.on(SpeechStarted(3_000 * MS, 2_700 * MS), 3_000 * MS)
    turns.on(Quiet(0), 3_200 * MS)
    assert turns.on(Quiet(239 * MS), 3_439 * MS) == []
    assert turns.on(Quiet(240 * MS), 3_440 * MS) == [ConcludeDoubt()]
    assert turns.on(Quiet(260 * MS), 3_460 * MS) == []
    assert turns.on(Overheard(words=False, final=False), 3_460 * MS) == []
    assert turns.on(Overheard(words=False, final=True), 3_470 * MS) == [ResumeReply(), RestartDetector()]
    assert not turns.doubting
    assert turns.replying
    assert turns.on(SpeechStarted(4_000 * MS, 3_700 * MS), 4_000 * MS) == [HoldReply()]
    assert turns.on(Quiet(240 * MS), 4_340 * MS) == [ConcludeDoubt()]


@pytest.mark.parametrize("final", [False, True])
def test_words_over_a_reply_interrupt_it(final: bool) -> None:
    """As soon as the model understands one, or when the sound is over."""
    turns = replying()
    turns.on(SpeechStarted(3_000 * MS, 2_700 * MS), 3_000 * MS)
    actions = turns.on(Overheard(words=True, final=final), 3_200 * MS)
    assert actions == [StartTurn(2, 2_700 * MS), StopReply("turn_detected")]
    assert turns.on(Overheard(words=True, final=True), 3_300 * MS) == []


def test_speech_right_after_a_reply_began_is_no_cough() -> None:
    """The user goes on: the turn begins at once."""
    actions = replying().on(WentOn(SpeechStarted(3_000 * MS, 2_700 * MS)), 3_000 * MS)
    assert actions == [StartTurn(2, 2_700 * MS), StopReply("turn_detected")]


def test_clearing_and_push_to_talk_end_the_doubt() -> None:
    """What the client wants comes first; the reply is not left waiting."""
    for event in (Clear(), SetRules(Rules(detect=False))):
        turns = replying()
        turns.on(SpeechStarted(3_000 * MS, 2_700 * MS), 3_000 * MS)
        actions = turns.on(event, 3_100 * MS)
        assert actions[0] == ResumeReply()
        assert not turns.doubting


def test_a_reply_that_is_protected_while_it_is_held_goes_on() -> None:
    """As the rules are now, speech begins a turn and leaves the reply alone."""
    turns = replying()
    turns.on(SpeechStarted(3_000 * MS, 2_700 * MS), 3_000 * MS)
    assert turns.on(SetRules(Rules(interrupt_response=False)), 3_100 * MS) == [ResumeReply(), StartTurn(2, 2_700 * MS)]
    assert turns.replying and turns.listening


@pytest.mark.parametrize(
    ("event", "stopped"), [(Cancel(), StopReply("client_cancelled")), (ReplyEnded(), ResumeReply())]
)
def test_what_was_said_over_a_reply_that_ended_is_a_turn(
    event: Cancel | ReplyEnded, stopped: StopReply | ResumeReply
) -> None:
    """The sound is not lost because the reply went away while it was found out what it is."""
    turns = replying()
    turns.on(SpeechStarted(3_000 * MS, 2_700 * MS), 3_000 * MS)
    assert turns.on(event, 3_100 * MS) == [stopped, StartTurn(2, 2_700 * MS)]
    assert turns.on(SpeechStopped(5_000 * MS, 4_000 * MS), 5_000 * MS)[-1] == Reply(2, 4_000 * MS)


def test_a_turn_without_an_end_is_ended() -> None:
    """In the noise of a crowd the detector hears speech for ever: the turn is answered after a minute."""
    turns = listening()
    assert all(turns.on(Quiet(0), now * MS) == [] for now in range(1_000, 61_000, 80))
    actions = turns.on(Quiet(0), 61_000 * MS)
    assert actions == [StopTurn(1, 61_000 * MS, 61_000 * MS, "limit"), CommitTurn(1), Reply(1, 61_000 * MS)]
    assert turns.on(SpeechStopped(90_000 * MS, 89_000 * MS), 90_000 * MS) == []


def test_speech_leaves_a_protected_reply_alone() -> None:
    """interrupt_response false lets the reply go on and queues the next one behind it."""
    turns = taker(Rules(interrupt_response=False))
    turns.on(SpeechStarted(0, 0), 0)
    turns.on(SpeechStopped(1_000, 500), 1_000)
    assert turns.on(SpeechStarted(2_000, 1_900), 2_000) == [StartTurn(2, 1_900)]
    assert turns.on(SpeechStopped(3_000, 2_500), 3_000)[-1] == Reply(2, 2_500)
    turns.on(SpeechStarted(4_000, 3_900), 4_000)
    assert turns.on(SpeechStopped(5_000, 4_500), 5_000)[-1] == Settle(3, 4_500)


def test_no_reply_is_interrupted_after_its_end() -> None:
    """A reply that ended by itself leaves nothing to stop."""
    turns = replying()
    turns.on(ReplyEnded(), 2_500 * MS)
    assert turns.on(SpeechStarted(3_000 * MS, 2_700 * MS), 3_000 * MS) == [StartTurn(2, 2_700 * MS)]


def test_commit_without_speech_is_empty() -> None:
    """With detection on there must be an open turn to commit."""
    (action,) = taker().on(Commit(0, "ev"), 0)
    assert isinstance(action, Reject)
    assert (action.code, action.event_id) == ("input_audio_buffer_commit_empty", "ev")


def test_commit_ends_a_detected_turn_without_a_reply() -> None:
    """The client may cut the user's turn; answering is then up to the client too."""
    assert listening().on(Commit(), 2_000 * MS) == [CommitTurn(1), Settle(1, 2_000 * MS), RestartDetector()]


@pytest.mark.parametrize(("buffered_ms", "accepted"), [(0, False), (99, False), (100, True)])
def test_push_to_talk_needs_a_tenth_of_a_second(buffered_ms: int, accepted: bool) -> None:
    """Push to talk refuses to commit less than 100 ms."""
    actions = taker(Rules(detect=False)).on(Commit(buffered_ms * MS), 0)
    assert isinstance(actions[0], CommitTurn if accepted else Reject)


def test_push_to_talk_ignores_the_detector() -> None:
    """With detection off, speech opens no turn."""
    assert taker(Rules(detect=False)).on(SpeechStarted(5, 1), 5) == []


def test_clear_drops_the_open_turn() -> None:
    """Clearing forgets an open turn and restarts the detector; without one it only clears."""
    assert listening().on(Clear(), 0) == [DropTurn(1), RestartDetector()]
    assert taker().on(Clear(), 0) == [DropTurn(None)]


def test_create_while_replying_is_refused() -> None:
    """Only one response at a time."""
    (action,) = replying().on(Create(CreateResponse(event_id="ev")), 0)
    assert isinstance(action, Reject)
    assert (action.code, action.event_id) == ("conversation_already_has_active_response", "ev")


def test_create_while_the_user_speaks_waits() -> None:
    """The reply is given, as it was asked for, when the user has finished - also where turns cause none."""
    turns = taker(Rules(create_response=False))
    turns.on(SpeechStarted(1_000, 700), 1_000)
    options = CreateResponse(metadata={"k": "v"})
    assert turns.on(Create(options), 1_100) == []
    (second,) = turns.on(Create(CreateResponse()), 1_200)
    assert isinstance(second, Reject)
    assert second.code == "conversation_already_has_active_response"
    assert turns.on(SpeechStopped(3_000, 2_500), 3_000)[-1] == Reply(1, 2_500, options)
    turns.on(ReplyEnded(), 4_000)
    turns.on(SpeechStarted(5_000, 4_900), 5_000)
    assert isinstance(turns.on(SpeechStopped(6_000, 5_500), 6_000)[-1], Settle)


@pytest.mark.parametrize("event", [Commit(), Clear()])
def test_a_waiting_reply_is_given_when_the_client_ends_the_turn(event: Commit | Clear) -> None:
    """Whether it commits what was said or takes it back."""
    turns, options = listening(), CreateResponse()
    turns.on(Create(options), 2_000 * MS)
    (reply,) = [action for action in turns.on(event, 2_000 * MS) if isinstance(action, Reply)]
    assert reply.options is options


def test_a_waiting_reply_can_be_cancelled() -> None:
    """It was not active, says the error, and it never comes."""
    turns = taker(Rules(create_response=False))
    turns.on(SpeechStarted(1_000, 700), 1_000)
    turns.on(Create(CreateResponse()), 1_100)
    (action,) = turns.on(Cancel(), 1_200)
    assert isinstance(action, Reject)
    assert isinstance(turns.on(SpeechStopped(3_000, 2_500), 3_000)[-1], Settle)


def test_a_reply_apart_does_not_wait() -> None:
    """It would be given in the place of the user's answer."""
    (action,) = listening().on(Create(CreateResponse(apart=True)), 0)
    assert isinstance(action, Reject)
    assert action.code == "input_audio_buffer_not_committed"


def test_silence_can_be_a_turn() -> None:
    """Nobody says anything: that is a turn and gets a reply, but not while somebody speaks."""
    turns = taker()
    assert turns.on(TimedOut(500), 6_000) == [TimeOut(1, 500), CommitTurn(1), Reply(1, None)]
    assert turns.on(TimedOut(500), 7_000) == []
    turns.on(ReplyEnded(), 8_000)
    turns.on(SpeechStarted(9_000, 8_900), 9_000)
    assert turns.on(TimedOut(8_000), 9_500) == []
    assert taker(Rules(detect=False)).on(TimedOut(0), 6_000) == []


def test_create_asks_for_a_reply() -> None:
    """An idle agent answers when told to."""
    options = CreateResponse(text_only=True)
    assert taker().on(Create(options), 0) == [Reply(0, None, options)]


def test_cancel() -> None:
    """Cancelling stops a reply; without one it fails with the words clients look for."""
    assert replying().on(Cancel(), 0) == [StopReply("client_cancelled")]
    (action,) = taker().on(Cancel("ev"), 0)
    assert isinstance(action, Reject)
    assert action.code == "response_cancel_not_active"
    assert action.message.startswith("Cancellation failed")


def test_switching_detection_off_drops_the_open_turn() -> None:
    """A turn the detector opened cannot be ended by it any more."""
    assert listening().on(SetRules(Rules(detect=False)), 0) == [DropTurn(1), RestartDetector()]


def test_changing_other_rules_keeps_the_turn() -> None:
    """create_response may change in the middle of a turn."""
    turns = listening()
    assert turns.on(SetRules(Rules(create_response=False)), 0) == []
    assert turns.listening
