"""A session and its conversation, with a fake engine and a fake client."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import numpy as np
import pytest

from agent.conversation import Conversation
from agent.limits import SessionLimits
from agent.logs import fields_of
from agent.reply import ReplyConfig
from agent.session import Session
from agent.turn import TurnConfig
from agent.turn_events import Cancel
from agent.worker import Worker
from models.runtime import Mode
from streaming import realtime_events as events
from streaming.connection import Client
from streaming.vad import VadConfig
from tests.fakes import FRAME, FakeClient, FakeClock, FakeEngine, FakeState, eventually, silence, speech, spoken_turn

VAD = VadConfig(detector="energy", silence_duration_ms=500)
MODEL_OFF = TurnConfig(end_of_turn_threshold=2.0)


@contextlib.asynccontextmanager
async def serving(
    engine: FakeEngine,
    client: FakeClient,
    replies: ReplyConfig | None = None,
    turns: TurnConfig = MODEL_OFF,
    limits: SessionLimits | None = None,
    clock: FakeClock | None = None,
) -> AsyncIterator[Session]:
    """A session that runs, and ends when the block does."""
    replies = replies or ReplyConfig(max_lead_ms=None)
    async with Worker(engine) as worker:
        session = Session(
            cast(Client, client),
            worker,
            VAD,
            turns,
            replies,
            limits or SessionLimits(),
            clock or time.monotonic,
        )
        task = asyncio.create_task(session.run())
        try:
            yield session
        finally:
            client.leave()
            async with asyncio.timeout(10):
                await task


def state_of(engine: FakeEngine) -> FakeState:
    (state,) = engine.states
    return state


def update(client: FakeClient, **input_settings: Any) -> None:
    client.say("session.update", session={"type": "realtime", "audio": {"input": input_settings}})


# --- a turn -----------------------------------------------------------------------------------------------------------


async def test_a_spoken_turn_is_answered() -> None:
    """Audio faster than real time, in one piece: the protocol's messages in order, and the right model steps."""
    engine, client = FakeEngine(reply_frames=3), FakeClient()
    async with serving(engine, client) as session:
        client.speak(spoken_turn())
        done = await client.wait_for("response.done")
        metrics = session.conversation.metrics
    assert done["response"]["status"] == "completed"
    assert done["response"]["output"][0]["content"][0]["transcript"] == "sure one latte coming"
    assert [kind for kind in client.types() if not kind.endswith(".delta")] == [
        "session.created",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert client.types().count("response.output_audio.delta") == 3
    modes = state_of(engine).modes
    assert modes[0] is Mode.IDLE
    first_listen, first_speak = modes.index(Mode.LISTEN), modes.index(Mode.SPEAK)
    assert set(modes[:first_listen]) == {Mode.IDLE}
    assert set(modes[first_listen:first_speak]) == {Mode.LISTEN}
    assert modes.count(Mode.SPEAK) == engine.lead_steps + 3
    (turn,) = metrics.turns
    assert turn.ended_by == "silence"
    assert turn.speech_end_to_decision_ms == pytest.approx(540, abs=40)  # in pieces of 80 ms
    assert turn.status == "completed"
    assert turn.reply_frames == 3
    assert turn.decision_to_audio_ms is not None
    assert turn.decision_to_text_ms is not None
    assert turn.decision_to_text_ms <= turn.decision_to_audio_ms


@pytest.mark.parametrize("chunk", [97, 480, 1_920, 5_000])
async def test_cutting_the_audio_differently_changes_nothing(chunk: int) -> None:
    """Appends of any size give the model the same frames in the same modes before the reply."""
    heard = []
    for size in (10**9, chunk):
        engine, client = FakeEngine(reply_frames=1), FakeClient()
        async with serving(engine, client):
            audio = spoken_turn()
            for begin in range(0, len(audio), size):
                client.speak(audio[begin : begin + size])
            await client.wait_for("response.done")
        modes = state_of(engine).modes
        heard.append((modes[: modes.index(Mode.SPEAK)], np.concatenate(state_of(engine).heard)))
    assert heard[0][0] == heard[1][0]
    np.testing.assert_array_equal(heard[0][1], heard[1][1])


async def test_the_model_can_end_the_turn() -> None:
    """With a confident model the turn ends after the short silence, and zeros fill the tail it wants."""
    engine, client = FakeEngine(reply_frames=1, end_of_turn=0.95), FakeClient()
    engine.tail_frames = 6
    turns = TurnConfig(end_of_turn_threshold=0.7, end_of_turn_silence_ms=160, speculate_threshold=2.0)
    async with serving(engine, client, turns=turns) as session:
        client.speak(spoken_turn())
        await client.wait_for("response.done")
        (turn,) = session.conversation.metrics.turns
    assert turn.ended_by == "model"
    assert turn.speech_end_to_decision_ms < 400
    zeros = 0
    for frame in reversed(state_of(engine).heard):
        if frame.any():
            break
        zeros += 1
    assert zeros >= 6


async def test_speech_soon_after_the_model_ended_the_turn() -> None:
    """The detector, which still waited for its silence, notices the next speech and interrupts the reply."""
    engine, client = FakeEngine(reply_frames=300, end_of_turn=0.95), FakeClient()
    turns = TurnConfig(end_of_turn_threshold=0.7, end_of_turn_silence_ms=160)
    async with serving(engine, client, ReplyConfig(max_lead_ms=400), turns=turns):
        client.speak(spoken_turn(after_s=0.3))
        await client.wait_for("response.output_audio.delta")
        client.speak(speech(0.3))
        await client.wait_for("input_audio_buffer.speech_started", 2)
        done = await client.wait_for("response.done")
    assert done["response"]["status_details"]["reason"] == "turn_detected"


async def test_a_cough_does_not_end_a_reply() -> None:
    """A sound without words holds the reply; all of its audio comes, and no turn began."""
    engine, client = FakeEngine(reply_frames=40, understands_sounds=False), FakeClient()
    async with serving(engine, client, ReplyConfig(max_lead_ms=160, take_back_ms=0)) as session:
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 8)
        states: list[str] = []
        session.conversation.watch(lambda event: states.append(session.conversation.state))
        client.speak(np.concatenate([speech(0.2), np.zeros(12_000, np.float32)]))
        done = await client.wait_for("response.done")
        metrics = session.conversation.metrics
    assert set(states[:-1]) == {"speaking"}
    assert done["response"]["status"] == "completed"
    assert client.types().count("input_audio_buffer.speech_started") == 1
    assert client.types().count("response.output_audio.delta") == 40
    assert (metrics.held, metrics.interrupted) == (1, 0)
    assert len(engine.states[0].forks) == 1


