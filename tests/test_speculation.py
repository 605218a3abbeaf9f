"""Answers that are begun before the turn has ended: held back, used or dropped, and never noticed otherwise."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from agent.limits import SessionLimits
from agent.reply import ReplyConfig
from agent.session import Session
from agent.speculation import HELD_FRAMES
from agent.turn import TurnConfig, TurnTaker
from agent.turn_events import Create, EndOfTurn, Quiet, Rules, Speculate, Withdraw
from agent.worker import Worker
from models.runtime import Engine, Mode, StepOut
from models.runtime_state import State
from streaming.connection import Client
from streaming.realtime_events import CreateResponse
from streaming.vad import SpeechStarted, SpeechStopped, VadConfig
from tests.fakes import FakeClient, FakeEngine, FakeState, eventually, silence, speech
from tests.test_session import update
from tests.tiny import speech_like

MS = 24  # samples
FRAME = 1920
VAD = VadConfig(detector="energy", silence_duration_ms=500)
EAGER = TurnConfig(end_of_turn_threshold=0.8, speculate_threshold=0.4)
NEVER = TurnConfig(end_of_turn_threshold=0.8, speculate_threshold=2.0)


# --- when -------------------------------------------------------------------------------------------------------------


def listening(rules: Rules | None = None, config: TurnConfig = EAGER) -> TurnTaker:
    """A turn taker in the user's first turn, after 1.5 s."""
    turns = TurnTaker(config, rules)
    turns.on(SpeechStarted(1_000 * MS, 700 * MS), 1_000 * MS)
    return turns


def pause(turns: TurnTaker, probability: float, at_ms: int = 1_600, quiet_ms: int = 100) -> list[Any]:
    """Some silence, and what the model thinks of the frame that ends with it."""
    turns.on(Quiet(quiet_ms * MS), at_ms * MS)
    return turns.on(EndOfTurn(probability, at_ms * MS), at_ms * MS)


def test_a_likely_end_is_answered_early_once_a_pause() -> None:
    """The answer is begun when the model finds the end likely; never twice in a pause, again in the next one."""
    turns = listening()
    assert pause(turns, 0.3) == []
    assert pause(turns, 0.5, 1_680, 180) == [Speculate(1, 1_500 * MS)]
    assert pause(turns, 0.6, 1_760, 260) == []
    assert turns.on(Quiet(0), 1_800 * MS) == [Withdraw()]
    assert turns.on(Quiet(0), 1_820 * MS) == []
    assert pause(turns, 0.5, 2_600, 100) == [Speculate(1, 2_500 * MS)]


def test_the_silence_may_come_after_the_probability() -> None:
    """Enough of both is needed, in any order."""
    turns = listening()
    assert pause(turns, 0.5, 1_600, 40) == []
    assert turns.on(Quiet(60 * MS), 1_620 * MS) == []
    assert turns.on(Quiet(80 * MS), 1_640 * MS) == [Speculate(1, 1_560 * MS)]


def test_a_probability_from_before_the_pause_does_not_count() -> None:
    """What the model thought of a frame with speech in it says nothing about the silence after it."""
    turns = listening()
    turns.on(Quiet(0), 1_560 * MS)
    assert turns.on(EndOfTurn(0.9, 1_560 * MS), 1_560 * MS) == []
    assert turns.on(Quiet(90 * MS), 1_660 * MS) == []


@pytest.mark.parametrize("why", ["off", "no response wanted", "another one asked for", "a reply is due"])
def test_when_nothing_is_begun_early(why: str) -> None:
    """Only the answer that the end of the turn would cause is begun."""
    turns = listening(
        Rules(create_response=why != "no response wanted", interrupt_response=why != "a reply is due"),
        NEVER if why == "off" else EAGER,
    )
    if why == "another one asked for":
        turns.on(Create(CreateResponse()), 1_500 * MS)
    if why == "a reply is due":
        turns.on(SpeechStopped(2_000 * MS, 1_500 * MS), 2_000 * MS)
        turns.on(SpeechStarted(3_000 * MS, 2_700 * MS), 3_000 * MS)
        assert turns.listening and turns.replying
    assert pause(turns, 0.5, 3_600) == []


