"""A real daemon at a real broker: what it tells, what it obeys, and what does not disturb it."""

import asyncio
import contextlib
import json
import random
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from agent.actions import load_actions
from agent.conversation import Conversation
from agent.daemon import Daemon
from agent.errors import CommandError
from agent.reply import ReplyConfig
from agent.telegrams import parse_command
from agent.telegraph import Telegraph, TelegraphConfig
from agent.turn import TurnConfig
from agent.worker import Worker
from models.runtime import Engine, Mode, StepOut
from streaming import realtime_events as events
from streaming.audio_io import AudioConfig
from streaming.vad import VadConfig
from tests.fakes import FakeClient, FakeClock, FakeDevices, FakeEngine, eventually, silence, speech, spoken_turn
from tests.live import running_daemon
from tests.mosquitto import Broker, Ear, listening, running_broker

SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=500", "turn.end_of_turn_threshold=2", "mqtt.host=127.0.0.1")


class House:
    """A broker, somebody who listens there, and a daemon with one client."""

    def __init__(self, broker: Broker, ear: Ear, daemon: Daemon, client: ClientConnection) -> None:
        self.broker, self.ear, self.daemon, self.client = broker, ear, daemon, client
        self.name = ""  # of the client's conversation
        self.received: list[dict[str, Any]] = []
        self._seen = 0  # states

    async def says(self, *pcm: Any) -> None:
        """The client appends audio."""
        for part in pcm:
            speaker = FakeClient()
            speaker.speak(part)
            await self.client.send(str(await speaker.receive()))

    async def gets(self, kind: str) -> dict[str, Any]:
        """The client's next message of this type."""
        async with asyncio.timeout(10):
            while True:
                self.received.append(json.loads(await self.client.recv()))
                if self.received[-1]["type"] == kind:
                    return self.received[-1]

    async def state(self, wanted: str) -> dict[str, Any]:
        """The next time that the agent is in this state."""
        found: list[dict[str, Any]] = []

        def told() -> bool:
            for body in self.ear.bodies("repartee/state")[self._seen :]:
                self._seen += 1
                if body["state"] == wanted:
                    found.append(body)
                    return True
            return False

        await eventually(told)
        return found[0]

    async def joined(self) -> None:
        """Wait until the client's conversation is known."""
        self.name = (await self.gets("session.created"))["session"]["id"]
        await eventually(lambda: self.name in str(self.ear.payloads("repartee/state")[-1:]))
        self._seen = len(self.ear.payloads("repartee/state"))


@contextlib.asynccontextmanager
async def house(folder: Path, engine: Any, *settings: str, **options: Any) -> AsyncIterator[House]:
    """All of it, with the client's conversation begun."""
    async with running_broker(folder) as broker, listening(broker) as ear:
        settings = (*SETTINGS, f"mqtt.port={broker.port}", *settings)
        async with running_daemon(engine, *settings, **options) as daemon, client_of(daemon) as client:
            made = House(broker, ear, daemon, client)
            await made.joined()
            yield made


def client_of(daemon: Daemon) -> connect:
    """A connection that may also be closed with much unread."""
    return connect(f"ws://127.0.0.1:{daemon.port}/v1/realtime", max_queue=None)


