"""The official openai SDK talks to the real daemon: with a fake engine, and with the shipped models."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI

from agent.actions import Actions, load_actions
from models.runtime import Engine
from streaming.resample import float_to_pcm16, pcm16_to_float
from streaming.sound_files import read_audio
from tests.fakes import FRAME, FakeEngine, silence, speech, spoken_turn
from tests.live import running_daemon

CHUNK = 480  # 20 ms
FAKE_SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=500", "turn.end_of_turn_threshold=2")
TRANSCRIBE = {"type": "realtime", "audio": {"input": {"transcription": {"model": "local"}}}}
SPOKEN = Path(__file__).parent / "data"


@contextlib.asynccontextmanager
async def client_of(engine: Any, *overrides: str, actions: Actions | None = None) -> AsyncIterator[AsyncOpenAI]:
    """A daemon on a free port, and the SDK pointed at it."""
    async with (
        running_daemon(engine, *overrides, actions=actions) as daemon,
        AsyncOpenAI(base_url=f"http://127.0.0.1:{daemon.port}/v1", api_key="x") as client,
    ):
        yield client


def encode(pcm: np.ndarray) -> str:
    return base64.b64encode(float_to_pcm16(pcm)).decode()


async def stream(connection: Any, pcm: np.ndarray, *, chunk: int = CHUNK, speed: float | None = None) -> None:
    """Append audio in chunks; ``speed`` 1.0 is real time, None as fast as it goes."""
    for begin in range(0, len(pcm), chunk):
        await connection.input_audio_buffer.append(audio=encode(pcm[begin : begin + chunk]))
        if speed is not None:
            await asyncio.sleep(chunk / 24_000 / speed)


async def until(connection: Any, kind: str, timeout_s: float = 30.0) -> list[Any]:
    """Events up to the first of this type; an error event fails the test."""
    seen: list[Any] = []
    async with asyncio.timeout(timeout_s):
        async for event in connection:
            seen.append(event)
            assert event.type != "error", event
            if event.type == kind:
                return seen
    raise AssertionError(f"the connection ended without {kind}")


def audio_of(events: list[Any]) -> np.ndarray:
    """The spoken reply, float32 [n]."""
    deltas = [event.delta for event in events if event.type == "response.output_audio.delta"]
    return pcm16_to_float(b"".join(base64.b64decode(delta) for delta in deltas))


async def test_a_spoken_conversation() -> None:
    """Two turns with the SDK: transcripts, words and audio come back, with typed events."""
    engine = FakeEngine(reply_frames=6)
    async with client_of(engine, *FAKE_SETTINGS) as client, client.realtime.connect(model="local") as connection:
        await connection.session.update(session=TRANSCRIBE)  # type: ignore[arg-type]
        for _ in range(2):
            await stream(connection, spoken_turn())
            events = await until(connection, "response.done")
            final = events[-1].response
            assert final.status == "completed"
            assert final.output[0].content[0].transcript == "sure one latte coming"
            assert final.usage.output_token_details.audio_tokens == 6
            assert len(audio_of(events)) == 6 * FRAME
            assert 0.2 < np.abs(audio_of(events)).max() < 0.4
            (heard,) = [e.transcript for e in events if e.type.endswith("input_audio_transcription.completed")]
            assert heard.endswith("late")
    first = next(event for event in events if event.type == "conversation.item.added")
    assert first.previous_item_id is not None


async def test_an_order_is_a_tool_call(shipped_models: Path) -> None:
    """The session offers the domain's actions as tools; an order calls one; its output is taken in silence."""
    engine = FakeEngine(reply_frames=8, words="Okay, a large latte. Anything else?")
    actions = load_actions(shipped_models / "s2s")
    async with (
        client_of(engine, *FAKE_SETTINGS, "reply.take_back_ms=0", actions=actions) as client,  # nobody waits to hear it
        client.realtime.connect(model="local") as connection,
    ):
        (created,) = await until(connection, "session.created")
        assert [tool.name for tool in created.session.tools][-1] == "place_order"
        await stream(connection, spoken_turn())
        events = await until(connection, "response.done")
        spoken, call = events[-1].response.output
        (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
        assert spoken.content[0].transcript == "Okay, a large latte. Anything else?"
        assert (call.type, call.name, call.call_id, call.arguments) == (
            "function_call",
            "add_items",
            done.call_id,
            done.arguments,
        )
        assert json.loads(call.arguments) == {"items": [{"size": "large", "coffeeDrink": "latte"}]}
        output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"ok": true}'}
        await connection.conversation.item.create(item=output)  # type: ignore[arg-type]
        await connection.response.create()
        events = await until(connection, "response.done")
        assert (events[-1].response.status, events[-1].response.output) == ("completed", [])
        engine.words = ["Great,", "your", "order", "is", "coming", "right", "up."]
        await stream(connection, spoken_turn())
        call = (await until(connection, "response.done"))[-1].response.output[1]
        assert (call.name, json.loads(call.arguments)["items"][0]["size"]) == ("place_order", "large")
        await connection.session.update(session={"type": "realtime", "tools": []})
        engine.words = ["Okay,", "I", "canceled", "your", "order."]
        await stream(connection, spoken_turn())
        assert len((await until(connection, "response.done"))[-1].response.output) == 1


