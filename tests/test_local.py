"""Talking through the local devices, with devices that are not there."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.actions import Actions, load_actions
from agent.conversation import Conversation
from agent.local import LocalConfig, talk
from agent.reply import ReplyConfig
from agent.turn import TurnConfig
from agent.worker import Worker
from models.runtime import Mode
from streaming import realtime_events as events
from streaming.audio_io import AudioConfig, DeviceLost
from streaming.vad import VadConfig
from tests.fakes import FakeDevices, FakeEngine, eventually, silence, speech, spoken_turn


class Joined:
    """Gets hold of the conversation, as a telegraph does."""

    @contextlib.contextmanager
    def joined(self, name: str, conversation: Conversation, hush: object = None) -> Iterator[None]:
        self.conversation = conversation
        yield


@contextlib.asynccontextmanager
async def talking(
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    listen_while_speaking: bool = False,
    actions: Actions | None = None,
    watcher: "Joined | None" = None,
) -> AsyncIterator[tuple[FakeDevices, "asyncio.Task[None]"]]:
    devices = FakeDevices()

    def open_devices(config: AudioConfig, wake: Callable[[], None]) -> FakeDevices:
        devices.wake = wake
        return devices

    monkeypatch.setattr("agent.local.open_default", open_devices)
    async with Worker(engine) as worker:
        task = asyncio.create_task(
            talk(
                worker,
                AudioConfig(),
                VadConfig(detector="energy", silence_duration_ms=500),
                TurnConfig(end_of_turn_threshold=2.0),
                ReplyConfig(),
                LocalConfig(listen_while_speaking=listen_while_speaking),
                actions,
                telegraph=watcher,
            )
        )
        await asyncio.sleep(0)
        try:
            yield devices, task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
                await task


def devices_that_return(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeDevices, asyncio.Event]:
    """What is opened again after a loss, once the event is set."""
    returned, back = FakeDevices(), asyncio.Event()

    async def open_again(config: AudioConfig, wake: Callable[[], None]) -> FakeDevices:
        await back.wait()
        returned.wake = wake
        return returned

    monkeypatch.setattr("agent.local.open_again", open_again)
    return returned, back


async def test_a_question_is_answered_aloud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What is said into the microphone is answered through the speaker, and both texts are logged when asked for."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "agent.transcripts")
    async with talking(FakeEngine(reply_frames=5), monkeypatch) as (devices, _):
        await eventually(lambda: devices.wake is not None and "talking through" in caplog.text)
        devices.record(spoken_turn())

        def answered() -> bool:
            devices.wake()
            return sum(len(piece) for piece in devices.played) >= 5 * 1_920

        await eventually(answered)
    assert "agent: sure one latte coming" in caplog.text
    assert "user: w1" in caplog.text


async def test_actions_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shipped_models: Path
) -> None:
    """What a reply did is a line of the log, when asked for."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "agent.transcripts")
    engine = FakeEngine(reply_frames=5, words="Okay, a latte. Anything else?")
    async with talking(engine, monkeypatch, actions=load_actions(shipped_models / "s2s")) as (devices, _):
        await eventually(lambda: "talking through" in caplog.text)
        devices.record(spoken_turn())
        await eventually(lambda: 'action: add_items {"items": [{"coffeeDrink": "latte"}]}' in caplog.text)


@pytest.mark.parametrize("allowed", [False, True])
async def test_the_agent_does_not_hear_itself(
    allowed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While it speaks the microphone counts as silent, unless the user has headphones and says so."""
    caplog.set_level(logging.INFO)
    engine = FakeEngine(reply_frames=100)
    async with talking(engine, monkeypatch, allowed) as (devices, _):
        await eventually(lambda: "talking through" in caplog.text)
        devices.record(spoken_turn())

        def speaking() -> bool:
            devices.wake()
            return bool(devices.played)

        await eventually(speaking)
        before = engine.states[0].modes.count(Mode.LISTEN)
        devices.record(np.concatenate([speech(0.5), silence(0.1)]))
        await eventually(lambda: len(devices._recorded) == 0)
        await asyncio.sleep(0.02)
        after = engine.states[0].modes.count(Mode.LISTEN)
    assert (after > before) == allowed


async def test_a_lost_device_takes_the_reply_but_not_the_conversation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss is one sentence; the reply ends, and when the device is back the same session answers again."""
    caplog.set_level(logging.INFO)
    returned, back = devices_that_return(monkeypatch)
    engine = FakeEngine(reply_frames=100)
    async with talking(engine, monkeypatch) as (devices, task):
        await eventually(lambda: "talking through" in caplog.text)
        devices.record(spoken_turn())

        def speaking(devices: FakeDevices) -> bool:
            devices.wake()
            return bool(devices.played)

        await eventually(lambda: speaking(devices))
        devices.lost = DeviceLost("speaker", "The speaker (Fake) was disconnected.")
        devices.wake()
        await eventually(lambda: "waits for it to come back" in caplog.text)
        assert "The speaker (Fake) was disconnected." in caplog.text
        assert "local audio: mic_xruns 3, dropped_frames 0" in caplog.text
        await eventually(lambda: engine.states[0].truncations != [])
        back.set()
        await eventually(lambda: caplog.text.count("talking through") == 2)
        returned.record(spoken_turn())
        await eventually(lambda: speaking(returned))
        assert not task.done()
    assert len(engine.states) == 1


async def test_a_reply_waits_for_a_device_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What somebody asks the agent to say meanwhile, over MQTT for one, is said when it is back, from its beginning."""
    caplog.set_level(logging.INFO)
    (returned, back), watcher = devices_that_return(monkeypatch), Joined()
    engine = FakeEngine(reply_frames=100)
    async with talking(engine, monkeypatch, watcher=watcher) as (devices, _):
        await eventually(lambda: "talking through" in caplog.text)
        devices.lost = DeviceLost("speaker", "The speaker (Fake) was disconnected.")
        devices.wake()
        await eventually(lambda: "waits for it to come back" in caplog.text)
        await watcher.conversation.do(events.CreateResponse())
        await asyncio.sleep(0.1)
        assert engine.states[0].modes.count(Mode.SPEAK) <= 1
        back.set()

        def whole() -> bool:
            returned.wake()
            return sum(len(piece) for piece in returned.played) >= 20 * 1_920

        await eventually(whole)