class WaitingEngine(FakeEngine):
    """An engine that speaks, and reads, only when it is let."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.may_speak, self.may_read = threading.Event(), threading.Event()
        self.may_read.set()
        self.reading = False

    def read(self, text: str, state: object, say: bool) -> int:
        """Wait in the model thread before reading."""
        self.reading = not self.may_read.is_set()
        assert self.may_read.wait(timeout=30.0), "nobody let the engine read"
        return super().read(text, state, say)

    def step(self, pcm: Any, state: Any, mode: Mode) -> StepOut:
        """Wait in the model thread before speaking."""
        assert mode is not Mode.SPEAK or self.may_speak.wait(timeout=30.0), "nobody let the engine speak"
        return super().step(pcm, state, mode)


# --- out --------------------------------------------------------------------------------------------------------------


async def test_state_follows_the_conversation(tmp_path: Path) -> None:
    """Idle, listening, thinking, speaking as long as it sounds, idle; with counts and names, and kept by the broker."""
    engine = WaitingEngine(reply_frames=25)
    async with house(tmp_path, engine) as at:
        first = at.ear.bodies("repartee/state")[-1]
        assert first["state"] == "idle"
        assert first["conversations"] == {at.name: "idle"}
        await at.says(silence(0.4), speech(0.8))
        assert (await at.state("listening"))["listening"] == 1
        await at.says(silence(0.8))
        assert (await at.state("thinking"))["thinking"] == 1
        engine.may_speak.set()
        await at.gets("response.done")
        told = await at.state("speaking")  # what was sent is still playing
        assert told["conversations"] == {at.name: "speaking"}
        assert (told["speaking"], told["idle"]) == (1, 0)
        await at.state("idle")
        late = Ear()
        task = asyncio.create_task(late.listen(at.broker))
        await eventually(lambda: bool(late.payloads("repartee/state")))
        assert late.bodies("repartee/state")[-1]["state"] == "idle"
        assert any(message.retain for message in late.heard)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_orders_arrive_as_json(tmp_path: Path, shipped_models: Path) -> None:
    """What a reply did, with QoS 1 and an id of its own; and a turn's latency in its parts."""
    engine = FakeEngine(reply_frames=4, words="Okay, a latte. Anything else?")
    async with house(tmp_path, engine, actions=load_actions(shipped_models / "s2s")) as at:
        await at.says(spoken_turn())
        order = await at.ear.next_body("repartee/action")
        assert order.pop("id").startswith("action_")
        assert order.pop("at").endswith("+00:00")
        assert order == {
            "conversation": at.name,
            "name": "add_items",
            "arguments": {"items": [{"coffeeDrink": "latte"}]},
        }
        assert [message.qos for message in at.ear.heard if message.topic.value == "repartee/action"] == [1]
        metrics = await at.ear.next_body("repartee/metrics")
        assert metrics["turn"] == 1
        assert (metrics["status"], metrics["ended_by"], metrics["reply_frames"]) == ("completed", "silence", 4)
        whole = metrics["speech_end_to_decision_ms"] + metrics["decision_to_audio_ms"]
        assert metrics["speech_end_to_audio_ms"] == pytest.approx(whole, abs=0.11)
        await at.gets("response.done")
        await at.says(spoken_turn())
        assert (await at.ear.next_body("repartee/metrics", 1))["turn"] == 2
        assert not at.ear.payloads("repartee/transcript")


async def test_a_turn_that_ends_before_the_reply_to_the_one_before(tmp_path: Path) -> None:
    """Each turn's latency is told once, in order, also when the next turn is known already."""
    async with house(tmp_path, FakeEngine(reply_frames=35)) as at:
        patient = {"type": "realtime", "audio": {"input": {"turn_detection": {"interrupt_response": False}}}}
        await at.client.send(json.dumps({"type": "session.update", "session": patient}))
        await at.says(spoken_turn())
        await at.gets("response.output_audio.delta")
        await at.says(spoken_turn())
        await at.gets("input_audio_buffer.committed")
        assert "response.done" not in [message["type"] for message in at.received]
        for _ in range(2):
            await at.gets("response.done")
        await at.ear.next_body("repartee/metrics", 1)
        assert [body["turn"] for body in at.ear.bodies("repartee/metrics")] == [1, 2]


async def test_transcripts_of_both_sides_when_asked_for(tmp_path: Path) -> None:
    """Each side's words, whole, and how the reply ended."""
    async with house(tmp_path, FakeEngine(reply_frames=30), "mqtt.transcripts=true") as at:
        await at.says(spoken_turn())
        agent = await at.ear.next_body("repartee/transcript", 1)
        user = at.ear.bodies("repartee/transcript")[0]
        assert user.items() >= {"conversation": at.name, "role": "user"}.items()
        assert user["text"].startswith("w1 ")
        del agent["at"]
        assert agent == {
            "conversation": at.name,
            "role": "agent",
            "text": "sure one latte coming",
            "status": "completed",
        }


# --- in ---------------------------------------------------------------------------------------------------------------