async def test_real_time_streaming_and_latency() -> None:
    """At eight times real time the reply begins before the client has sent its trailing silence."""
    engine = FakeEngine(reply_frames=6)
    async with client_of(engine, *FAKE_SETTINGS) as client, client.realtime.connect(model="local") as connection:
        audio = np.concatenate([spoken_turn(0.6, 3.0)])
        sending = asyncio.create_task(stream(connection, audio, speed=8.0))
        events = await until(connection, "response.output_audio.delta")
        assert not sending.done()
        await sending
        assert events[0].type == "session.created"
        await until(connection, "response.done")


async def test_interruption() -> None:
    """The SDK hears that the user was noticed before the reply closes as cancelled, and can truncate."""
    engine = FakeEngine(reply_frames=300)
    settings = [*FAKE_SETTINGS, "reply.max_lead_ms=400", "reply.take_back_ms=0"]
    async with client_of(engine, *settings) as client, client.realtime.connect(model="local") as connection:
        await stream(connection, spoken_turn())
        await until(connection, "response.output_audio.delta")
        await stream(connection, speech(0.5))
        events = await until(connection, "response.done")
        kinds = [event.type for event in events]
        assert kinds.index("input_audio_buffer.speech_started") < kinds.index("response.output_audio.done")
        final = events[-1].response
        assert (final.status, final.status_details.reason) == ("cancelled", "turn_detected")
        await connection.conversation.item.truncate(item_id=final.output[0].id, content_index=0, audio_end_ms=80)
        truncated = await until(connection, "conversation.item.truncated")
        assert truncated[-1].audio_end_ms == 80
        engine.reply_frames = 2
        await stream(connection, silence(0.8))
        assert (await until(connection, "response.done"))[-1].response.status == "completed"


async def test_push_to_talk() -> None:
    """Without turn detection the client commits and asks."""
    detection_off = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    async with (
        client_of(FakeEngine(reply_frames=2), *FAKE_SETTINGS) as client,
        client.realtime.connect(model="local") as connection,
    ):
        await connection.session.update(session=detection_off)  # type: ignore[arg-type]
        await connection.input_audio_buffer.append(audio=encode(speech(0.5)))
        await connection.input_audio_buffer.commit()
        await connection.response.create(response={"metadata": {"k": "v"}})
        final = (await until(connection, "response.done"))[-1].response
    assert final.metadata == {"k": "v"}


async def test_two_clients_at_once() -> None:
    """Two SDK connections talk at the same time."""
    async with client_of(FakeEngine(reply_frames=4, step_s=0.0005), *FAKE_SETTINGS) as client:

        async def talk() -> int:
            async with client.realtime.connect(model="local") as connection:
                await stream(connection, spoken_turn())
                return len(audio_of(await until(connection, "response.done")))

        assert set(await asyncio.gather(talk(), talk())) == {4 * FRAME}


async def test_a_short_lived_secret() -> None:
    """The SDK makes a secret with the token, and a client that knows only the secret talks as it was set up to."""
    token = "correct-horse-battery-staple"
    async with running_daemon(FakeEngine(reply_frames=2), *FAKE_SETTINGS, token=token) as daemon:
        base = f"http://127.0.0.1:{daemon.port}/v1"
        async with AsyncOpenAI(base_url=base, api_key=token) as owner:
            session = {"type": "realtime", "model": "local", "output_modalities": ["text"]}
            secret = await owner.realtime.client_secrets.create(session=session)  # type: ignore[arg-type]
        async with (
            AsyncOpenAI(base_url=base, api_key=secret.value) as client,
            client.realtime.connect(model="local") as connection,
        ):
            await stream(connection, spoken_turn())
            final = (await until(connection, "response.done"))[-1].response
    assert final.output[0].content[0].text == "sure one latte coming"


@pytest.fixture(scope="module")
def shipped_engine(shipped_models: Path) -> Engine:
    """The shipped models."""
    return Engine.load(shipped_models / "codec", shipped_models / "s2s")


