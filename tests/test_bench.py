import asyncio
import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from agent.bench import __main__ as bench
from agent.bench import soak, voice
from agent.bench.caller import Caller, Heard, call, converse
from agent.bench.figures import loud_span, provenance
from agent.bench.frames import time_frames
from agent.bench.recordings import load_recordings
from agent.bench.sessions import Crowd, frame_percentiles, refusal_ms
from agent.bench.speed import ask, to_lines
from agent.bench.started import RunningDaemon, resident_mb, start_daemon
from agent.config import load_config
from agent.daemon import Daemon
from agent.errors import InputError
from models.runtime import Mode
from streaming.sound_files import read_audio
from tests.fakes import FakeEngine, eventually, silence, speech
from tests.live import running_daemon

SETTINGS = ("vad.detector=energy", "vad.silence_duration_ms=300", "turn.end_of_turn_threshold=2")
QUESTION = np.concatenate([silence(0.4), speech(0.8), silence(0.2)])


def address(daemon: Daemon) -> str:
    return f"ws://127.0.0.1:{daemon.port}/v1/realtime"


class Silent:
    """A line on which nothing is sent."""

    async def send(self, audio: str) -> None: ...

    async def configure(self, session: dict[str, Any]) -> None: ...

    def events(self) -> AsyncIterator[dict[str, Any]]:
        raise NotImplementedError


def test_every_kind_of_step_is_timed() -> None:
    """Each mode gets its percentiles and its real-time factor, from at least the steps asked for."""
    engine = FakeEngine(reply_frames=6, step_s=0.001)
    frames = time_frames(engine, QUESTION, 30)
    modes = engine.states[0].modes
    assert min(modes.count(mode) for mode in Mode) >= 30
    assert set(frames) == {"idle_ms", "listen_ms", "speak_ms"}
    for values in frames.values():
        assert 1.0 <= values["p50"] <= values["p95"] <= values["p99"] <= values["max"]
        assert values["real_time_factor"] >= 1 / 80


async def test_wait_is_measured_through_a_socket() -> None:
    """A question streamed to a daemon gives all parts of the wait, and they add up."""
    async with running_daemon(FakeEngine(reply_frames=4), *SETTINGS) as daemon:
        wait = await ask(address(daemon), QUESTION)
    assert wait.end_to_decision == pytest.approx(300, abs=61)
    assert wait.end_to_decision is not None
    assert wait.decision_to_first_audio is not None
    assert wait.decision_to_first_audio > 0
    assert wait.silence_in_audio == 0
    assert wait.total == wait.end_to_decision + wait.decision_to_first_audio
    assert wait.reply == "sure one latte coming"


async def test_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    """Missing models end the measurement with the daemon's own last words."""
    with pytest.raises(InputError, match=r"ended before it was ready.*config\.json"):
        async with start_daemon(tmp_path, tmp_path):
            pass


def test_memory_of_a_process_is_read_from_the_system() -> None:
    """This process has some; a process that is not there has none."""
    assert resident_mb(0) == 0.0
    assert 10 < resident_mb(os.getpid()) < 100_000


def test_loud_span_leaves_noise_after_the_last_word_out(repo_root: Path) -> None:
    """Hiss that reaches 30 dB below the loudest word is no speech, however long it lasts."""
    spoken = read_audio(repo_root / "tests" / "data" / "question.wav")
    begin, end = loud_span(spoken)
    loudest = np.square(spoken[begin:end]).reshape(-1, 480).mean(axis=1).max()
    hiss = np.random.default_rng(1).normal(0.0, np.sqrt(loudest) * 10 ** (-29 / 20), 3 * 24_000).astype(np.float32)
    assert loud_span(np.concatenate([spoken[:end], hiss]))[1] <= end + 0.5 * 24_000


def test_loud_span_leaves_silence_out() -> None:
    """The span of speech is found to 20 ms; silence has no inside."""
    assert loud_span(QUESTION) == (9600, 28_800)
    assert loud_span(silence(0.1)) == (0, 2400)