# --- in a session -----------------------------------------------------------------------------------------------------


class Watched(FakeEngine):
    """Keeps what was done on copies, and understands nothing in silence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.copies: list[FakeState] = []

    def copy(self, state: object) -> FakeState:
        self.copies.append(super().copy(state))
        return self.copies[-1]

    def step(self, pcm: np.ndarray | None, state: object, mode: Mode) -> StepOut:
        out = super().step(pcm, state, mode)
        return out if pcm is None or pcm.any() else StepOut(None, "", "", out.end_of_turn, False)

    @property
    def spoken_early(self) -> list[int]:
        """SPEAK steps of each copy."""
        return [copy.modes.count(Mode.SPEAK) for copy in self.copies]


@contextlib.asynccontextmanager
async def talking(engine: FakeEngine, client: FakeClient, turns: TurnConfig = EAGER) -> AsyncIterator[Session]:
    async with Worker(engine) as worker:
        replies = ReplyConfig(max_lead_ms=None)
        session = Session(cast(Client, client), worker, VAD, turns, replies, SessionLimits())
        task = asyncio.create_task(session.run())
        try:
            yield session
        finally:
            client.leave()
            async with asyncio.timeout(10):
                await task


async def conversation(
    turns: TurnConfig, *sounds: np.ndarray, engine: type[Watched] = Watched
) -> tuple[Watched, FakeClient, Session]:
    """One turn, spoken slowly enough that the model is never behind, and its answer."""
    made, client = engine(reply_frames=5, end_of_turn=0.5), FakeClient()
    async with talking(made, client, turns) as session:
        update(client, transcription={"model": "x"})
        for sound in sounds:
            for start in range(0, len(sound), FRAME):
                client.speak(sound[start : start + FRAME])
                await asyncio.sleep(0)
                await eventually(lambda: not session.waiting["inbox"])
                for _ in range(40):  # as long as the model needs for what it may do ahead
                    await asyncio.sleep(0.0002)
        await client.wait_for("response.done")
    return made, client, session


def essence(client: FakeClient) -> list[Any]:
    """What a client was told, without names and times."""
    told: list[Any] = []
    for sent in client.sent:
        if sent["type"] == "conversation.item.input_audio_transcription.delta":
            continue
        told.append((sent["type"], sent.get("delta"), sent.get("transcript")))
    return told


TURN = (silence(0.4), speech(0.8), silence(0.9))


async def test_the_answer_is_ready_when_the_turn_ends() -> None:
    """It is made in the silence, a few frames of it; not a word leaves before the turn is over; then it all comes."""
    early, client, session = await conversation(EAGER, *TURN)
    late, plain, _ = await conversation(NEVER, *TURN)
    assert session.conversation.metrics.speculated == session.conversation.metrics.speculations_used == 1
    types = client.types()
    assert types.index("input_audio_buffer.speech_stopped") < types.index("response.created")
    assert essence(client) == essence(plain)
    usage = [one.sent[-1]["response"]["usage"] for one in (client, plain)]
    assert usage[0]["output_tokens"] == usage[1]["output_tokens"]
    assert late.copies == []
    (copy,) = early.copies
    assert copy.modes.count(Mode.SPEAK) == early.lead_steps + 5, "the copy has become the session"
    assert Mode.SPEAK not in early.states[0].modes


async def test_no_more_than_a_few_frames_are_made_ahead() -> None:
    """However long the pause before the decision, what is held is bounded."""
    engine, client = Watched(reply_frames=50, end_of_turn=0.5), FakeClient()
    async with talking(engine, client, EAGER) as session:
        client.speak(np.concatenate([silence(0.4), speech(0.8), silence(0.32)]))
        await eventually(lambda: bool(engine.copies) and engine.spoken_early[0] >= engine.lead_steps + HELD_FRAMES)
        await asyncio.sleep(0.1)
        assert engine.spoken_early == [engine.lead_steps + HELD_FRAMES]
        assert not [kind for kind in client.types() if kind.startswith("response.")]
        assert session.conversation.metrics.speculations_used == 0


async def test_a_user_who_goes_on_never_learns_of_it() -> None:
    """The answer is dropped: the session speaks only after the whole turn, and was told nothing of the copy."""
    sounds = (silence(0.4), speech(0.8), silence(0.32), speech(0.8), silence(0.9))
    engine, client, session = await conversation(EAGER, *sounds)
    plain_engine, plain, _ = await conversation(NEVER, *sounds)
    assert session.conversation.metrics.speculated == 2, "one a pause"
    assert session.conversation.metrics.speculations_used == 1
    assert essence(client) == essence(plain)
    assert engine.spoken_early[0] > 0
    heard, expected = engine.copies[1].heard, plain_engine.states[0].heard
    assert len(heard) <= len(expected)
    for one, other in zip(heard, expected, strict=False):
        np.testing.assert_array_equal(one, other)


async def test_other_words_than_expected_are_answered_anew() -> None:
    """The session understands a late word that the copy in its silence could not: the held answer is not used."""

    class LateWord(Watched):
        def step(self, pcm: np.ndarray | None, state: object, mode: Mode) -> StepOut:
            out = super().step(pcm, state, mode)
            if mode is Mode.LISTEN and self.copies and state is self.states[0] and self.copies[0].listened:
                return StepOut(None, "", " please", out.end_of_turn, False)
            return out

    engine, client = LateWord(reply_frames=5, end_of_turn=0.5), FakeClient()
    async with talking(engine, client, EAGER) as session:
        client.speak(np.concatenate([silence(0.4), speech(0.8), silence(0.24)]))
        await eventually(lambda: bool(engine.spoken_early) and engine.spoken_early[0] > 0)
        client.speak(silence(0.6))
        await client.wait_for("response.done")
        assert session.conversation.metrics.speculated == 1
        assert session.conversation.metrics.speculations_used == 0
    assert engine.states[0].modes.count(Mode.SPEAK) == engine.lead_steps + 5


class Unsure(Watched):
    """Is sure of one more word only when it has to be: " please" in silence, something else if the user went on."""

    def step(self, pcm: np.ndarray | None, state: object, mode: Mode) -> StepOut:
        out = super().step(pcm, state, mode)
        assert isinstance(state, FakeState)
        if mode is Mode.LISTEN and state.listened == 8:
            state.unsure = " please"
        return out


@pytest.mark.parametrize("turns", [EAGER, NEVER])
async def test_the_answer_knows_words_that_were_not_sure(turns: TurnConfig) -> None:
    """Begun early or not: what has to be said follows from all words, and all are in the transcript, once."""
    engine, client, session = await conversation(turns, *TURN, engine=Unsure)
    assert session.conversation.metrics.speculations_used == (turns is EAGER)
    deltas = [sent["delta"] for sent in client.sent if sent["type"].endswith("input_audio_transcription.delta")]
    assert deltas.count(" please") == 1
    assert all(copy.unsure == "" for copy in engine.copies)


async def test_it_yields_to_every_other_session() -> None:
    """No step of it is made while another session waits for the model."""
    engine, client = Watched(reply_frames=3, end_of_turn=0.5), FakeClient()
    async with talking(engine, client, EAGER) as session:
        await client.wait_for("session.created")
        session._worker.waiting += 1  # somebody does
        client.speak(np.concatenate([silence(0.4), speech(0.8), silence(0.32)]))
        await eventually(lambda: session.conversation.metrics.speculated == 1 and not session.waiting["inbox"])
        await asyncio.sleep(0.05)
        assert engine.copies == []
        client.speak(silence(0.6))
        await client.wait_for("response.done")
        assert engine.copies == []
    assert engine.states[0].modes.count(Mode.SPEAK) == engine.lead_steps + 3


async def test_an_answer_that_was_begun_early_can_be_interrupted() -> None:
    """The engine is told how much of it was heard, as of any reply."""
    engine, client = Watched(reply_frames=200, end_of_turn=0.5), FakeClient()
    async with talking(engine, client, EAGER) as session:
        client.speak(np.concatenate([silence(0.4), speech(0.8), silence(0.24)]))
        await eventually(lambda: bool(engine.spoken_early) and engine.spoken_early[0] > 0)
        client.speak(silence(0.6))
        await client.wait_for("response.output_audio.delta", 3)
        client.say("response.cancel")
        done = await client.wait_for("response.done")
        assert done["response"]["status"] == "cancelled"
        await eventually(lambda: bool(engine.copies[0].truncations))
        assert session.conversation.metrics.speculations_used == 1


# --- on the engine ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tiny_models: Path) -> Engine:
    """The toy models as they are shipped."""
    return Engine.load(tiny_models / "models" / "codec", tiny_models / "models" / "s2s")


def listen(engine: Engine, state: State, count: int, seed: int) -> list[StepOut]:
    frames = speech_like(count * 0.08 + 0.01, seed).reshape(-1, FRAME)[:count]
    return [engine.step(pcm, state, Mode.LISTEN) for pcm in frames]


def ahead(engine: Engine, state: State, silences: int, steps: int) -> list[StepOut]:
    """What a speculation does."""
    outs = [engine.step(np.zeros(FRAME, np.float32), state, Mode.LISTEN) for _ in range(silences)]
    return outs + [engine.step(None, state, Mode.SPEAK) for _ in range(steps)]


def arrays(state: State) -> dict[str, np.ndarray]:
    """All that a session is, bit for bit."""
    facts = {"history": state.history, "source": state.sound.source, "tail": state.sound.tail}
    for name in ("encoder", "decoder", "step"):
        stream = getattr(state, name)
        for kind in ("inputs", "outputs"):
            facts |= {f"{name}.{kind}.{key}": array for key, array in getattr(stream, kind).items()}
        for turn, states in enumerate(stream._states):
            facts |= {f"{name}.{turn}.{key}": array for key, array in states.items()}
        facts[f"{name}.turn"] = np.array(stream._turn)
    facts |= {f"prefix.{n}": codes for n, codes in enumerate(state.prefix)}
    plain = ("position", "transcript", "speaking", "heard_last", "reply_start", "reply_steps", "recent", "recent_log")
    facts |= {name: np.array(getattr(state, name)) for name in (*plain, "note_due", "note_steps", "note_piece")}
    sound = state.sound
    return facts | {"sound": np.array([sound.octave, sound.voicing, sound.phase, sound.clock])}


def assert_equal_bits(one: State, other: State) -> None:
    mine, theirs = arrays(one), arrays(other)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.parametrize("before", [3, 70])
def test_a_dropped_answer_leaves_no_trace(engine: Engine, before: int) -> None:
    """A session whose copies answered in three pauses is bit for bit one that has had none, past the window as well."""
    speculated, plain = engine.new_state(), engine.new_state()
    for seed in range(3):
        for state in (speculated, plain):
            listen(engine, state, before, seed)
        ahead(engine, engine.copy(speculated), 3, 9)
        assert_equal_bits(speculated, plain)
    spoken = [ahead(engine, state, 4, 8) for state in (speculated, plain)]
    for one, other in zip(*spoken, strict=True):
        assert (one.text, one.user_text, one.end_of_turn) == (other.text, other.user_text, other.end_of_turn)
        np.testing.assert_array_equal(one.pcm, other.pcm)
    assert_equal_bits(speculated, plain)


def test_a_copy_in_the_sessions_place_is_the_session(engine: Engine) -> None:
    """An answer made on a copy is bit for bit the one that the session would have given, and the copy goes on alike."""
    state = engine.new_state()
    listen(engine, state, 6, 1)
    copy = engine.copy(state)
    made, expected = ahead(engine, copy, 3, 7), ahead(engine, state, 3, 7)
    for one, other in zip(made, expected, strict=True):
        assert one.text == other.text
        np.testing.assert_array_equal(one.pcm, other.pcm)
    for one_state in (copy, state):
        engine.truncate_reply(one_state, 2)
        listen(engine, one_state, 4, 2)
    assert_equal_bits(copy, state)