async def test_say_is_said_and_does_nothing_else(tmp_path: Path, shipped_models: Path) -> None:
    """The words, in the client's conversation, as a reply of their own; they are no order, nor what is said next."""
    engine = FakeEngine(reply_frames=6, words="You are welcome.")
    async with house(tmp_path, engine, actions=load_actions(shipped_models / "s2s")) as at:
        words = "Okay, a latte. Anything else?"
        answer = await at.ear.command("say", {"text": words, "id": "7"})
        assert answer == {"command": "say", "id": "7", "ok": True, "conversations": [at.name]}
        done = await at.gets("response.done")
        (item,) = done["response"]["output"]
        assert item["content"][0]["transcript"] == words
        assert sum(message["type"] == "response.output_audio.delta" for message in at.received) == 6
        await at.state("idle")
        await at.says(spoken_turn())
        done = await at.gets("response.done")
        assert done["response"]["output"][0]["content"][0]["transcript"] == "You are welcome."
        await at.ear.next_body("repartee/metrics")
        assert not at.ear.payloads("repartee/action")
        assert at.ear.bodies("repartee/metrics")[0]["turn"] == 1
        await at.state("idle")
        engine.reply_frames = 9
        assert (await at.ear.command("say", {"text": words}))["ok"]
        await at.gets("response.done")
        (turn,) = next(iter(at.daemon.sessions)).conversation.metrics.turns
        assert turn.reply_frames == 6  # it is no answer to that turn


async def test_say_is_refused_while_somebody_speaks(tmp_path: Path) -> None:
    """The reply names the conversation and the reason, and nothing is said."""
    engine = WaitingEngine(reply_frames=25)
    async with house(tmp_path, engine) as at:
        for text, why in (("   ", "nothing in '   ' can be read"), ("hi", None)):
            answer = await at.ear.command("say", {"text": text})
            assert answer["ok"] is (why is None)
            if why is not None:
                assert answer["error"] == {"code": "cannot_say", "message": f"{at.name}: {why}", "param": None}
        answer = await at.ear.command("say", {"text": "again", "to": at.name})
        assert answer["error"]["message"] == f"{at.name}: the agent is already speaking"
        engine.may_speak.set()
        await at.gets("response.done")
        answer = await at.ear.command("say", {"text": "while it still sounds"})
        assert answer["error"]["message"] == f"{at.name}: the agent is already speaking"
        await at.state("idle")
        await at.says(silence(0.4), speech(0.8))
        await at.state("listening")
        answer = await at.ear.command("say", {"text": "again"})
        assert answer["error"]["message"] == f"{at.name}: the user is speaking"
        assert engine.states[0].read == ["hi"]


async def test_what_was_to_be_said_and_was_not_is_forgotten(tmp_path: Path) -> None:
    """Words that were interrupted, also while the model still read them, do not come with the next reply."""
    engine = WaitingEngine(reply_frames=5)
    async with house(tmp_path, engine) as at:
        await at.ear.command("say", {"text": "never heard"})
        await eventually(lambda: engine.states[0].script is not None)
        assert (await at.ear.command("interrupt"))["conversations"] == [at.name]
        engine.may_speak.set()
        assert (await at.gets("response.done"))["response"]["status"] == "cancelled"
        engine.may_read.clear()
        await at.ear.command("say", {"text": "never begun"})
        await eventually(lambda: engine.reading)
        assert (await at.ear.command("interrupt"))["conversations"] == [at.name]
        await at.client.send('{"type": "response.create"}')
        await eventually(lambda: next(iter(at.daemon.sessions)).conversation.speaking)
        engine.may_read.set()
        done = await at.gets("response.done")
        assert done["response"]["output"][0]["content"][0]["transcript"] == "sure one latte coming"


async def test_interrupt(tmp_path: Path) -> None:
    """A reply ends, for its client as if it had asked for that itself; with nothing to stop nothing is stopped."""
    async with house(tmp_path, FakeEngine(reply_frames=1_000, step_s=0.001)) as at:
        assert await at.ear.command("interrupt") == {
            "command": "interrupt",
            "id": None,
            "ok": True,
            "conversations": [],
        }
        await at.says(spoken_turn())
        await at.gets("response.output_audio.delta")
        answer = await at.ear.command("interrupt", {"to": at.name})
        assert answer["conversations"] == [at.name]
        done = (await at.gets("response.done"))["response"]
        assert done["status"] == "cancelled"
        assert done["status_details"]["reason"] == "client_cancelled"
        await at.state("idle")