async def test_a_client_that_asks_is_told_of_a_held_reply() -> None:
    """It hears of it before and after; a client that did not ask hears nothing that the protocol does not know."""
    for holds, expected in ((True, ["repartee.reply.held", "repartee.reply.resumed"]), (False, [])):
        engine, client = FakeEngine(reply_frames=40, understands_sounds=False), FakeClient(holds=holds)
        async with serving(engine, client, ReplyConfig(max_lead_ms=160, take_back_ms=0)):
            client.speak(spoken_turn())
            await client.wait_for("response.output_audio.delta", 8)
            client.speak(np.concatenate([speech(0.2), np.zeros(12_000, np.float32)]))
            await client.wait_for("response.done")
        assert [kind for kind in client.types() if kind.startswith("repartee.")] == expected


async def test_words_end_a_reply() -> None:
    """A sound in which the model hears two words is a turn, and gets a reply of its own."""
    engine, client = FakeEngine(reply_frames=40), FakeClient()
    async with serving(engine, client, ReplyConfig(max_lead_ms=160, take_back_ms=0)):
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 8)
        client.speak(np.concatenate([speech(0.4), np.zeros(48_000, np.float32)]))
        done = [await client.wait_for("response.done", count) for count in (1, 2)]
    assert [one["response"]["status"] for one in done] == ["cancelled", "completed"]
    assert client.types().count("input_audio_buffer.speech_started") == 2


async def test_noise_that_never_ends_is_answered_once() -> None:
    """The turn ends after a while, its reply is heard to the end, and the next turn begins after a silence."""
    engine, client = FakeEngine(reply_frames=5), FakeClient()
    turns = TurnConfig(end_of_turn_threshold=2.0, max_turn_ms=1_000)
    async with serving(engine, client, ReplyConfig(max_lead_ms=None, take_back_ms=1_000), turns):
        client.speak(np.concatenate([silence(0.5), speech(6.0)]))
        done = await client.wait_for("response.done")
        client.speak(speech(1.0))
        client.say("input_audio_buffer.commit")  # answered when the audio before it has been heard
        await client.wait_for("error")
        assert client.types().count("input_audio_buffer.speech_started") == 1
        assert "conversation.item.truncated" not in client.types()
        client.speak(np.concatenate([silence(1.0), speech(0.5), silence(1.0)]))
        await client.wait_for("response.done", 2)
    assert done["response"]["status"] == "completed"
    assert client.types().count("input_audio_buffer.speech_started") == 2


async def test_a_client_may_ask_to_have_its_echo_taken_out() -> None:
    """What sounds while it plays is then taken for the agent's voice, until it is known how that comes back."""
    engine, client = FakeEngine(reply_frames=40), FakeClient()
    client.echo_cancellation = "true"
    async with serving(engine, client, ReplyConfig(max_lead_ms=160, take_back_ms=0)):
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 8)
        client.speak(np.concatenate([speech(0.4), np.zeros(48_000, np.float32)]))
        done = await client.wait_for("response.done")
    assert done["response"]["status"] == "completed"
    assert client.types().count("input_audio_buffer.speech_started") == 1


