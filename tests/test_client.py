"""The command-line client against the real daemon."""

import argparse
import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.actions import load_actions
from agent.daemon import Daemon
from models.runtime import Mode
from streaming import client
from streaming.audio_io import AudioConfig
from streaming.device_stream import DeviceLost
from streaming.errors import ServerUnavailable
from streaming.sound_files import write_audio
from streaming.tls import self_signed
from tests.fakes import FRAME, FakeDevices, FakeEngine, eventually, silence, speech, spoken_turn
from tests.live import running_daemon

SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=300", "turn.end_of_turn_threshold=2")


def flags(daemon: Daemon, folder: Path, pcm: np.ndarray) -> argparse.Namespace:
    """To speak this recording."""
    soundfile.write(folder / "in.wav", pcm, 24_000)
    url = f"ws://127.0.0.1:{daemon.port}/v1/realtime"
    return client.parse_args(["--url", url, "--input", str(folder / "in.wav"), "--output", str(folder / "out.wav")])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "QUIET_S", 0.8)


async def test_a_recording_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shipped_models: Path
) -> None:
    """Both sides are told as text, what the reply did too, and its audio stands in the file where it was heard."""
    engine = FakeEngine(reply_frames=5, words="Okay, a latte. Anything else?")
    async with running_daemon(engine, *SETTINGS, actions=load_actions(shipped_models / "s2s")) as daemon:
        question = spoken_turn(after_s=0.2)
        await client.run(flags(daemon, tmp_path, question))
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("user: w1")
    action = 'action: add_items {"items": [{"coffeeDrink": "latte"}]}'
    assert told[1:] == ["agent: Okay, a latte. Anything else?", action]
    heard, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    loud = np.flatnonzero(np.abs(heard) > 0.05)
    assert rate == 24_000
    assert 4.5 * FRAME < loud[-1] - loud[0] < 5.5 * FRAME
    assert loud[0] > len(question)


async def test_an_interrupted_reply_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user goes on while a long reply plays: it ends there, and the engine is told what was heard of it."""
    engine = FakeEngine(reply_frames=100)
    async with running_daemon(engine, *SETTINGS, "reply.take_back_ms=0") as daemon:
        pcm = np.concatenate([spoken_turn(after_s=1.0), speech(0.6), silence(0.1)])
        task = asyncio.create_task(client.run(flags(daemon, tmp_path, pcm)))
        await eventually(lambda: any(state.truncations for state in engine.states))
        engine.reply_frames = 2
        await task
    (state,) = [state for state in engine.states if state.truncations]
    assert 3 <= state.truncations[0] <= 12
    heard, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert len(np.flatnonzero(np.abs(heard) > 0.05)) < 20 * FRAME
    assert capsys.readouterr().out.count("agent:") == 2


async def test_a_lost_connection_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut in the middle of a reply: the client comes back, and every sample of the reply is heard once."""
    engine = FakeEngine(reply_frames=25)
    async with running_daemon(engine, *SETTINGS) as daemon:
        task = asyncio.create_task(client.run(flags(daemon, tmp_path, spoken_turn(after_s=0.2))))
        await eventually(lambda: len(daemon.sessions) == 1 and any(state.modes for state in engine.states))
        (session,) = daemon.sessions
        await eventually(lambda: session.conversation.metrics.frames_spoken > 4)
        assert session.door.link is not None
        session.door.link.client.abort()
        await task
        assert session.conversation.metrics.resumed == 1
    told = sorted(capsys.readouterr().out.splitlines())
    assert [line.split(" w1")[0] for line in told] == [
        "agent: sure one latte coming",
        "the connection was lost",
        "the conversation goes on",
        "user:",
    ]
    heard, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert 24 * FRAME < np.count_nonzero(np.abs(heard) > 0.001) < 25.5 * FRAME
    assert len(engine.states) == 1


