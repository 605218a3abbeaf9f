"""The Live protocol: without I/O, in a session, and with the official SDK and the shipped models."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from openai import AsyncOpenAI

from agent.limits import SessionLimits
from agent.reply import ReplyConfig
from agent.session import Session
from agent.turn import TurnConfig
from agent.worker import Worker
from models.runtime import Engine
from streaming import realtime_events as events
from streaming.connection import Client
from streaming.live import LiveProtocol
from streaming.resample import float_to_pcm16, pcm16_to_float, resample
from streaming.sound_files import read_audio
from streaming.vad import VadConfig
from tests.fakes import FRAME, FakeClient, FakeEngine, eventually, silence, spoken_turn, tone
from tests.live import running_daemon

MS = 24
Json = dict[str, Any]
START = {"type": "session.start", "session": {"model": "local"}}


def say(made: LiveProtocol, **body: Any) -> tuple[list[events.Command], list[Json]]:
    """Send one client message; return commands and answers."""
    commands = made.receive(json.dumps(body))
    return commands, [json.loads(message.text) for message in made.messages_to_send()]


def started(**session: Any) -> LiveProtocol:
    made = LiveProtocol(1_790_000_000)
    made.open()
    _, (answer,) = say(made, type="session.start", session={"model": "local", **session})
    assert answer["type"] == "session.started", answer
    return made


def told(made: LiveProtocol, *happened: events.Event) -> list[Json]:
    for event in happened:
        made.send(event)
    return [json.loads(message.text) for message in made.messages_to_send()]


def audio(pcm: np.ndarray) -> str:
    return base64.b64encode(float_to_pcm16(pcm)).decode()


def test_a_start_is_answered_with_the_whole_session() -> None:
    """Defaults included; what was said before is handed on, but for what a developer said."""
    made = LiveProtocol(1_790_000_000)
    history = [
        {"role": "developer", "content": [{"type": "input_text", "text": "be kind"}]},
        {"role": "user", "content": [{"text": "a latte"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Sure."}]},
    ]
    commands, (answer,) = say(made, event_id="e1", **START | {"session": {"model": "m", "input": history}})
    assert commands == [
        events.AddLine(events.Line("user", "a latte")),
        events.AddLine(events.Line("assistant", "Sure.")),
    ]
    assert (answer["type"], answer["client_event_id"]) == ("session.started", "e1")
    assert answer["session"] == {
        "id": made.session_id,
        "expires_at": 1_790_000_000,
        "status": "active",
        "model": "m",
        "instructions": None,
        "audio": {"format": {"type": "audio/pcm", "rate": 24000}, "output": {"voice": "agent"}},
        "delegation": None,
    }


def test_a_conversation_on_one_timeline() -> None:
    """Words of the user lie where they were heard, those of the agent where they are sent; audio has no position."""
    made = started()
    (command,), answers = say(made, type="session.input_audio.append", audio=audio(tone(2_000 * MS)))
    assert isinstance(command, events.AppendAudio)
    assert answers == []
    heard = told(made, events.UserStarted(1, 700 * MS), events.UserText(1, " a latte"), events.UserText(1, " please"))
    assert [(body["delta"], body["start_ms"], body["end_ms"]) for body in heard] == [
        (" a latte", 700, 2_000),
        (" please", 2_000, 2_000),
    ]
    frame = events.ReplyAudio(tone(FRAME))
    text, first, more, second, usage = told(
        made, events.ReplyStarted(4), events.ReplyText("Sure."), frame, events.ReplyText(" Now."), frame,
        events.ReplyDone("completed"),
    )  # fmt: skip
    assert (text["delta"], text["start_ms"], more["start_ms"]) == ("Sure.", 2_000, 2_080)
    assert set(first) == {"type", "delta"}
    assert len(base64.b64decode(first["delta"] + second["delta"])) == 4 * FRAME
    assert (usage["type"], usage["usage"]) == ("session.usage.updated", {"seconds": 2.0})


def test_an_interrupted_reply_may_be_dropped() -> None:
    """Its audio carries the reply's number for the last hop; what follows begins where the user is."""
    made = started()
    made.send(events.ReplyStarted(4))
    made.send(events.ReplyAudio(tone(FRAME)))
    assert [message.reply for message in made.messages_to_send()] == [4]
    told(made, events.ReplyDone("cancelled", "turn_detected"), events.ReplyStarted(5))
    (text,) = told(made, events.ReplyText("Oh."))
    assert text["start_ms"] == 0


@pytest.mark.parametrize(
    ("format", "bytes_a_second"),
    [({"type": "audio/pcm", "rate": 16_000}, 32_000), ({"type": "audio/pcmu", "rate": 8_000}, 8_000)],
)
def test_formats(format: Json, bytes_a_second: int) -> None:
    """One format both ways; a second of bytes is a second."""
    made = started(audio={"format": format})
    (command,), _ = say(made, type="session.input_audio.append", audio=base64.b64encode(bytes(bytes_a_second)).decode())
    assert isinstance(command, events.AppendAudio)
    assert 0 <= 24_000 - len(command.pcm) <= 100
    sent = told(made, events.ReplyStarted(1), *[events.ReplyAudio(tone(FRAME))] * 25, events.ReplyDone("completed"))
    data = b"".join(base64.b64decode(body["delta"]) for body in sent if "delta" in body)
    assert len(data) == 2 * bytes_a_second


