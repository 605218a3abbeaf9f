"""Sessions on disk."""

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import connect

from agent.errors import RecordingError
from agent.recording import Recording, RecordingConfig, check_directory
from streaming import realtime_events as events
from streaming.realtime_config import SessionConfig
from tests.fakes import FRAME, FakeClient, FakeClock, FakeEngine, eventually, spoken_turn, tone
from tests.live import running_daemon

SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=500", "turn.end_of_turn_threshold=2")


def config(folder: Path, **settings: Any) -> RecordingConfig:
    return RecordingConfig(directory=folder, **{"min_free_mib": 0.0, **settings})


def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


async def test_a_session_is_recorded_whole(tmp_path: Path) -> None:
    """Over a real socket: the user on the left, the reply on the right after it, and what happened with its seconds."""
    said = spoken_turn()
    async with running_daemon(FakeEngine(reply_frames=5), *SETTINGS, f"recording.directory={tmp_path}") as daemon:
        async with connect(f"ws://127.0.0.1:{daemon.port}/v1/realtime") as websocket:
            client = FakeClient()
            client.speak(said)
            await websocket.send(await client.receive() or "")
            while json.loads(await websocket.recv())["type"] != "response.done":
                pass
            (partial,) = inside(tmp_path)
            assert partial.name.endswith(".partial")
        await eventually(lambda: not daemon.sessions)
    (folder,) = inside(tmp_path)
    assert "_sess_" in folder.name
    assert not folder.name.endswith(".partial")
    assert folder.stat().st_mode & 0o077 == 0
    audio, rate = soundfile.read(folder / "audio.wav")
    assert rate == 24_000
    at = next(n for n in range(len(audio)) if audio[n, 0]) - next(n for n in range(len(said)) if said[n])
    np.testing.assert_allclose(audio[at : at + len(said), 0], said, atol=1e-3)
    spoken = np.flatnonzero(audio[:, 1])
    assert 4 * FRAME < spoken[-1] - spoken[0] <= 5 * FRAME
    happened = lines_of(folder)
    kinds = [line["type"] for line in happened]
    assert kinds[0] == "session"
    assert [kind for kind in kinds if kind in ("user_started", "user_stopped", "reply_started", "reply_done")] == [
        "user_started",
        "user_stopped",
        "reply_started",
        "reply_done",
    ]
    assert "".join(line["text"] for line in happened if line["type"] == "reply_text") == "sure one latte coming"
    began = next(line for line in happened if line["type"] == "reply_started")["second"]
    assert began <= spoken[0] / 24_000 + 0.1
    assert [line["second"] for line in happened] == sorted(line["second"] for line in happened)


async def test_interrupted_audio_is_not_heard(tmp_path: Path) -> None:
    """A cancelled reply ends where it ended for the user, and positions are on the recording's clock."""
    clock = FakeClock()
    recording = Recording(config(tmp_path), "sess_x", clock)
    clock.now += 3.0  # two seconds in which the client says nothing, and one that it sends in one piece
    recording.take(events.AppendAudio(tone(24_000)))
    recording.take(events.UserStarted(1, 12_000))
    recording.take(events.ReplyStarted(1))
    recording.take(events.ReplyAudio(tone(48_000)))
    clock.now += 0.5
    recording.take(events.ReplyDone("cancelled", "turn_detected"))
    assert await recording.close()
    (folder,) = inside(tmp_path)
    audio, _ = soundfile.read(folder / "audio.wav")
    spoken = np.flatnonzero(audio[:, 1])
    assert abs(spoken[0] - 3 * 24_000) < 10
    assert abs(spoken[-1] - 3.5 * 24_000) < 10
    started = next(line for line in lines_of(folder) if line["type"] == "user_started")
    assert started["at"] == 2.5


async def test_every_event_and_command_can_be_written(tmp_path: Path) -> None:
    """Whatever crosses the protocol's border is one line of JSON, without its audio."""
    recording = Recording(config(tmp_path), "sess_x")
    order = events.Action("place_order", {"items": [1]})
    everything: list[events.Event | events.Command] = [
        events.ConfigureSession(SessionConfig()),
        events.HearItem(tone(10)),
        events.CreateResponse(tools=frozenset({"b", "a"})),
        events.ReplyDone("completed", None, events.Usage(1, 2, 3), (order,)),
        events.Refused("code", "message"),
    ]
    for what in everything:
        recording.take(what)
    assert await recording.close()
    (folder,) = inside(tmp_path)
    _, configured, heard, asked, done, refused = lines_of(folder)
    assert configured["config"]["audio"]["input"]["format"]["rate"] == 24_000
    assert heard == {"second": heard["second"], "type": "hear_item", "turn": 0}
    assert asked["tools"] == ["a", "b"]
    assert done["actions"] == [{"name": "place_order", "arguments": {"items": [1]}}]
    assert refused["code"] == "code"


# --- trouble ----------------------------------------------------------------------------------------------------------


async def given_up(folder: Path, recording: Recording, caplog: pytest.LogCaptureFixture, why: str) -> None:
    """The recording failed for this reason and left nothing."""
    assert not await recording.close()
    assert inside(folder) == []
    (record,) = [record for record in caplog.records if record.getMessage() == "recording given up"]
    assert why in vars(record)["fields"]["why"]


async def test_a_file_that_cannot_grow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The system refuses to write: the recording is removed, and what is taken after is swallowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        recording = Recording(config(tmp_path), "sess_x")
        for _ in range(20):
            recording.take(events.AppendAudio(tone(24_000)))
        await given_up(tmp_path, recording, caplog, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_gets_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before the disk is full, recordings stop."""
    recording = Recording(config(tmp_path, min_free_mib=1e12), "sess_x")
    recording.take(events.AppendAudio(tone(24_000)))
    await given_up(tmp_path, recording, caplog, "MiB are free")


async def test_a_disk_that_is_too_slow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What does not fit into the queue would be a hole: the recording is given up, and nobody waited."""
    recording = Recording(config(tmp_path), "sess_x")
    recording.take(events.AppendAudio(tone(300 * 24_000)))  # it takes a while to write
    for _ in range(20_000):
        recording.take(events.AudioCleared())
    await given_up(tmp_path, recording, caplog, "too slow")


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """It is named before the daemon starts."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="file/x"):
        check_directory(config(tmp_path / "file" / "x"))
    check_directory(config(tmp_path / "new" / "folder"))
    assert inside(tmp_path / "new" / "folder") == []
    check_directory(RecordingConfig())
