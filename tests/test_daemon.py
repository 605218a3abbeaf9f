"""The daemon over real sockets, with a fake engine."""

import asyncio
import gc
import json
import logging
import socket
import threading
import urllib.request
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agent import daemon as daemon_module
from agent.capacity import Capacity, StepTimes
from agent.config import load_config
from agent.daemon import Daemon
from agent.errors import ServeError
from agent.logs import fields_of
from models.runtime import Mode, StepOut
from streaming.device_stream import DeviceLost
from streaming.errors import AudioUnavailable
from streaming.tls import fingerprint, self_signed
from tests.fakes import FRAME, FakeClient, FakeDevices, FakeEngine, eventually, spoken_turn
from tests.live import running_daemon
from tests.test_telemetry import Samples, read

SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=500", "turn.end_of_turn_threshold=2")


def running(engine: FakeEngine, *overrides: str, audio: bool = False) -> AbstractAsyncContextManager[Daemon]:
    return running_daemon(engine, *SETTINGS, *overrides, audio=audio)


def url(daemon: Daemon) -> str:
    return f"ws://127.0.0.1:{daemon.port}/v1/realtime?model=local"


def fetch(daemon: Daemon, path: str) -> bytes:
    """The body of a GET; blocks."""
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}{path}", timeout=5.0) as response:
        return bytes(response.read())


async def spoken(websocket: ClientConnection) -> None:
    """Append one spoken turn."""
    client = FakeClient()
    client.speak(spoken_turn())
    message = await client.receive()
    assert message is not None
    await websocket.send(message)