async def test_prosody_is_put_into_a_reply(tmp_path: Path) -> None:
    """By name or id, in order; told with the sample where it entered, and to no client that has not asked."""
    async with house(tmp_path, FakeEngine(reply_frames=1_000, step_s=0.001)) as at:
        answer = await at.ear.command("prosody", {"tokens": ["<pitch_low>"]})
        assert answer["error"]["message"] == f"{at.name}: no reply is being spoken"
        await at.says(spoken_turn())
        await at.gets("response.output_audio.delta")
        answer = await at.ear.command("prosody", {"tokens": ["<pitch_low>", 5_000_001], "to": at.name, "id": "9"})
        assert answer == {"command": "prosody", "id": "9", "ok": True, "conversations": [at.name]}
        told = [await at.ear.next_body("repartee/prosody", number) for number in range(2)]
        assert [(body["token"], body["token_id"], body["injected"]) for body in told] == [
            ("<pitch_low>", 5_000_004, True),
            ("<pause_short>", 5_000_001, True),
        ]
        assert told[0]["sample"] > 0
        assert told[1]["sample"] == told[0]["sample"] + 1_920
        answer = await at.ear.command("prosody", {"tokens": ["<loud>"]})
        assert "unknown prosody token '<loud>'; known: <emph>" in answer["error"]["message"]
        await at.ear.command("interrupt")
        await at.gets("response.done")
        assert not [message for message in at.received if message["type"].startswith("repartee.")]


async def test_prosody_that_stays(tmp_path: Path) -> None:
    """Set, it begins every reply from then on, until it is taken back; a wrong token changes nothing."""
    async with house(tmp_path, FakeEngine(reply_frames=3)) as at:
        for tokens, entered in ((["<pitch_low>", "<emph>"], 2), ([], 0)):
            assert (await at.ear.command("set", {"prosody": tokens}))["ok"]
            assert at.ear.bodies("repartee/options")[-1]["prosody"] == tokens
            before = len(at.ear.bodies("repartee/prosody"))
            await at.ear.command("say", {"text": "hello there"})
            await at.gets("response.done")
            await at.state("idle")
            bodies = at.ear.bodies("repartee/prosody")[before:]
            assert [body["token"] for body in bodies] == tokens
            assert [body["sample"] for body in bodies] == [0] * entered
        answer = await at.ear.command("set", {"prosody": ["<loud>"], "volume": 0.1})
        assert answer["error"]["param"] == "prosody"
        assert at.ear.bodies("repartee/options")[-1]["volume"] == 1.0


async def test_commands_for_conversations_that_are_not(tmp_path: Path) -> None:
    """The reply says which there are."""
    async with house(tmp_path, FakeEngine()) as at:
        for name, body in (("say", {"text": "hi", "to": "local"}), ("interrupt", {"to": "local"})):
            error = (await at.ear.command(name, body))["error"]
            assert error["message"] == f"there is no conversation 'local'; there are: {at.name}"
            assert (error["code"], error["param"]) == ("no_conversation", "to")
        await at.client.close()
        await eventually(lambda: at.ear.bodies("repartee/state")[-1]["conversations"] == {})
        error = (await at.ear.command("say", {"text": "hi"}))["error"]
        assert error["message"] == "there is no conversation to say it in"


async def test_mute(tmp_path: Path) -> None:
    """Muted, nobody is heard, in this conversation and in one that begins; unmuted, they are."""
    engine = FakeEngine(reply_frames=3)
    async with house(tmp_path, engine) as at:
        assert (await at.ear.command("mute"))["ok"]
        assert (await at.ear.next_body("repartee/options", 1))["muted"] is True
        async with client_of(at.daemon) as other:
            second = House(at.broker, at.ear, at.daemon, other)
            await second.gets("session.created")
            for client in (at, second):
                await client.says(spoken_turn())
                await client.client.send('{"type": "input_audio_buffer.clear"}')
                await client.gets("input_audio_buffer.cleared")
                assert not any("speech_started" in message["type"] for message in client.received)
            assert (await at.ear.command("mute", {"on": False}))["ok"]
            for client in (at, second):
                await client.says(spoken_turn())
                await client.gets("response.done")
        assert at.ear.bodies("repartee/options")[-1]["muted"] is False


async def test_volume(tmp_path: Path) -> None:
    """Half the volume is half the samples."""
    loudest = []
    async with house(tmp_path, FakeEngine(reply_frames=3)) as at:
        for volume in (1.0, 0.5):
            assert (await at.ear.command("set", {"volume": volume}))["ok"]
            session = next(iter(at.daemon.sessions))
            heard: list[float] = []

            def listen(event: Any, heard: list[float] = heard) -> None:
                if type(event).__name__ == "ReplyAudio":
                    heard.append(float(abs(event.pcm).max()))

            session.conversation.watch(listen)
            await at.says(spoken_turn())
            await at.gets("response.done")
            await at.state("idle")
            loudest.append(max(heard))
        assert loudest[1] == pytest.approx(loudest[0] / 2.0)
        assert at.ear.bodies("repartee/options")[-1] == {
            "muted": False,
            "eagerness": "auto",
            "volume": 0.5,
            "prosody": [],
        }