def test_a_muted_user_is_silent() -> None:
    """Time goes on; the model hears silence; both commands are acknowledged."""
    made = started()
    for kind, loud in (("mute", False), ("unmute", True)):
        _, (answer,) = say(made, type=f"session.input_audio.{kind}", event_id="m")
        assert (answer["type"], answer["client_event_id"]) == (f"session.input_audio.{kind}d", "m")
        (command,), _ = say(made, type="session.input_audio.append", audio=audio(tone(480)))
        assert isinstance(command, events.AppendAudio)
        assert command.pcm.any() == loud


def test_what_is_taken_and_what_is_refused() -> None:
    """Instructions and thoughts are acknowledged, the rest is an error that names the command's id."""
    made = started()
    for kind in ("instructions", "thinking"):
        _, (answer,) = say(made, type=f"session.{kind}.append", content="x", delegation_id=None)
        assert (answer["type"], answer["start_ms"]) == (f"session.{kind}.appended", 0)
    _, (answer,) = say(made, type="session.update", session={"delegation": {"type": "client"}})
    assert answer["type"] == "session.updated"
    for body, code in (
        ({"type": "session.commentary.append", "content": "x"}, "unsupported_event"),
        ({"type": "response.create"}, "unsupported_event"),
        ({"type": "session.update", "session": {"delegation": {"type": "responses"}}}, "invalid_value"),
        ({"type": "session.update", "session": {"voice": "x"}}, "unknown_parameter"),
        ({"type": "session.input_audio.append", "audio": "AA=="}, "invalid_audio"),
        ({"type": "input_audio_buffer.append", "audio": ""}, "unknown_event"),
        (START, "invalid_session_state"),
        ({}, "missing_required_parameter"),
    ):
        commands, (answer,) = say(made, event_id="mine", **body)
        assert commands == []
        assert (answer["error"]["code"], answer["error"]["client_event_id"]) == (code, "mine"), body
    assert made.receive(b"\0") == []
    early = LiveProtocol(0)
    assert say(early, type="session.close")[1][0]["error"]["code"] == "invalid_session_state"
    assert say(early, type="session.start", session={})[1][0]["error"]["code"] == "missing_required_parameter"
    assert not early.closed


async def test_a_session_that_the_client_closes() -> None:
    """It is answered, spoken to, and told that it is closed before the connection goes."""
    client = FakeClient(live=True)
    async with Worker(FakeEngine(reply_frames=3)) as worker:
        settings = (VadConfig(detector="energy", silence_duration_ms=500), TurnConfig(end_of_turn_threshold=2.0))
        session = Session(cast(Client, client), worker, *settings, ReplyConfig(), SessionLimits())
        task = asyncio.create_task(session.run())
        client.say("session.start", session={"model": "local"})
        client.say("session.input_audio.append", audio=audio(spoken_turn()))
        await client.wait_for("session.usage.updated")
        client.say("session.close", event_id="bye")
        async with asyncio.timeout(10):
            await task
    assert client.types()[0] == "session.started"
    assert client.types().count("session.output_audio.delta") == 3
    assert client.sent[-1]["type"] == "session.closed"
    assert client.sent[-1]["reason"] == "close_requested"
    assert client.sent[-1]["usage"] == {"seconds": 2.0}


@pytest.mark.shipped
async def test_the_official_sdk_talks_to_the_shipped_models(shipped_models: Path) -> None:
    """Two spoken turns at 16 kHz in real time: both are written down, and answered in audible speech."""
    engine = Engine.load(shipped_models / "codec", shipped_models / "s2s")
    heard, said, spoken = "", "", bytearray()
    async with (
        running_daemon(engine) as daemon,
        AsyncOpenAI(base_url=f"http://127.0.0.1:{daemon.port}/v1", api_key="x") as client,
        client.live.connect() as connection,
    ):
        format = {"type": "audio/pcm", "rate": 16_000}
        await connection.session.start(session={"model": "local", "audio": {"format": format}})  # type: ignore[typeddict-item]

        async def speak() -> None:
            for name in ("question", "thats_all"):
                recording = read_audio(Path(__file__).parent / "data" / f"{name}.wav")
                pcm = resample(np.concatenate([silence(0.5), recording, silence(6.0)]), 24_000, 16_000)
                for start in range(0, len(pcm), 640):
                    await connection.session.input_audio.append(audio=audio(pcm[start : start + 640]))
                    await asyncio.sleep(0.04)
            await connection.session.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(speak())
            async with asyncio.timeout(60):
                async for event in connection:
                    assert event.type != "error", event
                    match event.type:
                        case "session.input_transcript.delta":
                            heard += event.delta
                        case "session.output_transcript.delta":
                            said += event.delta
                        case "session.output_audio.delta":
                            spoken += base64.b64decode(event.delta)
                        case "session.closed":
                            break
        await eventually(lambda: not daemon.sessions)
    assert "large latte" in heard
    assert "Anything else?" in said
    assert "So that is" in said
    reply = pcm16_to_float(bytes(spoken))
    assert len(reply) > 3 * 16_000
    assert np.sqrt(np.mean(reply**2)) > 0.01