async def read_until(websocket: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """Everything up to the first message of this type."""
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not seen or seen[-1]["type"] != kind:
            seen.append(json.loads(await websocket.recv()))
    return seen


async def test_ended_sessions_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session held is gone soon after its end, without waiting for Python to feel like collecting."""
    monkeypatch.setattr(daemon_module, "_TIDY_AFTER_S", 0.01)
    async with running(FakeEngine()) as daemon:
        gc.disable()
        try:
            async with connect(url(daemon)) as websocket:
                await read_until(websocket, "session.created")
                session = weakref.ref(next(iter(daemon.sessions)))
            await eventually(lambda: session() is None)
        finally:
            gc.enable()


async def test_one_bad_client_harms_nobody() -> None:
    """Malformed JSON, odd audio, binary data and 20 MB from one client; the other is answered."""
    engine = FakeEngine(reply_frames=3)
    async with running(engine) as daemon, connect(url(daemon)) as good:
        bad = await connect(url(daemon))  # not closed again: the client library stumbles over its own abort
        for message in ("{", "[]", '{"type": "nope"}', '{"type": "input_audio_buffer.append", "audio": "AAAA"}', b"\0"):
            await bad.send(message)
            assert (await read_until(bad, "error"))[-1]["error"]["type"] == "invalid_request_error"
        await spoken(bad)
        await read_until(bad, "response.done")
        with pytest.raises(ConnectionClosed):
            await bad.send("x" * 20_000_000)
            await bad.recv()
        await spoken(good)
        done = (await read_until(good, "response.done"))[-1]
    assert done["response"]["status"] == "completed"


async def test_a_failing_session_leaves_the_other_alone() -> None:
    """An engine that raises for one session: 1011 there, an answer here."""
    engine = FakeEngine(reply_frames=3)
    async with running(engine) as daemon, connect(url(daemon)) as good:
        await read_until(good, "session.created")
        async with connect(url(daemon)) as bad:
            await read_until(bad, "session.created")
            engine.states[1].broken = True
            await spoken(bad)
            events = await read_until(bad, "error")
            assert events[-1]["error"]["type"] == "server_error"
            with pytest.raises(ConnectionClosed) as caught:
                await bad.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1011
        await spoken(good)
        await read_until(good, "response.done")


async def test_two_clients_at_once() -> None:
    """Both are answered, by states of their own."""
    engine = FakeEngine(reply_frames=5, step_s=0.0005)
    async with running(engine) as daemon, connect(url(daemon)) as first, connect(url(daemon)) as second:
        for websocket in (first, second):
            await spoken(websocket)
        for websocket in (first, second):
            events = await read_until(websocket, "response.done")
            assert sum(event["type"] == "response.output_audio.delta" for event in events) == 5
        assert len(daemon.sessions) == 2
    assert len(engine.states) == 2
    assert threading.get_ident() not in engine.threads


async def test_sessions_end_with_their_clients() -> None:
    """A client that goes leaves nothing behind."""
    async with running(FakeEngine()) as daemon:
        async with connect(url(daemon)) as websocket:
            await read_until(websocket, "session.created")
            assert len(daemon.sessions) == 1
        await eventually(lambda: not daemon.sessions)


async def test_full() -> None:
    """The configured number of sessions is the limit."""
    async with running(FakeEngine(), "server.max_sessions=1") as daemon, connect(url(daemon)) as first:
        await read_until(first, "session.created")
        async with connect(url(daemon)) as second:
            events = await read_until(second, "error")
            assert events[-1]["error"]["code"] == "server_at_capacity"
            with pytest.raises(ConnectionClosed) as caught:
                await second.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1013


async def test_room_is_measured() -> None:
    """An engine that needs half a frame for everybody is full with one, says so everywhere, and refuses the next."""
    async with running(FakeEngine(step_s=0.02), "server.max_sessions=auto") as daemon, connect(url(daemon)) as first:
        await read_until(first, "session.created")
        health = json.loads(await asyncio.to_thread(fetch, daemon, "/healthz"))
        assert (health["status"], health["capacity"]) == ("full", 1)
        assert b"repartee_capacity 1.0" in await asyncio.to_thread(fetch, daemon, "/metrics")
        async with connect(url(daemon)) as second:
            assert (await read_until(second, "error"))[-1]["error"]["code"] == "server_at_capacity"


async def test_the_local_conversation_has_a_place() -> None:
    """What the microphone needs is not given to clients; one of them is let in all the same."""
    daemon = Daemon(FakeEngine(), load_config(None), audio=True)
    daemon._capacity = Capacity(StepTimes({mode: (0.00225,) for mode in Mode}), 0.08)
    assert [daemon._capacity.at_start, daemon._room(0)] == [4, 3]
    daemon._capacity = Capacity(StepTimes({mode: (0.03,) for mode in Mode}), 0.08)
    assert [daemon._capacity.at_start, daemon._room(0)] == [1, 1]


async def test_stopping_in_the_middle_of_a_reply() -> None:
    """Stopping is clean while the agent speaks: the client sees 1001 and the daemon returns."""
    async with running(FakeEngine(reply_frames=1_000, step_s=0.001)) as daemon, connect(url(daemon)) as websocket:
        await spoken(websocket)
        await read_until(websocket, "response.output_audio.delta")
        daemon.stop()
        with pytest.raises(ConnectionClosed) as caught:
            async with asyncio.timeout(10):
                while True:
                    await websocket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


async def test_ready_line(caplog: pytest.LogCaptureFixture) -> None:
    """Readiness is one line with the address and the seconds."""
    with caplog.at_level(logging.INFO, "agent.daemon"):
        async with running(FakeEngine()) as daemon:
            pass
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("ready on")]
    assert len(lines) == 1
    assert lines[0].startswith(f"ready on ws://127.0.0.1:{daemon.port}/v1/realtime in 0.")
    assert lines[0].endswith(" s for 8 sessions")


async def test_a_port_in_use() -> None:
    """The error says which port and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} on 127.0.0.1 is already in use"):
            await Daemon(FakeEngine(), load_config(None, [f"server.port={port}", "server.max_sessions=8"])).run()


def no_device(*_: object) -> None:
    """In the place of `open_default`."""
    raise AudioUnavailable("No microphone was found.")


async def speaking_aloud(
    monkeypatch: pytest.MonkeyPatch, reply_frames: int
) -> tuple[Daemon, "asyncio.Task[None]", FakeDevices]:
    """A daemon that has begun a reply through its speaker."""
    devices, ready = FakeDevices(), asyncio.Event()

    def open_devices(config: object, wake: Callable[[], None]) -> FakeDevices:
        devices.wake = wake
        return devices

    monkeypatch.setattr("agent.local.open_default", open_devices)
    settings = ["server.port=0", "server.max_sessions=8", "vad.detector=energy", "vad.silence_duration_ms=300"]
    daemon = Daemon(FakeEngine(reply_frames=reply_frames), load_config(None, settings), audio=True)
    task = asyncio.create_task(daemon.run(on_ready=lambda _: ready.set()))
    await ready.wait()
    devices.record(spoken_turn())

    def speaking() -> bool:
        devices.wake()
        return bool(devices.played)

    await eventually(speaking)
    return daemon, task, devices