async def test_eagerness(tmp_path: Path) -> None:
    """Eager, a second of silence ends a turn that the daemon would have left open; a client's own choice stays."""
    async with house(tmp_path, FakeEngine(reply_frames=3), "vad.silence_duration_ms=5000") as at:
        await at.says(spoken_turn(after_s=1.0))
        await at.state("listening")
        assert (await at.ear.command("set", {"eagerness": "high"}))["ok"]
        await at.says(silence(0.5))
        await at.gets("response.done")
        await at.state("idle")
        chosen = {
            "type": "realtime",
            "audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}},
        }
        await at.client.send(json.dumps({"type": "session.update", "session": chosen}))
        await at.gets("session.updated")
        assert (await at.ear.command("set", {"eagerness": "high"}))["ok"]
        await at.says(spoken_turn(after_s=1.0))
        await at.state("listening")
        await at.says(silence(2.5))
        await at.gets("response.done")


@pytest.mark.parametrize("allowed", [False, True])
async def test_shutdown(allowed: bool, tmp_path: Path) -> None:
    """Only where it is allowed; then the reply comes, and offline after it."""
    async with house(tmp_path, FakeEngine(), f"mqtt.allow_shutdown={json.dumps(allowed)}") as at:
        answer = await at.ear.command("shutdown")
        assert answer["ok"] is allowed
        if allowed:
            await at.client.wait_closed()
            await at.ear.until("repartee/availability", "offline")
            assert at.ear.bodies("repartee/state")[-1]["conversations"] == {}
        else:
            assert answer["error"]["message"] == "mqtt.allow_shutdown is not set"
            await at.says(spoken_turn())
            await at.gets("response.done")


async def test_shutdown_finishes_the_reply(tmp_path: Path) -> None:
    """What is being said is said to its end, and told, before the agent goes."""
    async with house(tmp_path, FakeEngine(reply_frames=30), "mqtt.allow_shutdown=true", "mqtt.transcripts=true") as at:
        assert (await at.ear.command("say", {"text": "we close now"}))["ok"]
        await at.gets("response.output_audio.delta")
        assert (await at.ear.command("shutdown"))["ok"]
        assert (await at.gets("response.done"))["response"]["status"] == "completed"
        await at.client.wait_closed()
        await at.ear.until("repartee/availability", "offline")
        assert [body["text"] for body in at.ear.bodies("repartee/transcript")] == ["we close now"]


def hostile_payloads(count: int) -> list[tuple[str, bytes]]:
    """Commands that are wrong in as many ways: bent JSON, wrong types, deep and long values, bytes."""
    chance = random.Random(20240)
    good: list[tuple[str, dict[str, Any]]] = [
        ("say", {"text": "hello", "to": "all", "id": "1"}),
        ("interrupt", {"to": "local"}),
        ("mute", {"on": True}),
        ("set", {"eagerness": "low", "volume": 0.5, "prosody": ["<emph>"]}),
        ("prosody", {"tokens": ["<pitch_low>", 5_000_001], "to": "all"}),
        ("shutdown", {"id": "x"}),
    ]
    values: list[Any] = [None, [], {}, 1e308, -1, 2**70, "x" * 5_000, "\ud800", True, [[[[]]]], {"a": {"b": None}}]
    made: list[tuple[str, bytes]] = []
    while len(made) < count:
        name, body = chance.choice(good)
        text = json.dumps(body)
        kind = chance.randrange(5)
        if kind == 0:
            text = json.dumps(body | {chance.choice([*body, "extra", ""]): chance.choice(values)})
        elif kind == 1:
            cut = chance.randrange(1, len(text))
            text = text[:cut]
        elif kind == 2:
            text = "[" * chance.randrange(1, 4_000)
        elif kind == 3:
            made.append((name, bytes(chance.randrange(128, 256) for _ in range(chance.randrange(1, 200)))))
            continue
        else:
            name = chance.choice(["", "Say", "say ", "config", "réveil", "x" * 200])
        made.append((name, text.encode("utf-8", "surrogatepass")))
    return [command for command in made if not is_right(*command)]