async def test_speech_that_lasts_ends_a_reply_and_is_heard_from_its_beginning() -> None:
    """What was said while the reply was held belongs to the turn."""
    engine, client = FakeEngine(reply_frames=300), FakeClient()
    async with serving(engine, client, ReplyConfig(max_lead_ms=160, take_back_ms=0)):
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 8)
        before = engine.states[-1].listened
        client.speak(np.concatenate([speech(0.8), np.zeros(36_000, np.float32)]))
        done = await client.wait_for("response.done")
        await client.wait_for("input_audio_buffer.committed", 2)
        heard = engine.states[-1].listened - before
    assert done["response"]["status_details"]["reason"] == "turn_detected"
    assert heard >= 0.8 / 0.08


async def test_transcript_events() -> None:
    """The user's words stream when asked for, late ones included, and complete once."""
    engine, client = FakeEngine(), FakeClient()
    async with serving(engine, client):
        update(client, transcription={"model": "x"})
        client.speak(spoken_turn())
        done = await client.wait_for("conversation.item.input_audio_transcription.completed")
        committed = await client.wait_for("input_audio_buffer.committed")
        await client.wait_for("response.done")
    assert done["transcript"].startswith("w1 ")
    assert done["transcript"].endswith(" late")
    assert done["item_id"] == committed["item_id"]
    assert client.types().count("conversation.item.input_audio_transcription.completed") == 1


async def test_two_turns() -> None:
    """A second turn is answered as well, and its item follows the first reply's."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        client.speak(spoken_turn())
        first = await client.wait_for("response.done")
        client.speak(spoken_turn())
        await client.wait_for("response.done", 2)
        committed = await client.wait_for("input_audio_buffer.committed", 2)
    assert committed["previous_item_id"] == first["response"]["output"][0]["id"]


async def test_create_response_false() -> None:
    """The turn is committed and transcribed, and the agent waits to be asked."""
    engine, client = FakeEngine(), FakeClient()
    async with serving(engine, client):
        update(client, transcription={"model": "x"}, turn_detection={"create_response": False})
        client.speak(spoken_turn())
        await client.wait_for("conversation.item.input_audio_transcription.completed")
        assert "response.created" not in client.types()
        client.say("response.create", response={"metadata": {"k": "v"}})
        done = await client.wait_for("response.done")
    assert done["response"]["metadata"] == {"k": "v"}


@pytest.mark.parametrize(
    ("detection", "ended_by", "waited_ms"),
    [
        ({}, "model", 320),
        ({"eagerness": "high"}, "model", 160),
        ({"eagerness": "low"}, "model", 480),
        ({"type": "server_vad", "silence_duration_ms": 400}, "silence", 400),
    ],
)
async def test_a_client_chooses_how_turns_end(detection: dict[str, Any], ended_by: str, waited_ms: int) -> None:
    """With semantic_vad the model decides, sooner or later; with server_vad silence alone does."""
    engine, client = FakeEngine(reply_frames=1, end_of_turn=0.95), FakeClient()
    turns = TurnConfig(end_of_turn_threshold=0.7, end_of_turn_silence_ms=320)
    async with serving(engine, client, turns=turns) as session:
        update(client, turn_detection=detection)
        client.speak(spoken_turn())
        await client.wait_for("response.done")
        (turn,) = session.conversation.metrics.turns
    assert turn.ended_by == ended_by
    assert turn.speech_end_to_decision_ms == pytest.approx(waited_ms, abs=90)


# --- interruption -----------------------------------------------------------------------------------------------------


async def test_barge_in_closes_the_reply() -> None:
    """Speech during a reply: announced first, reply cancelled, engine told what was heard, and the user answered."""
    engine, client, clock = FakeEngine(reply_frames=200), FakeClient(), FakeClock()
    async with serving(engine, client, ReplyConfig(max_lead_ms=800, take_back_ms=200), clock=clock):
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 10)
        clock.now += 0.25  # the listener is in the fourth frame
        client.speak(speech(0.4))
        done = await client.wait_for("response.done")
        begun = len(client.sent)
        engine.reply_frames = 1
        client.speak(silence(0.8))
        second = await client.wait_for("response.done", 2)
    assert done["response"]["status"] == "cancelled"
    assert done["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["response"]["usage"]["output_tokens"] > 0
    started = [i for i, kind in enumerate(client.types()) if kind == "input_audio_buffer.speech_started"][1]
    closing = [kind for kind in client.types()[started:begun] if "delta" not in kind]
    assert closing == [
        "input_audio_buffer.speech_started",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert "response.output_audio.delta" not in client.types()[started:begun]
    assert state_of(engine).truncations[0] == 4
    assert second["response"]["status"] == "completed"


@pytest.mark.parametrize("frames", [4, 200])
async def test_a_reply_that_came_too_early_is_taken_back(frames: int) -> None:
    """The user goes on before much of the reply was heard, made to its end or not: the engine forgets all of it."""
    engine, client, clock = FakeEngine(reply_frames=frames), FakeClient(), FakeClock()
    async with serving(engine, client, ReplyConfig(max_lead_ms=800, take_back_ms=400), clock=clock) as session:
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 4)
        clock.now += 0.3
        engine.reply_frames = 1
        client.speak(spoken_turn(0.4))
        told = await client.wait_for("conversation.item.truncated")
        second = await client.wait_for("response.done", 2)
        client.say("conversation.item.truncate", item_id=told["item_id"], content_index=0, audio_end_ms=240)
        await client.wait_for("conversation.item.truncated", 2)
        reply = next(body for body in client.sent if body["type"] == "response.output_item.added")["item"]["id"]
        assert session.conversation.metrics.taken_back == 1
    assert (told["item_id"], told["content_index"], told["audio_end_ms"]) == (reply, 0, 0)
    assert state_of(engine).truncations[0] == 0
    assert second["response"]["output"][0]["id"] != reply
    assert "error" not in client.types()


async def test_a_cancelled_reply_is_not_taken_back() -> None:
    """Its turn was over: what was heard of the reply stays, however little, and the next words are a new turn."""
    engine, client, clock = FakeEngine(reply_frames=200), FakeClient(), FakeClock()
    async with serving(engine, client, ReplyConfig(max_lead_ms=800, take_back_ms=400), clock=clock) as session:
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 4)
        clock.now += 0.1
        client.say("response.cancel")
        await client.wait_for("response.done")
        engine.reply_frames = 1
        client.speak(spoken_turn(0.4))
        await client.wait_for("response.done", 2)
        assert session.conversation.metrics.taken_back == 0
    assert state_of(engine).truncations == [2]


@pytest.mark.parametrize("change", [{"interrupt_response": False}, {}])
async def test_a_reply_that_was_heard_stays(change: dict[str, bool]) -> None:
    """So does one that must not be interrupted."""
    engine, client, clock = FakeEngine(reply_frames=8), FakeClient(), FakeClock()
    async with serving(engine, client, ReplyConfig(max_lead_ms=2_000, take_back_ms=400), clock=clock) as session:
        update(client, turn_detection={"type": "server_vad", **change})
        client.speak(spoken_turn())
        await client.wait_for("response.done")
        clock.now += 0.3 if change else 0.5
        client.speak(spoken_turn(0.4))
        await client.wait_for("response.done", 2)
        assert session.conversation.metrics.taken_back == 0
    assert "conversation.item.truncated" not in client.types()


async def test_pacing_holds_the_lead() -> None:
    """With a frozen clock only the lead's worth of audio leaves; it goes on as time passes."""
    engine, client, clock = FakeEngine(reply_frames=30), FakeClient(), FakeClock()
    async with serving(engine, client, ReplyConfig(max_lead_ms=400), clock=clock):
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 5)
        for _ in range(50):
            await asyncio.sleep(0)
        assert client.types().count("response.output_audio.delta") == 5
        clock.now += 0.16
        client.speak(silence(0.1))  # wakes the session; a real clock would
        await client.wait_for("response.output_audio.delta", 7)
        clock.now += 60.0
        client.speak(silence(0.1))
        client.say("response.cancel")
        await client.wait_for("response.done")