async def test_no_sound_device(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a device there is one plain sentence, and clients are served; it is taken when it is there."""
    caplog.set_level(logging.INFO)
    plugged_in = asyncio.Event()

    async def later(*_: object, retry_s: float) -> FakeDevices:
        await plugged_in.wait()
        return FakeDevices()

    monkeypatch.setattr("agent.local.open_default", no_device)
    monkeypatch.setattr("agent.local.open_again", later)
    async with running(FakeEngine(), audio=True) as daemon, connect(url(daemon)) as websocket:
        await read_until(websocket, "session.created")
        assert "No microphone was found. Clients can connect meanwhile." in caplog.text
        plugged_in.set()
        await eventually(lambda: "talking through nothing at all" in caplog.text)


async def test_a_daemon_that_waits_for_a_device_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is being said that has to be waited for."""

    async def never(*_: object, retry_s: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("agent.local.open_default", no_device)
    monkeypatch.setattr("agent.local.open_again", never)
    daemon = Daemon(FakeEngine(), load_config(None, ["server.port=0", "server.max_sessions=8"]), audio=True)
    async with asyncio.timeout(5):
        await daemon.run(on_ready=lambda _: daemon.drain())


async def test_a_daemon_whose_device_is_away_can_be_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was lost in the middle of a reply that nobody can hear."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("agent.local.open_again", never)
    daemon, task, devices = await speaking_aloud(monkeypatch, reply_frames=100)
    devices.lost = DeviceLost("speaker", "The speaker (desk) was disconnected.")
    devices.wake()
    await eventually(lambda: "waits for it to come back" in caplog.text)
    daemon.drain()
    async with asyncio.timeout(3):
        await task


async def test_draining_finishes_what_is_said_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply through the speaker is heard to its end, and then the daemon ends."""
    daemon, task, devices = await speaking_aloud(monkeypatch, reply_frames=12)
    assert sum(map(len, devices.played)) < 12 * FRAME
    daemon.drain()
    while not task.done():
        devices.wake()
        await asyncio.sleep(0.01)
    await task
    assert sum(map(len, devices.played)) == 12 * FRAME


TOKEN = "correct-horse-battery-staple"


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "''"])
async def test_listening_beyond_this_machine_needs_a_token(host: str) -> None:
    """Without one the daemon does not start, and says what to do."""
    with pytest.raises(ServeError, match="needs a token: set REPARTEE_TOKEN"):
        await Daemon(FakeEngine(), load_config(None, ["server.port=0", f"server.host={host}"])).run()


async def test_listening_beyond_this_machine_with_a_token(caplog: pytest.LogCaptureFixture) -> None:
    """It starts, says that nothing is encrypted, and lets in who brings the token; which no log line holds."""
    caplog.set_level(logging.DEBUG)
    async with running_daemon(FakeEngine(), "server.host=0.0.0.0", token=TOKEN) as daemon:
        with pytest.raises(InvalidStatus):
            async with connect(url(daemon)):
                pass
        async with connect(url(daemon), additional_headers={"Authorization": f"Bearer {TOKEN}"}) as websocket:
            await read_until(websocket, "session.created")
    assert "without TLS" in caplog.text
    ours = [record for record in caplog.records if record.name.startswith(("agent", "streaming"))]
    assert TOKEN not in "".join(f"{record.getMessage()} {fields_of(record)}" for record in ours)


async def test_tls_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The readiness line has wss:// and the certificate's fingerprint."""
    caplog.set_level(logging.INFO)
    cert, key = self_signed(tmp_path)
    async with running(FakeEngine(), f"server.tls_cert={cert}", f"server.tls_key={key}") as daemon:
        pass
    assert f"ready on wss://127.0.0.1:{daemon.port}/v1/realtime (certificate {fingerprint(cert)}) in 0." in caplog.text


# --- figures ----------------------------------------------------------------------------------------------------------


async def figures(daemon: Daemon) -> Samples:
    """What /metrics says."""
    address = f"http://127.0.0.1:{daemon.port}/metrics"
    body = await asyncio.to_thread(lambda: urllib.request.urlopen(address, timeout=10).read())
    return read(body.decode())


async def test_metrics_of_a_conversation() -> None:
    """One turn over a real socket: steps, latencies, the turn, the reply and the session are there to be scraped."""
    engine = FakeEngine(reply_frames=3, step_s=0.09)
    async with running(engine, "server.max_sessions=1") as daemon:
        async with connect(url(daemon)) as websocket:
            await read_until(websocket, "session.created")
            async with connect(url(daemon)) as second:
                await read_until(second, "error")
            client = FakeClient()
            client.speak(spoken_turn(0.3, 0.6))
            await websocket.send(await client.receive() or "")
            await read_until(websocket, "response.done")
            during = await figures(daemon)
        await eventually(lambda: not daemon.sessions)
        after = await figures(daemon)
    assert during["repartee_sessions", ()] == 1
    assert during["repartee_sessions_opened_total", ()] == 1
    assert during["repartee_sessions_refused_total", (("reason", "capacity"),)] == 1
    assert during["repartee_turns_total", (("by", "silence"),)] == 1
    assert during["repartee_replies_ended_total", (("status", "completed"),)] == 1
    modes = engine.states[0].modes
    for mode in (Mode.LISTEN, Mode.SPEAK):
        kind = (("kind", mode.name.lower()),)
        assert during["repartee_step_seconds_count", kind] == modes.count(mode)
        assert during["repartee_deadline_misses_total", kind] == modes.count(mode)
    for part in ("speech_end_to_decision", "decision_to_text", "decision_to_audio", "speech_end_to_audio"):
        assert during["repartee_turn_latency_seconds_count", (("part", part),)] == 1
    assert during["repartee_turn_latency_seconds_sum", (("part", "decision_to_audio"),)] >= 0.09
    assert after["repartee_sessions", ()] == 0
    assert after["repartee_sessions_closed_total", (("reason", "client"),)] == 1
    assert after["repartee_replies_total", ()] == 1


# --- draining ---------------------------------------------------------------------------------------------------------


async def test_draining_finishes_the_reply() -> None:
    """A reply that is being given is given whole, nobody else comes in, and then everyone is closed with 1001."""
    engine = FakeEngine(reply_frames=30, step_s=0.002)
    async with running(engine) as daemon, connect(url(daemon)) as talking, connect(url(daemon)) as silent:
        await read_until(silent, "session.created")
        await spoken(talking)
        await read_until(talking, "response.output_audio.delta")
        daemon.drain()
        with pytest.raises(ConnectionClosed) as caught:
            await silent.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
        async with connect(url(daemon)) as late:
            events = await read_until(late, "error")
        assert events[-1]["error"]["code"] == "server_shutting_down"
        done = (await read_until(talking, "response.done"))[-1]
        assert done["response"]["status"] == "completed"
        with pytest.raises(ConnectionClosed) as caught:
            await talking.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


async def test_draining_has_an_end() -> None:
    """A reply longer than the bound is cut off."""
    engine = FakeEngine(reply_frames=1_000, step_s=0.001)
    async with running(engine, "server.drain_s=0.2") as daemon, connect(url(daemon)) as websocket:
        await spoken(websocket)
        await read_until(websocket, "response.output_audio.delta")
        daemon.drain()
        with pytest.raises(ConnectionClosed) as caught:
            async with asyncio.timeout(10):
                while True:
                    await websocket.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001


class StuckEngine(FakeEngine):
    """An engine whose steps take until they are let go."""

    def __init__(self) -> None:
        super().__init__(reply_frames=1, lead_steps=1)
        self.free = threading.Event()
        self.free.set()

    def step(self, pcm: Any, state: Any, mode: Mode) -> StepOut:
        """Wait in the model thread, then step."""
        assert self.free.wait(timeout=30.0), "nobody let the engine go"
        return super().step(pcm, state, mode)


async def test_a_stuck_model_does_not_block_the_loop() -> None:
    """Pings are answered while a step is under way, however long it takes."""
    engine = StuckEngine()
    async with running(engine) as daemon, connect(url(daemon)) as websocket:
        detection_off = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        await websocket.send(json.dumps({"type": "session.update", "session": detection_off}))
        await websocket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA" * 2_400}))
        await read_until(websocket, "session.updated")
        engine.free.clear()
        await websocket.send('{"type": "input_audio_buffer.commit"}')
        await websocket.send('{"type": "response.create"}')
        try:
            for _ in range(3):
                await (await websocket.ping())
            assert Mode.SPEAK not in engine.states[0].modes
        finally:
            engine.free.set()
        await read_until(websocket, "response.done")