def is_right(name: str, payload: bytes) -> bool:
    """Whether a command is well formed after all."""
    try:
        parse_command(name, payload, retained=False)
    except CommandError:
        return False
    return True


async def test_hostile_payloads_change_nothing(tmp_path: Path) -> None:
    """Every wrong command gets an error that names its kind; nothing is said, set or ended, and talk goes on."""
    engine = FakeEngine(reply_frames=3)
    async with house(tmp_path, engine, "mqtt.allow_shutdown=false") as at:
        payloads = [*hostile_payloads(500), ("say", b"x" * 100_000)]
        assert len(payloads) > 400
        for name, payload in payloads:
            answer = await at.ear.command(name, payload)
            assert answer["ok"] is False, (name, payload)
            assert answer["error"]["message"]
            assert answer["command"] == name[:64]
        assert engine.states[0].read == []
        assert len(at.ear.payloads("repartee/options")) == 1
        await at.says(spoken_turn())
        await at.gets("response.done")


async def test_a_retained_command_is_not_carried_out(tmp_path: Path) -> None:
    """One that the broker kept is refused when the agent comes."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear:
        await ear.send("repartee/command/mute", b'{"id": "old"}', retain=True)
        async with running_daemon(FakeEngine(), *SETTINGS, f"mqtt.port={broker.port}"):
            answer = await ear.next_body("repartee/reply")
        assert answer["error"]["code"] == "retained_command"
        assert answer["id"] == "old"
        assert [body["muted"] for body in ear.bodies("repartee/options")] == [False]


# --- the local conversation -------------------------------------------------------------------------------------------


async def test_the_local_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are said through the speaker, and interrupted there."""
    devices = FakeDevices()

    def open_devices(config: AudioConfig, wake: Callable[[], None]) -> FakeDevices:
        devices.wake = wake
        return devices

    monkeypatch.setattr("agent.local.open_default", open_devices)
    engine = FakeEngine(reply_frames=1_000)
    async with house(tmp_path, engine, audio=True) as at:
        await eventually(lambda: "local" in at.ear.bodies("repartee/state")[-1]["conversations"])
        answer = await at.ear.command("say", {"text": "we close soon", "to": "local"})
        assert answer["conversations"] == ["local"]
        local = next(state for state in engine.states if state.read)
        assert local.read == ["we close soon"]
        await eventually(lambda: bool(devices.played))
        assert (await at.state("speaking"))["conversations"] == {"local": "speaking", at.name: "idle"}
        assert (await at.ear.command("interrupt"))["conversations"] == ["local"]
        await at.state("idle")
        assert len(local.truncations) == 1
        assert (await at.ear.command("say", {"text": "again", "to": "local"}))["ok"]
        await eventually(lambda: local.read == ["we close soon", "again"])


async def test_an_interruption_of_what_is_only_being_played() -> None:
    """The model is done, the speaker is not: the sound stops, and the model forgets what was not heard."""
    clock = FakeClock()
    hushed: list[bool] = []
    answers: list[events.Event] = []
    engine = FakeEngine(reply_frames=10)
    telegraph = Telegraph(TelegraphConfig(host="127.0.0.1"), lambda: None, "1")
    async with Worker(engine) as worker:
        settings = (VadConfig(detector="energy"), TurnConfig(), ReplyConfig(max_lead_ms=None))
        conversation = Conversation(await worker.open(), answers.append, *settings, clock)
        thinking = asyncio.create_task(conversation.run())
        states: list[str] = []
        with telegraph.joined("local", conversation, lambda: hushed.append(True)):
            conversation.say("we close soon")
            await eventually(lambda: any(isinstance(event, events.ReplyDone) for event in answers))
            clock.now += 0.2  # two frames, and half of the third
            states.append(conversation.state)
            telegraph._command("interrupt", b"", False)
            assert hushed == [True]
            states.append(conversation.state)
            assert states == ["speaking", "idle"]
            await eventually(lambda: engine.states[0].truncations == [3])
            telegraph._command("interrupt", b"", False)
            assert hushed == [True]
        thinking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await thinking


# --- the broker goes, the agent goes ----------------------------------------------------------------------------------