async def say(connection: Any, name: str) -> list[Any]:
    """Speak a bundled recording and wait for the whole answer."""
    pcm = np.concatenate([silence(0.5), read_audio(SPOKEN / f"{name}.wav"), silence(1.5)])
    await stream(connection, pcm, chunk=FRAME)
    return await until(connection, "response.done", timeout_s=60.0)


@pytest.mark.shipped
async def test_the_shipped_models_answer_a_spoken_question(shipped_engine: Engine, shipped_models: Path) -> None:
    """An order by a voice that no model has heard is written down, understood, answered in audible speech, and made."""
    actions = load_actions(shipped_models / "s2s")
    async with (
        client_of(shipped_engine, actions=actions) as client,
        client.realtime.connect(model="local") as connection,
    ):
        await connection.session.update(session=TRANSCRIBE)  # type: ignore[arg-type]
        events = await say(connection, "question")
    final = events[-1].response
    assert final.status == "completed"
    answer = final.output[0].content[0].transcript
    assert all(words in answer for words in ("large", "latte", "soy milk")), answer
    (item,) = json.loads(final.output[1].arguments)["items"]
    assert (final.output[1].name, item["size"], item["coffeeDrink"]) == ("add_items", "large", "latte")
    reply = audio_of(events)
    assert len(reply) > 24_000
    assert np.sqrt(np.mean(reply**2)) > 0.01


@pytest.mark.shipped
async def test_the_shipped_models_read_an_order_back(shipped_engine: Engine) -> None:
    """Told in a second turn that this was all, the agent reads back what was ordered in the first."""
    async with client_of(shipped_engine) as client, client.realtime.connect(model="local") as connection:
        await say(connection, "question")
        final = (await say(connection, "thats_all"))[-1].response
    answer = final.output[0].content[0].transcript
    assert all(words in answer for words in ("So that is", "large", "latte", "soy milk")), answer


async def type_line(connection: Any, text: str, item_id: str, role: str = "user") -> None:
    """Add a message to the conversation."""
    kind = "output_text" if role == "assistant" else "input_text"
    item = {"id": item_id, "type": "message", "role": role, "content": [{"type": kind, "text": text}]}
    await connection.conversation.item.create(item=item)


async def ask(connection: Any, **response: Any) -> str:
    """What the agent says now, spoken or written."""
    await connection.response.create(response=response)
    part = (await until(connection, "response.done"))[-1].response.output[0].content[0]
    return str(part.text if part.type == "output_text" else part.transcript)


@pytest.mark.shipped
async def test_the_shipped_models_are_typed_to(shipped_engine: Engine, shipped_models: Path) -> None:
    """The agent opens, reads an order, and knows it afterwards; what it is asked apart it answers apart."""
    actions = load_actions(shipped_models / "s2s")
    async with (
        client_of(shipped_engine, "reply.max_lead_ms=null", actions=actions) as client,
        client.realtime.connect(model="local") as connection,
    ):
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        assert await ask(connection) == "Hello! What would you like?"
        assert await ask(connection) == "What would you like?"
        await type_line(connection, "can i have a large latte with soy milk", "latte")
        assert await ask(connection) == "Okay, a large latte with soy milk. Anything else?"
        price = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "how much is a latte"}]}
        assert await ask(connection, conversation="none", input=[price]) == "A latte is four dollars."
        await type_line(connection, "and a small mocha", "mocha")
        assert await ask(connection, output_modalities=["audio"]) == "Okay, a small mocha. Anything else?"
        await type_line(connection, "what did i order", "question")
        whole = await ask(connection)
        assert all(words in whole for words in ("You ordered", "large latte", "soy milk", "small mocha")), whole


@pytest.mark.shipped
@pytest.mark.parametrize("known", [True, False])
async def test_the_shipped_models_take_over_a_conversation(
    shipped_engine: Engine, shipped_models: Path, known: bool
) -> None:
    """A history that a client brings is known, order and all; what it deletes of it is not."""
    actions = load_actions(shipped_models / "s2s")
    async with (
        client_of(shipped_engine, "reply.max_lead_ms=null", actions=actions) as client,
        client.realtime.connect(model="local") as connection,
    ):
        await type_line(connection, "can i have a large latte with soy milk", "asked")
        await type_line(connection, "Okay, a large latte with soy milk. Anything else?", "answered", "assistant")
        for item_id in () if known else ("asked", "answered"):
            await connection.conversation.item.delete(item_id=item_id)
        await type_line(connection, "what did i order", "question")
        answer = await ask(connection)
        assert ("large latte with soy milk" in answer) is known, answer