async def test_interrupt_response_false_finishes_first() -> None:
    """A protected reply goes on; what the user said meanwhile is heard and answered after it."""
    engine, client = FakeEngine(reply_frames=100, step_s=0.001), FakeClient()
    async with serving(engine, client):
        update(client, turn_detection={"interrupt_response": False})
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta")
        client.speak(spoken_turn(0.6))
        await client.wait_for("input_audio_buffer.committed", 2)
        assert "response.done" not in client.types()
        first = await client.wait_for("response.done")
        second = await client.wait_for("response.done", 2)
    assert first["response"]["status"] == second["response"]["status"] == "completed"
    modes = state_of(engine).modes
    reply_end = [i for i, mode in enumerate(modes) if mode is Mode.SPEAK][engine.lead_steps + 100 - 1]
    assert Mode.LISTEN not in modes[modes.index(Mode.SPEAK) : reply_end]
    assert Mode.LISTEN in modes[reply_end:]
    assert second["response"]["usage"]["input_token_details"]["audio_tokens"] > 0


async def test_speech_kept_for_later_is_bounded() -> None:
    """While a reply is protected only so much speech is kept; the rest is dropped and counted."""
    engine, client = FakeEngine(reply_frames=150, step_s=0.001), FakeClient()
    async with serving(engine, client, ReplyConfig(max_lead_ms=None, held_frames=10)) as session:
        update(client, turn_detection={"interrupt_response": False})
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta")
        client.speak(spoken_turn(1.6))
        await client.wait_for("response.done", 2)
        assert session.conversation.metrics.dropped_frames > 5