async def test_a_broker_killed_in_the_middle_of_a_conversation(tmp_path: Path, shipped_models: Path) -> None:
    """The conversation goes on without it; after its restart the orders arrive, the state is there, commands work."""
    engine = FakeEngine(reply_frames=40, words="Okay, a latte. Anything else?")
    actions = load_actions(shipped_models / "s2s")
    async with running_broker(tmp_path) as broker, listening(broker) as ear:
        await broker.save()  # only that there is an ear
        settings = (f"mqtt.port={broker.port}", "mqtt.discovery_prefix=homeassistant", "reply.take_back_ms=0")
        async with running_daemon(engine, *SETTINGS, *settings, actions=actions) as daemon, client_of(daemon) as client:
            at = House(broker, ear, daemon, client)
            await at.joined()
            await at.says(spoken_turn())
            await ear.next_body("repartee/action")
            await ear.next_body("repartee/metrics")
            await at.gets("response.done")
            await at.says(spoken_turn())
            await at.gets("response.output_audio.delta")
            await broker.kill()
            for _ in range(2):
                await at.gets("response.done")
                await at.says(spoken_turn())
            await at.gets("response.done")
            ear.heard.clear()
            await broker.start()
            await eventually(lambda: len(ear.payloads("repartee/action")) == 3, 30.0)
            await eventually(lambda: len(ear.payloads("repartee/metrics")) == 3)
            assert len({body["id"] for body in ear.bodies("repartee/action")}) == 3
            assert [body["turn"] for body in ear.bodies("repartee/metrics")] == [2, 3, 4]
            assert ear.payloads("repartee/availability") == ["online"]
            assert at.name in ear.bodies("repartee/state")[-1]["conversations"]
            assert ear.payloads("homeassistant/device/repartee/config")
            assert (await ear.command("mute"))["ok"]


async def test_discovery_is_kept_by_the_broker(tmp_path: Path) -> None:
    """Home Assistant finds the device whenever it comes, at the topics that the agent uses."""
    settings = ("mqtt.discovery_prefix=homeassistant", "mqtt.client_id=counter-1", "mqtt.base_topic=shop/counter")
    async with (
        running_broker(tmp_path) as broker,
        running_daemon(FakeEngine(), *SETTINGS, f"mqtt.port={broker.port}", *settings),
        listening(broker) as ear,
    ):
        config = await ear.next_body("homeassistant/device/counter-1/config")
        await eventually(lambda: bool(ear.payloads("shop/counter/state")))
        switch = config["components"]["mute"]
        name = switch["command_topic"].removeprefix("shop/counter/command/")
        assert (await ear.command(name, switch["payload_on"].encode(), "shop/counter"))["ok"]
        await eventually(lambda: ear.bodies(switch["state_topic"])[-1]["muted"] is True)
        assert ear.payloads(config["availability_topic"]) == ["online"]


async def test_the_last_will_of_a_killed_agent(tmp_path: Path, repo_root: Path) -> None:
    """Killed with no chance to say anything, the agent is offline all the same."""
    async with running_broker(tmp_path) as broker, listening(broker) as ear:
        flags = ("--no-audio", "--port", "0", "mqtt.host=127.0.0.1", f"mqtt.port={broker.port}")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "run_agent.py", *flags, cwd=repo_root, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await eventually(lambda: ear.payloads("repartee/availability") == ["online"], 60.0)
            process.send_signal(signal.SIGKILL)
            await eventually(lambda: ear.payloads("repartee/availability") == ["online", "offline"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@pytest.mark.shipped
async def test_the_shipped_models_say_what_they_are_told(tmp_path: Path, shipped_models: Path) -> None:
    """The real engine speaks the words; a text it cannot read, or one with an unknown tag, is refused by name."""
    engine = Engine.load(shipped_models / "codec", shipped_models / "s2s")
    async with house(tmp_path, engine) as at:
        for text, says in (("\ue000\ue001", "can be read"), ("<shout> no", "unknown prosody tag <shout>")):
            error = (await at.ear.command("say", {"text": text}))["error"]
            assert error["code"] == "cannot_say"
            assert says in error["message"]
        assert (await at.ear.command("say", {"text": "Okay, a large latte. <pause_short> Anything else?"}))["ok"]
        done = await at.gets("response.done")
        assert done["response"]["status"] == "completed"
        content = done["response"]["output"][0]["content"][0]
        assert content["transcript"] == "Okay, a large latte. Anything else?"
        frames = sum(message["type"] == "response.output_audio.delta" for message in at.received)
        assert frames > 15
