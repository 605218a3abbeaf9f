"""The command line: exit codes, plain sentences, one file in and one file out."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import run_agent
from agent.local import answer, spoken_part
from agent.reply import ReplyConfig
from agent.turn import TurnConfig
from agent.worker import Worker
from models.runtime import Engine
from streaming.errors import SoundFileError
from streaming.resample import float_to_pcm16
from streaming.sound_files import read_audio, write_audio
from streaming.vad import VadConfig
from tests.fakes import FakeEngine, silence, speech, spoken_turn

VAD = VadConfig(detector="energy", silence_duration_ms=500)


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What Engine.load returns."""
    engine = FakeEngine(reply_frames=5)
    monkeypatch.setattr(Engine, "load", lambda codec, s2s: engine)
    return engine


def wav(path: Path, pcm: np.ndarray, rate: int = 24_000) -> Path:
    soundfile.write(path, pcm, rate)
    return path


# --- bad input --------------------------------------------------------------------------------------------------------


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_missing_artefacts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without models is named, with exit code 2."""
    assert run_agent.main(["--codec", str(tmp_path), "--s2s", str(tmp_path), "--no-audio"]) == 2
    assert str(tmp_path) in sentence(capsys)


def test_a_missing_input_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is named before any model is loaded."""
    arguments = ["--input", str(tmp_path / "none.wav"), "--output", str(tmp_path / "out.wav")]
    assert run_agent.main(arguments) == 2
    assert "none.wav" in sentence(capsys)


def test_an_input_that_is_no_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text file is no sound file."""
    path = tmp_path / "notes.wav"
    path.write_text("hello")
    assert run_agent.main(["--input", str(path), "--output", str(tmp_path / "out.wav")]) == 2
    assert "notes.wav" in sentence(capsys)


def test_mqtt_that_cannot_be_set_up(
    tmp_path: Path, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that cannot be followed ends the start; only an absent broker does not."""
    settings = ["mqtt.host=localhost", f"mqtt.password_file={tmp_path / 'secret'}"]
    assert run_agent.main(["--no-audio", "--port", "0", *settings]) == 2
    assert "secret cannot be read (No such file or directory)" in capsys.readouterr().err


