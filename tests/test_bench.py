import os
from pathlib import Path

import numpy as np
import pytest

from agent.bench import __main__ as bench
from agent.bench.figures import loud_span, provenance
from agent.bench.frames import time_frames
from agent.bench.speed import ask, to_lines
from agent.bench.started import resident_mb, start_daemon
from agent.errors import InputError
from models.runtime import Mode
from tests.fakes import FakeEngine, silence, speech
from tests.live import running_daemon

QUESTION = np.concatenate([silence(0.4), speech(0.8), silence(0.2)])


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
    settings = ["vad.detector=energy", "vad.silence_duration_ms=300", "turn.end_of_turn_threshold=2"]
    async with running_daemon(FakeEngine(reply_frames=4), *settings) as daemon:
        assert daemon.port is not None
        wait = await ask(f"ws://127.0.0.1:{daemon.port}/v1/realtime", QUESTION)
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


def test_loud_span_leaves_silence_out() -> None:
    """The span of speech is found to 20 ms; silence has no inside."""
    assert loud_span(QUESTION) == (9600, 28_800)
    assert loud_span(silence(0.1)) == (0, 2400)


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


def test_missing_models_are_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make bench` without models ends with a sentence."""
    question = tmp_path / "q.wav"
    question.write_bytes(b"no audio")
    assert bench.main(["--question", str(question)]) == 2
    assert "q.wav" in capsys.readouterr().err
