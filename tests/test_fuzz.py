"""Hostile messages and clients that leave at any moment: no fault, nothing left behind, and nobody else disturbed.

REPARTEE_FUZZ_MESSAGES says how many messages (default 1,500).
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from websockets.asyncio.client import ClientConnection, connect

from agent.limits import SessionLimits
from agent.reply import ReplyConfig
from agent.session import Session
from agent.turn import TurnConfig
from agent.worker import Worker
from streaming.connection import Client
from streaming.live import LiveProtocol
from streaming.realtime import RealtimeProtocol
from streaming.realtime_config import SessionConfig
from streaming.sound_files import write_audio
from streaming.vad import VadConfig
from tests.fakes import FakeClient, FakeEngine, eventually, spoken_turn
from tests.fuzz import LIVE_TYPES, Fuzzer
from tests.live import running_daemon

MESSAGES = int(os.environ.get("REPARTEE_FUZZ_MESSAGES", "1500"))
SETTINGS = ("vad.detector=energy", "turn.end_of_turn_threshold=2", "reply.max_lead_ms=null")


def test_the_protocol_answers_everything() -> None:
    """Each message gets commands or answers, an error names what is wrong, and every answer is JSON."""
    fuzzer, made = Fuzzer(1), RealtimeProtocol(SessionConfig(), 0, prosody=True)
    made.open()
    errors: set[str] = set()
    for _ in range(MESSAGES):
        commands = made.receive(fuzzer.message())
        answers = [json.loads(message.text) for message in made.messages_to_send()]
        for answer in answers:
            if answer["type"] == "error":
                errors.add(answer["error"]["code"])
                assert answer["error"]["message"]
                assert not commands
            if "item" in answer:
                fuzzer.ids.append(answer["item"]["id"])
    assert {"invalid_json", "unknown_parameter", "invalid_value", "unsupported_content", "unknown_event"} <= errors
    assert made.receive('{"type": "conversation.item.retrieve", "item_id": "x"}') == []
    assert json.loads(made.messages_to_send()[-1].text)["error"]["code"] == "item_retrieve_invalid_item_id"


def test_the_live_protocol_answers_everything() -> None:
    """As above; audio alone is not answered."""
    fuzzer, made = Fuzzer(5, LIVE_TYPES), LiveProtocol(0)
    errors: set[str] = set()
    for _ in range(MESSAGES):
        commands = made.receive(fuzzer.message())
        answers = [json.loads(message.text) for message in made.messages_to_send()]
        assert commands or answers
        errors |= {answer["error"]["code"] for answer in answers if answer["type"] == "error"}
    assert {"invalid_session_state", "invalid_value", "unsupported_event", "unknown_event", "invalid_json"} <= errors


async def say(socket: ClientConnection, **body: Any) -> None:
    await socket.send(json.dumps(body))


async def answer_to(socket: ClientConnection, text: str) -> str:
    """What the agent says to a typed line."""
    content = [{"type": "input_text", "text": text}]
    await say(socket, type="conversation.item.create", item={"type": "message", "role": "user", "content": content})
    await say(socket, type="response.create")
    async with asyncio.timeout(20):
        async for message in socket:
            event = json.loads(message)
            assert event["type"] != "error", event
            if event["type"] == "response.done":
                return str(event["response"]["output"][0]["content"][0]["transcript"])
    raise AssertionError("the connection ended")


async def attack(url: str, fuzzer: Fuzzer, count: int) -> int:
    """Send messages and read whatever comes, to the answer to the last one; returns how many answers there were."""
    async with connect(url, max_size=None) as socket:
        answers = 0

        async def read() -> None:
            nonlocal answers
            async for message in socket:
                answers += 1
                event = json.loads(message)
                if event["type"] == "error" and event["error"]["event_id"] == "the end":
                    return
                if "item" in event:
                    fuzzer.ids.append(event["item"]["id"])
            raise AssertionError("the server has gone")

        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            for _ in range(count):
                await socket.send(fuzzer.message())
            await say(socket, type="conversation.item.retrieve", item_id="none at all", event_id="the end")
        return answers


async def test_the_daemon_survives_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """While clients attack, another one converses; afterwards no session is left and nothing was logged as a fault."""
    engine = FakeEngine(reply_frames=2)
    async with running_daemon(engine, *SETTINGS) as daemon:
        url = f"ws://127.0.0.1:{daemon.port}/v1/realtime?prosody=true&echo_cancellation=true"
        async with connect(url) as socket:
            attacks = [asyncio.create_task(attack(url, Fuzzer(seed), MESSAGES // 3)) for seed in (2, 3, 4)]
            answers = 0
            while not all(task.done() for task in attacks) or not answers:
                assert await answer_to(socket, "hello") == "sure one latte coming"
                answers += 1
            assert min(task.result() for task in attacks) > MESSAGES // 6
        await eventually(lambda: not daemon.sessions)
    faults = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert faults == []


@pytest.mark.parametrize("seed", range(4))
async def test_clients_leave_at_any_moment(seed: int) -> None:
    """Whatever the session is doing when its client has gone, its tasks end and nothing more happens."""
    engine = FakeEngine(reply_frames=6)
    async with Worker(engine) as worker:
        before = asyncio.all_tasks()
        for after in range(0, 60, 2):
            client, fuzzer = FakeClient(), Fuzzer(100 * seed + after)
            settings = (VadConfig(detector="energy"), TurnConfig(end_of_turn_threshold=2.0), ReplyConfig())
            session = Session(cast(Client, client), worker, *settings, SessionLimits())
            task = asyncio.create_task(session.run())
            if seed % 2:
                client.speak(spoken_turn(0.3))
            for _ in range(after):
                client.say_raw(fuzzer.message())
            for _ in range(after):  # so far it comes
                await asyncio.sleep(0)
            (client.vanish if after % 4 else client.leave)()
            async with asyncio.timeout(10):
                await task
            assert client.closed is None
        assert asyncio.all_tasks() == before


async def test_a_killed_client_takes_nothing_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGKILL in the middle of its reply: its session waits and goes, and another client never notices."""
    write_audio(tmp_path / "in.wav", spoken_turn())
    engine = FakeEngine(reply_frames=100)
    async with running_daemon(engine, *SETTINGS, "reply.max_lead_ms=160", "session.resume_grace_s=0.3") as daemon:
        url = f"ws://127.0.0.1:{daemon.port}/v1/realtime"
        arguments = ["-m", "streaming.client", "--url", url, "--input", str(tmp_path / "in.wav")]
        killed = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL)
        await eventually(lambda: any(state.reply_step for state in engine.states), 60.0)  # it has begun, and answers
        (session,) = daemon.sessions
        await eventually(lambda: session.conversation.metrics.frames_spoken > 3, 60.0)
        engine.reply_frames = 2
        async with connect(url) as socket:
            assert await answer_to(socket, "hello") == "sure one latte coming"
            killed.kill()
            await killed.wait()
            await eventually(lambda: session.away_since is not None)
            assert await answer_to(socket, "hello") == "sure one latte coming"
            await eventually(lambda: session not in daemon.sessions)
            assert session.ended_by == "lost"
            assert await answer_to(socket, "hello") == "sure one latte coming"
        await eventually(lambda: not daemon.sessions)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