def test_an_output_that_cannot_be_written(
    tmp_path: Path, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that does not exist is named."""
    question = wav(tmp_path / "q.wav", spoken_turn())
    assert run_agent.main(["--input", str(question), "--output", str(tmp_path / "no" / "a.wav")]) == 2
    assert "a.wav cannot be written (No such file or directory)" in capsys.readouterr().err


def test_a_bad_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown key on the command line is named."""
    assert run_agent.main(["--no-audio", "vad.sensitivity=3"]) == 2
    assert "vad.sensitivity" in sentence(capsys)


def test_a_bad_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown key in the file is named with the file."""
    path = tmp_path / "agent.yaml"
    path.write_text("server: {prot: 1}\n")
    assert run_agent.main(["--config", str(path), "--no-audio"]) == 2
    line = sentence(capsys)
    assert str(path) in line
    assert "server.prot" in line


def test_a_port_in_use(fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """The port is named, and the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_agent.main(["--no-audio", "--port", str(port)]) == 2
    assert f"port {port} on 127.0.0.1 is already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "a.wav"],
        ["--output", "a.wav"],
        ["--say", "hello"],
        ["--say", "hello", "--input", "a.wav", "--output", "b.wav"],
        ["--nonsense"],
        ["--port", "x"],
    ],
)
def test_wrong_flags(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong flags exit with 2 and the usage."""
    with pytest.raises(SystemExit) as caught:
        run_agent.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_settings_may_stand_between_flags() -> None:
    """key=value is taken wherever it stands."""
    args = run_agent.parse_args(["a.b=1", "--port", "9", "c.d=2", "--no-audio"])
    assert args.overrides == ["a.b=1", "c.d=2"]
    assert (args.port, args.no_audio) == (9, True)


# --- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (48_000, 2), (16_000, 1), (8_000, 2)])
def test_one_file(
    tmp_path: Path, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str], rate: int, channels: int
) -> None:
    """Any rate and channels in; the answer as 24 kHz mono and both texts out."""
    short = spoken_turn()[:: 24_000 // rate] if rate < 24_000 else np.repeat(spoken_turn(), rate // 24_000)
    question = wav(tmp_path / "q.wav", np.stack([short] * channels, axis=1), rate)
    output = tmp_path / "a.wav"
    settings = ["vad.detector=energy", "vad.silence_duration_ms=500"]
    assert run_agent.main(["--input", str(question), "--output", str(output), *settings]) == 0
    info = soundfile.info(output)
    assert (info.samplerate, info.channels, info.frames) == (24_000, 1, 5 * 1_920)
    out = capsys.readouterr().out
    assert "user: w1" in out
    assert "agent: sure one latte coming" in out
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("q.wav", "a.wav")] == []


def test_actions_are_printed(
    tmp_path: Path, fake_engine: FakeEngine, shipped_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a domain beside the model each action is one line of JSON; without one there is none."""
    fake_engine.words = ["Okay,", "a", "large", "latte.", "Anything", "else?"]
    question = wav(tmp_path / "q.wav", spoken_turn())
    arguments = [
        "--input",
        str(question),
        "--output",
        str(tmp_path / "a.wav"),
        "vad.detector=energy",
        "vad.silence_duration_ms=500",
        "--s2s",
    ]
    assert run_agent.main([*arguments, str(shipped_models / "s2s")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("action: ")]
    name, body = line.removeprefix("action: ").split(" ", 1)
    assert (name, json.loads(body)) == ("add_items", {"items": [{"size": "large", "coffeeDrink": "latte"}]})
    assert run_agent.main([*arguments, str(tmp_path)]) == 0
    assert "action" not in capsys.readouterr().out


def test_the_answer_replaces_an_older_one(tmp_path: Path) -> None:
    """Writing is atomic and leaves nothing else behind."""
    path = wav(tmp_path / "a.wav", silence(0.1))
    write_audio(path, speech(0.5))
    assert soundfile.info(path).frames == 12_000
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file(tmp_path: Path) -> None:
    """No samples, no question."""
    with pytest.raises(SoundFileError, match="holds no audio"):
        read_audio(wav(tmp_path / "q.wav", np.zeros(0, np.float32)))


def test_reading_averages_channels(tmp_path: Path) -> None:
    """Two channels become their mean."""
    both = np.stack([np.full(2_400, 0.4), np.full(2_400, 0.2)], axis=1)
    np.testing.assert_allclose(read_audio(wav(tmp_path / "q.wav", both)), 0.3, atol=1e-3)


def test_silence_around_the_question_is_left_out() -> None:
    """The part with speech, with padding before it; everything when there is none."""
    audio = np.concatenate([silence(2.0), speech(0.5), silence(2.0)])
    part = spoken_part(audio, VAD)
    assert 0.5 * 24_000 <= len(part) <= 1.0 * 24_000
    assert len(spoken_part(silence(1.0), VAD)) == 24_000


def test_speech_until_the_end_is_kept() -> None:
    """A recording that is cut right after the last word loses nothing."""
    audio = np.concatenate([silence(0.5), speech(0.5)])
    assert len(spoken_part(audio, VAD)) >= 0.5 * 24_000


def test_a_failing_engine_is_one_error() -> None:
    """The engine's failure reaches the caller as itself, not as a group."""
    from agent.errors import StepError

    async def ask() -> None:
        async with Worker(FakeEngine(fail_at=3)) as worker:
            await answer(worker, spoken_turn(), VAD, TurnConfig(), ReplyConfig())

    with pytest.raises(StepError, match="told to fail"):
        asyncio.run(ask())


# --- the process ------------------------------------------------------------------------------------------------------

SERVE = """
import sys, run_agent
from models.runtime import Engine
from tests.fakes import FakeEngine
Engine.load = staticmethod(lambda codec, s2s: FakeEngine())
sys.exit(run_agent.main(["--no-audio", "--port", "0"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_cleanly(repo_root: Path, number: signal.Signals) -> None:
    """The readiness line comes, a signal ends the process with code 0 and without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", SERVE],
        cwd=repo_root,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONASYNCIODEBUG": "1"},
    )
    assert process.stderr is not None
    seen = []
    try:
        for line in process.stderr:
            seen.append(line)
            if "ready on ws://127.0.0.1:" in line:
                process.send_signal(number)
                break
        rest = process.communicate(timeout=20)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, "".join(seen) + rest
    assert "Traceback" not in rest
    assert "stopped" in rest


SLOW = """
import sys, run_agent
from models.runtime import Engine
from tests.fakes import FakeEngine
Engine.load = staticmethod(lambda codec, s2s: FakeEngine(reply_frames=2000, step_s=0.001))
settings = ["vad.detector=energy", "vad.silence_duration_ms=500", "turn.end_of_turn_threshold=2", "server.drain_s=60"]
sys.exit(run_agent.main(["--no-audio", "--port", "0", "--log-format", "json", *settings]))
"""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_does_not_wait(repo_root: Path, second: signal.Signals) -> None:
    """While a reply of minutes is given: one SIGTERM drains (not ready any more), another signal ends it at once."""
    process = subprocess.Popen([sys.executable, "-c", SLOW], cwd=repo_root, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = next(
            int(body["message"].split("ready on ws://127.0.0.1:")[1].split("/")[0])
            for body in map(json.loads, process.stderr)
            if "ready on" in body["message"]
        )
        with connect(f"ws://127.0.0.1:{port}/v1/realtime") as websocket:
            audio = base64.b64encode(float_to_pcm16(spoken_turn())).decode()
            websocket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            while json.loads(websocket.recv(timeout=20))["type"] != "response.output_audio.delta":
                pass
            process.send_signal(signal.SIGTERM)
            while json.loads(process.stderr.readline())["message"] != "draining":
                pass
            with pytest.raises(urllib.error.HTTPError, match="503"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=20)
            assert process.poll() is None
            process.send_signal(second)
            with pytest.raises(ConnectionClosed) as caught:
                while True:
                    websocket.recv(timeout=20)
        rest = [json.loads(line) for line in process.communicate(timeout=20)[1].splitlines()]
    finally:
        process.kill()
        process.wait()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001
    assert process.returncode == 0
    closed = next(body for body in rest if body["message"] == "session closed")
    assert (closed["reason"], closed["replies"]) == ("shutdown", 1)


# --- one text in ------------------------------------------------------------------------------------------------------


def test_a_text_is_said(tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It becomes a sound file; a text that cannot be spoken is one sentence and exit code 2."""
    folder, output = tiny_models / "models", tmp_path / "said.wav"
    models = ["--codec", str(folder / "codec"), "--s2s", str(folder / "s2s")]
    assert run_agent.main([*models, "--say", "a large latte", "--output", str(output)]) == 0
    info = soundfile.info(output)
    assert (info.samplerate, info.channels) == (24_000, 1)
    assert info.frames >= 1920
    assert run_agent.main([*models, "--say", "<whisper>hello", "--output", str(tmp_path / "b.wav")]) == 2
    assert "<whisper>" in sentence(capsys)
    assert not (tmp_path / "b.wav").exists()