def test_loud_is_what_lies_within_30_db_of_the_loudest() -> None:
    """A tail 29 dB down still counts, one 31 dB down does not."""
    loud = np.sin(2 * np.pi * 300 * np.arange(12_000) / 24_000).astype(np.float32)
    tails = [loud[:2400] * 10 ** (decibels / 20) for decibels in (-29, -31)]
    assert loud_span(np.concatenate([silence(0.1), loud, *tails])) == (2400, 16_800)


def test_figures_name_commit_and_machine() -> None:
    """A figure without its machine is not one."""
    found = provenance()
    assert found["commit"]
    assert found["machine"]["cores"] >= 1


def test_table_has_every_figure() -> None:
    """The table shows frames, latency, memory, start-up and what was answered."""
    values = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0}
    daemon = {
        "start_up_s": 2.5,
        "resident_mb": {"when_ready": 310.0, "after_talking": 320.0},
        "voice_to_voice_ms": {"end_of_speech_to_audible": values, "decision_to_first_audio": {}},
        "transcripts": ["Hello!"],
    }
    text = "\n".join(to_lines({"frames": {"speak_ms": {**values, "real_time_factor": 0.125}}, "daemon": daemon}))
    for expected in ("frame, speak (ms)", "0.125", "2.50", "310", "320", "end of speech to audible (ms)", "Hello!"):
        assert expected in text


async def test_a_caller_hears_what_a_player_would() -> None:
    """Two turns in one session: each with its decision, its answer and its words, the second after the first's end."""
    async with running_daemon(FakeEngine(reply_frames=6), *SETTINGS) as daemon, call(address(daemon)) as caller:
        first, second = await converse(caller, [QUESTION, QUESTION], 0.3)
        spoken_s = caller.seconds
    for turn in (first, second):
        assert (turn.reply, turn.interrupted, turn.cut_in) == ("sure one latte coming", 0, False)
        assert len(turn.pcm) == 6 * 1920
        assert turn.transcript.startswith("w")
    assert second.true_end - first.true_end > 1400 + 480  # the question, and the answer it waited for
    assert spoken_s * 1000 > second.true_end + 480


async def test_a_caller_who_is_not_let_in_is_told() -> None:
    """What a full daemon says is the error, with its address; and how long it took to say so is measured."""
    async with running_daemon(FakeEngine(), "server.max_sessions=1") as daemon:
        assert await refusal_ms(address(daemon)) is None
        await eventually(lambda: not daemon.sessions)
        async with call(address(daemon)):
            with pytest.raises(InputError, match="at capacity"):
                async with call(address(daemon)):
                    pass
            took = await refusal_ms(address(daemon))
    assert took is not None and took > 0