async def test_interrupting_before_the_first_step() -> None:
    """A reply that is stopped before the engine knew of it truncates nothing: that would hit the reply before it."""
    engine, seen = FakeEngine(), []

    def take(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.ReplyStarted):
            conversation._decide(Cancel())

    async with Worker(engine) as worker:
        conversation = Conversation(await worker.open(), take, VAD, MODEL_OFF, ReplyConfig())
        task = asyncio.create_task(conversation.run())
        await conversation.hear(spoken_turn())
        await eventually(lambda: conversation.idle)
        task.cancel()
    assert isinstance(seen[-1], events.ReplyDone)
    assert seen[-1].status == "cancelled"
    assert state_of(engine).truncations == []
    assert Mode.SPEAK not in state_of(engine).modes


async def test_client_cancel() -> None:
    """response.cancel stops the reply; a second one is an error and harmless."""
    engine, client = FakeEngine(reply_frames=500, step_s=0.001), FakeClient()
    async with serving(engine, client):
        client.speak(spoken_turn())
        await client.wait_for("response.output_audio.delta", 3)
        client.say("response.cancel")
        done = await client.wait_for("response.done")
        client.say("response.cancel", event_id="again")
        error = await client.wait_for("error")
        engine.reply_frames = 2
        client.speak(spoken_turn())
        second = await client.wait_for("response.done", 2)
    assert done["response"]["status_details"]["reason"] == "client_cancelled"
    assert error["error"]["code"] == "response_cancel_not_active"
    assert error["error"]["event_id"] == "again"
    assert second["response"]["status"] == "completed"
    assert len(state_of(engine).truncations) == 1