@pytest.mark.parametrize(
    ("headphones", "cancels", "heard"), [(False, True, True), (False, False, False), (True, False, True)]
)
async def test_the_microphone_can_interrupt(
    headphones: bool, cancels: bool, heard: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over a reply it counts where the echo is taken out, and with headphones; a device that is lost is waited for."""
    first, second = FakeDevices(), FakeDevices()
    asked: list[AudioConfig] = []

    def opened(devices: FakeDevices, config: AudioConfig, wake: Callable[[], None]) -> FakeDevices:
        asked.append(config)
        devices.wake, devices.listens_while_speaking = wake, cancels
        return devices

    async def open_again(config: AudioConfig, wake: Callable[[], None]) -> FakeDevices:
        return opened(second, config, wake)

    monkeypatch.setattr(client, "open_default", lambda config, wake: opened(first, config, wake))
    monkeypatch.setattr(client, "open_again", open_again)
    engine = FakeEngine(reply_frames=100)
    async with running_daemon(engine, *SETTINGS, "reply.take_back_ms=0") as daemon:
        url = f"ws://127.0.0.1:{daemon.port}/v1/realtime"
        flags = ["--mic", "--url", url, "--speaker", "desk", *(["--headphones"] if headphones else [])]
        task = asyncio.create_task(client.run(client.parse_args(flags)))
        await eventually(lambda: bool(asked))
        first.lost = DeviceLost("speaker", "The speaker (desk) was disconnected.")
        first.wake()
        await eventually(lambda: len(asked) == 2)
        second.record(spoken_turn())

        def speaking() -> bool:
            second.wake()
            return bool(second.played)

        await eventually(speaking)
        modes = engine.states[-1].modes
        before = modes.count(Mode.LISTEN)
        second.record(speech(1.0))
        await asyncio.sleep(0.5)
        assert (modes.count(Mode.LISTEN) > before or any(state.truncations for state in engine.states)) is heard
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert [config.speaker for config in asked] == ["desk", "desk"]
    assert asked[0].echo_cancellation is not headphones
    assert "The speaker (desk) was disconnected. The conversation waits" in capsys.readouterr().out


async def test_a_server_that_leaves_is_one_sentence(tmp_path: Path) -> None:
    """In the middle of a conversation."""
    async with running_daemon(FakeEngine(), *SETTINGS) as daemon:
        task = asyncio.create_task(client.run(flags(daemon, tmp_path, silence(5.0))))
        await asyncio.sleep(0.3)
    with pytest.raises(ServerUnavailable, match="the server"):
        await task
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "missing.wav"], "there is no file missing.wav"),
        (["--input", __file__], "no sound file"),
        (["--url", "ws://127.0.0.1:9/v1/realtime", "--input", "in.wav"], "cannot be reached"),
        (["--url", "nonsense", "--input", "in.wav"], "nonsense cannot be reached"),
    ],
)
def test_what_cannot_be_used_is_named(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2 and one line."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("in.wav", silence(0.1), 24_000)
    assert client.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--mic", "--input", "a.wav"], ["--mic", "--output", "b.wav"]])
def test_flags_that_contradict_each_other(arguments: list[str]) -> None:
    """Argparse says so and exits."""
    with pytest.raises(SystemExit):
        client.parse_args(arguments)


async def test_a_token_and_a_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The client brings its token over wss:// to a server whose certificate it is told to trust; else it says why."""
    cert, key = self_signed(tmp_path)
    token, question = "correct-horse-battery-staple", tmp_path / "q.wav"
    write_audio(question, spoken_turn())
    settings = (*SETTINGS, f"server.tls_cert={cert}", f"server.tls_key={key}")
    async with running_daemon(FakeEngine(reply_frames=2), *settings, token=token) as daemon:
        flags = ["--url", f"wss://127.0.0.1:{daemon.port}/v1/realtime", "--input", str(question)]
        assert await asyncio.to_thread(client.main, [*flags, "--ca", str(cert), "--token", token]) == 0
        assert "agent: sure one latte coming" in capsys.readouterr().out
        assert await asyncio.to_thread(client.main, [*flags, "--token", token]) == 2
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err
        assert await asyncio.to_thread(client.main, [*flags, "--ca", str(cert)]) == 2
        assert "401" in capsys.readouterr().err
        assert await asyncio.to_thread(client.main, [*flags, "--ca", str(question)]) == 2
        assert "holds no certificate" in capsys.readouterr().err