def test_audio_that_comes_late_is_a_gap() -> None:
    """A caller's player runs dry when the next audio comes after the end of all before."""
    caller = Caller(Silent())
    moments = iter([1.0, 1.05, 1.5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.bench.caller._time", lambda: next(moments))
        for _ in range(3):
            audio = base64.b64encode(bytes(2 * 1920)).decode()  # 80 ms
            caller._take({"type": "response.output_audio.delta", "delta": audio})
    assert (caller._heard.gaps, caller._heard.first_audio) == (1, 1000.0)


def test_voice_figures() -> None:
    """The wait is of turns decided after their end; a cut-in and a turn without an answer are counted beside them."""
    tone = [speech(0.2)]
    good = Heard(1000.0, [1200.0], 1300.0, tone)
    taken_back = Heard(1000.0, [700.0, 1400.0], 1500.0, tone)
    cut_in, silent = Heard(1000.0, [900.0], 950.0, tone), Heard(1000.0)
    found = voice.summarise([good, taken_back, cut_in, silent])
    assert (found["said"], found["answered"], found["cut_ins"]) == (4, 3, 0.5)
    assert found["voice_to_voice_ms"]["end_of_speech_to_audible"]["p50"] == 400.0
    assert found["voice_to_voice_ms"]["end_of_speech_to_audible"]["mean"] == 400.0
    assert "cut-ins 0.500" in voice.to_lines(found)[-1]


def test_recordings_of_a_folder(tmp_path: Path) -> None:
    """Sound files at any depth, by name; a folder without any is named."""
    with pytest.raises(InputError, match="holds no sound file"):
        load_recordings(tmp_path)
    (tmp_path / "deep").mkdir()
    for name, seconds in (("deep/b.flac", 0.2), ("deep/a.wav", 0.1), ("c.WAV", 0.3)):
        soundfile.write(tmp_path / name, silence(seconds), 24_000)
    (tmp_path / "manifest.jsonl").write_text("{}")
    found = load_recordings(tmp_path)
    assert {name: len(pcm) for name, pcm in found.items()} == {"c.WAV": 7200, "a.wav": 2400, "b.flac": 4800}
    assert list(load_recordings(tmp_path, 1)) == ["c.WAV"]
    assert len(load_recordings(tmp_path / "deep" / "b.flac")["b.flac"]) == 4800


def test_frame_percentiles_are_read_from_the_histogram() -> None:
    """Frames lie evenly within a bucket; only what rose counts."""
    name = "repartee_frame_seconds_bucket"
    bounds = {"0.01": 50.0, "0.02": 90.0, "0.08": 100.0, "+Inf": 100.0}
    rise = {(name, frozenset({("le", le)})): n for le, n in bounds.items()}
    assert frame_percentiles(rise) == {"p50": 10.0, "p95": 50.0, "p99": 74.0}
    with pytest.raises(InputError, match="no frame"):
        frame_percentiles({key: 0.0 for key in rise})


async def test_a_crowd_talks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two callers at once over real sockets: the stage has frames, whole turns, and what the daemon spent on them."""
    monkeypatch.setattr("agent.bench.sessions.SETTLE_S", 0.5)
    async with running_daemon(FakeEngine(reply_frames=4, step_s=0.001), *SETTINGS) as daemon:
        assert daemon.port is not None
        here = RunningDaemon(await asyncio.create_subprocess_exec("true"), daemon.port)
        async with Crowd(here, [QUESTION], 0) as crowd:
            async with asyncio.timeout(120):
                while (stage := await crowd.stage(2, 4.0))["turns"] == stage["unanswered"]:
                    assert len(daemon.sessions) == 2
        await here.process.wait()
    assert stage["callers"] == 2
    assert stage["voice_to_voice_ms"]["p50"] > 300
    assert 1.0 <= stage["frame_ms"]["p50"] <= stage["frame_ms"]["p99"]
    assert stage["model_threads_busy"] > 0.01


async def test_a_long_session_is_rehearsed() -> None:
    """Minutes of turns in one session, each answered after the silence that the settings want."""
    config = load_config(None, [*SETTINGS])
    script = soak._script([QUESTION], 0)
    turns = await soak.rehearse(FakeEngine(reply_frames=4), config, script, 1.5)
    assert turns[-1].minute >= 1.5
    assert len(turns) >= soak.FEWEST_TURNS
    for turn in turns:
        assert turn.decision_ms == pytest.approx(300, abs=61)
        assert turn.wait_ms is not None and turn.resident_mb > 10
    assert turns[-1].step_ms is not None
    figures = soak.summarise(turns)
    assert figures["sixths"]["first"]["answered"] == figures["sixths"]["last"]["answered"] == 1.0


def test_drift_is_from_the_first_sixth_to_the_last() -> None:
    """Growing memory and waits show, and words that are heard no more; a short session says nothing."""
    turns = [soak.Turn(n / 2, 300.0, 50.0 + n, None, 9 - n // 10, 200.0 + n) for n in range(60)]
    found = soak.summarise(turns)
    assert found["sixths"]["last"]["wait_ms"] - found["sixths"]["first"]["wait_ms"] == 50.0
    assert (found["sixths"]["first"]["words"], found["sixths"]["last"]["words"]) == (9, 4)
    assert found["memory_growth"] == pytest.approx(50 / 204.5, abs=1e-4)
    report = {"live": True, "times_real_time": 1.0, **found, "turns": [{"minute": 29.5}]}
    assert "GROWS" in soak.to_lines(report)[-1]
    assert not any("step ms" in line for line in soak.to_lines(report))
    with pytest.raises(InputError, match="too short: 11 turns"):
        soak.summarise(turns[:11])


def test_missing_models_are_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make bench` without models ends with a sentence."""
    question = tmp_path / "q.wav"
    question.write_bytes(b"no audio")
    assert bench.main(["--question", str(question)]) == 2
    assert "q.wav" in capsys.readouterr().err