async def truncations(engine: FakeEngine, *ends_ms: int) -> list[int]:
    """What the engine is told of a client that truncates its first reply at these places."""
    client = FakeClient()
    async with serving(engine, client) as session:
        client.speak(spoken_turn())
        done = await client.wait_for("response.done")
        item_id = done["response"]["output"][0]["id"]
        for end_ms in ends_ms:
            client.say("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=end_ms)
        await client.wait_for("conversation.item.truncated", len(ends_ms))
        await eventually(lambda: session.conversation.idle)
    return state_of(engine).truncations


async def test_client_truncates() -> None:
    """conversation.item.truncate after a reply reaches the engine, once and only downward."""
    assert await truncations(FakeEngine(reply_frames=10), 400, 400, 240) == [5, 3]


async def test_what_a_client_heard_counts_from_the_first_sample_sent() -> None:
    """The silence that a reply begins with is not sent: 40 ms later its second frame sounds, not still the first."""
    assert await truncations(FakeEngine(reply_frames=10, silent_samples=1_200), 120, 40, 0) == [3, 2, 0]


async def test_stale_audio_is_dropped_at_the_last_hop() -> None:
    """Audio that waits for a slow socket when the reply is interrupted never leaves."""
    engine, client = FakeEngine(reply_frames=50), FakeClient()
    gate = asyncio.Event()
    gate.set()
    send = client.send

    async def slow_send(text: str) -> None:
        await gate.wait()
        await send(text)

    client.send = slow_send  # type: ignore[method-assign]
    async with serving(engine, client) as session:
        client.speak(spoken_turn())
        await client.wait_for("response.content_part.added")
        gate.clear()
        await eventually(lambda: session.conversation.metrics.frames_spoken >= 20)
        client.say("response.cancel")
        await eventually(lambda: session.conversation.metrics.interrupted == 1)
        gate.set()
        await client.wait_for("response.done")
        assert session.conversation.metrics.stale_messages >= 15
    assert client.types().count("response.output_audio.delta") <= 5


# --- push to talk -----------------------------------------------------------------------------------------------------


async def test_push_to_talk() -> None:
    """Nothing is heard before the commit, nothing is answered before response.create."""
    engine, client = FakeEngine(reply_frames=2), FakeClient()
    async with serving(engine, client):
        update(client, turn_detection=None)
        client.speak(speech(0.5))
        client.say("conversation.item.retrieve", item_id="none")
        await client.wait_for("error")
        assert state_of(engine).modes == []
        client.say("input_audio_buffer.commit")
        await client.wait_for("conversation.item.done")
        client.say("response.create")
        done = await client.wait_for("response.done")
    assert done["response"]["status"] == "completed"
    assert "input_audio_buffer.speech_started" not in client.types()
    heard = np.concatenate(state_of(engine).heard)
    assert np.count_nonzero(np.abs(heard) > 0) > 0.45 * 24_000


async def test_push_to_talk_clear() -> None:
    """Cleared audio is never heard, and committing it is an error."""
    engine, client = FakeEngine(), FakeClient()
    async with serving(engine, client):
        update(client, turn_detection=None)
        client.speak(speech(0.5))
        client.say("input_audio_buffer.clear")
        client.say("input_audio_buffer.commit", event_id="mine")
        error = await client.wait_for("error")
    assert "input_audio_buffer.cleared" in client.types()
    assert (error["error"]["code"], error["error"]["event_id"]) == ("input_audio_buffer_commit_empty", "mine")
    assert state_of(engine).heard == []


async def test_push_to_talk_transcript_without_a_reply() -> None:
    """A committed turn that nobody asks to answer still gets its transcript."""
    engine, client = FakeEngine(), FakeClient()
    async with serving(engine, client):
        update(client, turn_detection=None, transcription={"model": "x"})
        client.speak(speech(0.5))
        client.say("input_audio_buffer.commit")
        done = await client.wait_for("conversation.item.input_audio_transcription.completed")
    assert done["transcript"].startswith("w1")


async def test_the_push_to_talk_buffer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio that is never committed is cleared at the bound, with an error."""
    monkeypatch.setattr("agent.push_to_talk.MAX_HELD_S", 1.0)
    client = FakeClient()
    async with serving(FakeEngine(), client):
        update(client, turn_detection=None)
        client.speak(speech(1.3))
        error = await client.wait_for("error")
    assert error["error"]["code"] == "input_audio_buffer_full"


async def test_a_spoken_item_is_heard() -> None:
    """conversation.item.create with audio, then response.create."""
    engine, client = FakeEngine(reply_frames=1), FakeClient()
    async with serving(engine, client):
        audio = FakeClient()
        audio.speak(speech(0.3))
        body = await audio.receive()
        assert isinstance(body, str)
        encoded = body.split('"audio": "')[1].rstrip('"}')
        client.say(
            "conversation.item.create",
            item={"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": encoded}]},
        )
        client.say("response.create")
        await client.wait_for("response.done")
    assert len(state_of(engine).heard) == 4 + engine.tail_frames


# --- settings of a reply ----------------------------------------------------------------------------------------------


async def test_a_written_reply_has_no_audio() -> None:
    """output_modalities ["text"] sends words only."""
    engine, client = FakeEngine(), FakeClient()
    async with serving(engine, client, ReplyConfig(max_lead_ms=80)):
        client.say("session.update", session={"type": "realtime", "output_modalities": ["text"]})
        client.speak(spoken_turn())
        done = await client.wait_for("response.done")
    assert done["response"]["output"][0]["content"] == [{"type": "output_text", "text": "sure one latte coming"}]
    assert "response.output_audio.delta" not in client.types()


async def test_max_output_tokens() -> None:
    """A reply ends as incomplete when it has used up its tokens."""
    client = FakeClient()
    async with serving(FakeEngine(reply_frames=100), client):
        client.say("session.update", session={"type": "realtime", "max_output_tokens": 10})
        client.speak(spoken_turn())
        done = await client.wait_for("response.done")
    assert done["response"]["status"] == "incomplete"
    assert done["response"]["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert done["response"]["usage"]["output_tokens"] == 10


async def test_one_response_at_a_time() -> None:
    """response.create during a reply is an error."""
    client = FakeClient()
    async with serving(FakeEngine(reply_frames=300, step_s=0.001), client):
        client.speak(spoken_turn())
        await client.wait_for("response.created")
        client.say("response.create")
        error = await client.wait_for("error")
        client.say("response.cancel")
        await client.wait_for("response.done")
    assert error["error"]["code"] == "conversation_already_has_active_response"


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_bad_messages_leave_the_session_open() -> None:
    """After malformed JSON, binary data, odd audio and unknown events the session still answers."""
    client = FakeClient()
    async with serving(FakeEngine(reply_frames=1), client):
        client.say_raw("{")
        client.say_raw(b"\x00")
        client.say("input_audio_buffer.append", audio="AAAA")
        client.say("response.fly")
        await client.wait_for("error", 4)
        client.speak(spoken_turn())
        await client.wait_for("response.done")
    assert client.closed is None


async def test_a_failing_model_ends_its_session(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a step: an error event, close 1011, a traceback in the log."""
    client = FakeClient()
    async with serving(FakeEngine(fail_at=8), client):
        client.speak(spoken_turn())
        error = await client.wait_for("error")
    assert error["error"]["type"] == "server_error"
    assert client.closed is not None
    assert client.closed[0] == 1011
    assert "told to fail" in caplog.text


async def test_a_client_that_does_not_read_is_left() -> None:
    """A send that times out closes the session with 1013."""
    client = FakeClient(reads=False)
    async with serving(FakeEngine(), client):
        await eventually(lambda: client.closed is not None)
    assert client.closed == (1013, "the client does not read what it is sent")


async def test_too_many_waiting_messages() -> None:
    """When the outgoing queue is full the session closes with 1013."""
    client = FakeClient()
    never = asyncio.Event()

    async def stuck(text: str) -> None:
        await never.wait()

    client.send = stuck  # type: ignore[method-assign]
    async with serving(FakeEngine(), client, limits=SessionLimits(outgoing_messages=64)):
        for _ in range(100):
            client.say("nonsense")
        await eventually(lambda: client.closed is not None)
    assert client.closed == (1013, "the client does not read what it is sent")


async def test_too_many_waiting_bytes() -> None:
    """A few huge messages count as much as many small ones, and none is kept when the session ends."""
    client = FakeClient()
    never = asyncio.Event()

    async def stuck(text: str) -> None:
        await never.wait()

    client.send = stuck  # type: ignore[method-assign]
    async with serving(FakeEngine(), client, limits=SessionLimits(outgoing_mib=1.0)) as session:
        for _ in range(20):
            client.say("session.update", session={"instructions": "y" * 200_000})
        await eventually(lambda: client.closed is not None)
        assert not session.waiting["outgoing"]
    assert client.closed == (1013, "the client does not read what it is sent")


async def test_one_large_message_passes() -> None:
    """A message over the bound still goes out when nothing else waits."""
    client = FakeClient()
    async with serving(FakeEngine(), client, limits=SessionLimits(outgoing_mib=0.1)):
        await client.wait_for("session.created")
        client.say("session.update", session={"instructions": "y" * 200_000})
        await client.wait_for("session.updated")
    assert client.closed is None


async def test_a_client_that_vanishes_is_noticed_at_once() -> None:
    """Audio that a client left behind does not keep its session open."""
    engine, client = FakeEngine(step_s=0.005), FakeClient()
    async with serving(engine, client) as session:
        client.speak(silence(60.0))
        await eventually(lambda: session._conversation is not None and session.conversation.metrics.frames_heard > 2)
        client.vanish()
    assert session.conversation.metrics.frames_heard < 100


async def test_a_fast_sender_waits_for_the_model() -> None:
    """With a slow model the inbox stays at its bound and no audio is lost."""
    engine, client = FakeEngine(step_s=0.002), FakeClient()
    async with serving(engine, client, ReplyConfig(max_lead_ms=None, inbox_frames=4)) as session:
        client.speak(silence(4.0))
        peak = 0

        def all_heard() -> bool:
            nonlocal peak
            if session._conversation is None:
                return False
            peak = max(peak, len(session.conversation._mind._inbox))
            return session.conversation.metrics.frames_heard == 50

        await eventually(all_heard)
    assert 2 <= peak <= 4
    assert session.conversation.metrics.dropped_frames == 0


async def test_one_line_at_close(caplog: pytest.LogCaptureFixture) -> None:
    """A session logs one line when it opens and one summary when it closes."""
    with caplog.at_level(logging.INFO, "agent.session"):
        client = FakeClient()
        async with serving(FakeEngine(reply_frames=1), client):
            client.speak(spoken_turn())
            await client.wait_for("response.done")
    lines = [record.getMessage() for record in caplog.records if record.name == "agent.session"]
    assert lines == ["session opened", "session closed"]
    opened, closed = (fields_of(record) for record in caplog.records if record.name == "agent.session")
    assert opened["address"] == "test:1"
    assert closed["session"] == opened["session"]
    assert (closed["reason"], closed["turns"], closed["replies"], closed["interrupted"]) == ("client", 1, 1, 0)


# --- limits -----------------------------------------------------------------------------------------------------------


async def ended(
    client: FakeClient, limits: SessionLimits, play: Callable[[FakeClient], None], clock: FakeClock | None = None
) -> str:
    """Why a session with these limits ended by itself, after ``play``."""
    async with Worker(FakeEngine()) as worker:
        settings = (VAD, MODEL_OFF, ReplyConfig(max_lead_ms=None), limits, clock or time.monotonic)
        session = Session(cast(Client, client), worker, *settings)
        play(client)
        async with asyncio.timeout(10):
            await session.run()
        return session.ended_by


async def test_a_session_expires_when_it_said() -> None:
    """At ``expires_at`` the client hears session_expired and is closed with 1001."""
    client, began = FakeClient(), time.time()
    assert await ended(client, SessionLimits(lifetime_s=0.2), lambda _: None) == "expired"
    created, error = client.sent
    assert created["session"]["expires_at"] == int(began + 0.2)
    assert (error["type"], error["error"]["code"]) == ("error", "session_expired")
    assert client.closed is not None
    assert client.closed[0] == 1001


async def test_a_silent_client_is_closed() -> None:
    """Nothing from the client for too long is session_idle and 1001; a reply that is being given counts as life."""
    client = FakeClient()
    assert await ended(client, SessionLimits(idle_timeout_s=0.1), lambda _: None) == "idle"
    assert client.sent[-1]["error"]["code"] == "session_idle"
    assert client.closed is not None
    assert client.closed[0] == 1001
    talker = FakeClient()
    engine = FakeEngine(reply_frames=30, step_s=0.01)
    async with serving(engine, talker, limits=SessionLimits(idle_timeout_s=0.15)):
        talker.speak(spoken_turn())
        done = await talker.wait_for("response.done")
        error = await talker.wait_for("error")
    assert done["response"]["status"] == "completed"
    assert error["error"]["code"] == "session_idle"


async def test_too_many_messages() -> None:
    """Over the burst, at a clock that stands still: rate_limit_exceeded and 1008."""

    def chatter(client: FakeClient) -> None:
        for _ in range(6):
            client.say("input_audio_buffer.clear")

    client = FakeClient()
    assert await ended(client, SessionLimits(messages_burst=5), chatter, FakeClock()) == "rate"
    assert client.sent[-1]["error"]["code"] == "rate_limit_exceeded"
    assert client.closed is not None
    assert client.closed[0] == 1008


async def test_too_many_bytes() -> None:
    """The same for messages that are large: a mebibyte may come at once, of five only the first four fit."""

    def pour(client: FakeClient) -> None:
        for _ in range(5):
            client.say("input_audio_buffer.clear", padding="a" * 250_000)

    client = FakeClient()
    assert await ended(client, SessionLimits(mib_burst=1.0), pour, FakeClock()) == "rate"
    assert client.sent[-1]["error"]["code"] == "rate_limit_exceeded"
    assert "MiB a second" in client.sent[-1]["error"]["message"]


async def test_too_much_audio() -> None:
    """Audio may come faster than real time up to a bounded backlog; more is rate_limit_exceeded."""

    def pour(client: FakeClient) -> None:
        for _ in range(7):
            client.speak(silence(10.0))

    client = FakeClient()
    assert await ended(client, SessionLimits(audio_burst_s=60.0), pour, FakeClock()) == "rate"
    assert "60 s ahead of 4 x real time" in client.sent[-1]["error"]["message"]


async def test_a_session_that_is_told_to_leave() -> None:
    """The daemon's end is 1001, without an error."""
    client = FakeClient()
    async with Worker(FakeEngine()) as worker:
        session = Session(cast(Client, client), worker, VAD, MODEL_OFF, ReplyConfig(), SessionLimits())
        task = asyncio.create_task(session.run())
        await client.wait_for("session.created")
        assert session.at_rest
        session.leave()
        await task
    assert session.ended_by == "shutdown"
    assert client.closed == (1001, "the server is shutting down")
    assert client.types() == ["session.created"]


async def test_a_preset_is_in_force_from_the_start() -> None:
    """What the client's secret was made with is in session.created, and the conversation follows it."""
    client = FakeClient(model="mine")
    client.preset = {"type": "realtime", "model": "theirs", "audio": {"input": {"turn_detection": None}}}
    async with serving(FakeEngine(), client):
        created = await client.wait_for("session.created")
        client.speak(spoken_turn())
        client.say("input_audio_buffer.commit")
        await client.wait_for("input_audio_buffer.committed")
    assert created["session"]["audio"]["input"]["turn_detection"] is None
    assert created["session"]["model"] == "mine"
    assert "input_audio_buffer.speech_started" not in client.types()


async def test_what_is_said_is_logged_only_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    """By default no word of either side is in the log; asked for, both are, with the session."""
    for level, words in ((logging.INFO, False), (logging.DEBUG, True)):
        caplog.clear()
        caplog.set_level(level)
        client = FakeClient()
        async with serving(FakeEngine(reply_frames=1), client):
            client.speak(spoken_turn())
            await client.wait_for("response.done")
        lines = [record.getMessage() for record in caplog.records if not record.name.startswith("asyncio")]
        assert any("latte" in line for line in lines) is words
        assert any("w1" in line for line in lines) is words


async def test_two_sessions_do_not_mix() -> None:
    """Two clients at once: each gets its own reply, from its own state."""
    engine = FakeEngine(reply_frames=5, step_s=0.0005)
    async with Worker(engine) as worker:
        clients = [FakeClient(), FakeClient()]
        sessions = [
            Session(cast(Client, client), worker, VAD, MODEL_OFF, ReplyConfig(), SessionLimits()) for client in clients
        ]
        tasks = [asyncio.create_task(session.run()) for session in sessions]
        clients[0].speak(spoken_turn(0.8))
        clients[1].speak(spoken_turn(1.6))
        for client in clients:
            await client.wait_for("response.done")
            client.leave()
        await asyncio.gather(*tasks)
    lengths = sorted(len(state.heard) for state in engine.states)
    assert lengths[1] - lengths[0] == 10
    for client in clients:
        assert client.types().count("response.output_audio.delta") == 5


async def test_conversation_without_a_socket() -> None:
    """The conversation alone works for a caller that only passes audio in and events out."""
    seen: list[str] = []
    async with Worker(FakeEngine(reply_frames=1)) as worker:
        conversation = Conversation(
            await worker.open(), lambda event: seen.append(type(event).__name__), VAD, MODEL_OFF, ReplyConfig()
        )
        task = asyncio.create_task(conversation.run())
        await conversation.hear(spoken_turn())
        await eventually(lambda: conversation.idle)
        task.cancel()
    assert seen[0] == "UserStarted"
    assert seen[-1] == "ReplyDone"
    assert FRAME == 1_920
