import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.config import AgentConfig
from agent.turn import MODEL_OFF, TurnConfig
from streaming.vad import VadConfig
from tests.fakes import SAMPLE_RATE, FakeEngine
from training.endpoints import (
    LEAD_S,
    Score,
    Setting,
    Trace,
    first_decision,
    main,
    measure,
    settings,
    to_lines,
)
from training.endpoints import trace as hear
from training.engine_pool import speak
from training.plots import plot_endpoints
from training.recordings import Recording, find_recordings

CHUNK = 480
FRAME = 1_920


def setting(silence_ms: int = 500, threshold: float = MODEL_OFF, after_ms: int = 100) -> Setting:
    vad = VadConfig(detector="webrtc", silence_duration_ms=silence_ms)
    return Setting(
        vad, TurnConfig(end_of_turn_threshold=threshold, end_of_turn_silence_ms=after_ms, sure_silence_ms=after_ms)
    )


def made_trace(
    speech_ms: list[tuple[int, int]], finished: dict[int, float] | None = None, length_ms: int = 3_000
) -> Trace:
    """A clip with speech in these spans; the detector is always right, 20 ms a chunk."""

    def spoken(ms: int) -> float:
        return float(any(start <= ms < end for start, end in speech_ms))

    scores = tuple(Score(spoken(ms), ms * 24, (ms + 20) * 24, (ms + 20) * 24) for ms in range(0, length_ms, 20))
    quiet = (0,) * len(scores)
    return Trace("a", length_ms * 24, speech_ms[-1][1] * 24, {"webrtc": scores}, finished or {}, quiet)


def test_detector_alone_decides_after_its_silence() -> None:
    """With the model off, the turn ends when the silence is long enough."""
    clip = made_trace([(200, 1_000)])
    assert first_decision(clip, setting(300)) == 1_300 * 24
    assert first_decision(clip, setting(800)) == 1_800 * 24


def test_model_ends_the_turn_earlier() -> None:
    """A sure frame in the silence ends the turn; one during speech, or an unsure one, does not."""
    sure = {frame * FRAME: 0.95 for frame in range(1, 37)}
    clip = made_trace([(200, 1_000)], sure)
    assert first_decision(clip, setting(500, 0.9, after_ms=160)) == 1_100 * 24  # the detector is late by 60
    assert first_decision(clip, setting(500, 0.99, after_ms=160)) == 1_500 * 24
    assert first_decision(made_trace([(200, 1_000)], {800 * 24: 0.95}), setting(500, 0.9)) == 1_500 * 24


def test_the_level_ends_a_turn_before_the_detector() -> None:
    """Quiet that began 100 ms before the detector's silence counts where the model is sure, and for nothing else."""
    sure = {frame * FRAME: 0.95 for frame in range(1, 37)}
    quiet = tuple(max(0, ms - 900) * 24 for ms in range(20, 3_020, 20))
    clip = replace(made_trace([(200, 1_000)], sure), quiet=quiet)
    assert first_decision(clip, setting(500, 0.9, after_ms=200)) == 1_100 * 24
    assert first_decision(clip, setting(500, 0.99, after_ms=200)) == 1_500 * 24


def test_pause_is_a_cut_in_and_delays_are_of_the_others() -> None:
    """One clip has a long pause, one is never ended; each counts in its own column."""
    plain, paused = made_trace([(200, 1_000)]), made_trace([(200, 1_000), (1_600, 2_000)])
    endless = made_trace([(200, 2_900)])
    result = measure([plain, paused, endless, plain], setting(400))
    assert (result.cut_ins.value, result.missed.value) == (0.25, 0.25)
    assert (result.median_ms.value, result.median_ms.count) == (400.0, 2)
    assert measure([paused], setting(800)).cut_ins.value == 0.0


def question(folder: Path, repo_root: Path) -> list[Recording]:
    """A real spoken question."""
    pcm, rate = soundfile.read(repo_root / "tests" / "data" / "question.wav", dtype="float32")
    assert rate == SAMPLE_RATE
    soundfile.write(folder / "a.wav", pcm, rate)
    (folder / "manifest.jsonl").write_text(json.dumps({"audio": "a.wav"}))
    return find_recordings(folder)


@pytest.mark.parametrize(("end_of_turn", "silence_ms"), [(0.0, 320), (0.95, 320), (0.95, 100)])
def test_replay_decides_when_the_daemon_does(
    tmp_path: Path, repo_root: Path, end_of_turn: float, silence_ms: int
) -> None:
    """The replayed decision falls on the chunk on which a rehearsed conversation takes it, or the detector's 32 ms."""
    config = AgentConfig(
        turn=TurnConfig(end_of_turn_threshold=0.9, end_of_turn_silence_ms=silence_ms, sure_silence_ms=silence_ms)
    )
    (recording,) = question(tmp_path, repo_root)
    engine = FakeEngine(end_of_turn=end_of_turn)
    (heard,) = hear(engine, config, recording)
    decided = first_decision(heard, Setting(config.vad, config.turn))
    (answer,) = speak(engine, config, recording)
    assert decided is not None
    assert (decided - heard.true_end) * 1000 / SAMPLE_RATE == pytest.approx(answer.decision_ms, abs=40)
    assert not answer.cut_in
    assert heard.true_end > LEAD_S * SAMPLE_RATE


def test_settings_hold_the_own_one_first_and_each_once() -> None:
    """The sweep does not repeat the daemon's own setting."""
    found = settings(AgentConfig())
    assert found[0] == Setting(AgentConfig().vad, AgentConfig().turn)
    assert len(set(map(repr, found))) == len(found)
    assert {"silero 200 ms", "silero 800 ms", "webrtc 300 ms", "webrtc 500 ms"} <= {one.name for one in found}


def test_table_and_picture(tmp_path: Path) -> None:
    """Every setting has its line, the own one a star, and the picture is a picture."""
    rows = [measure([made_trace([(200, 1_000)])], one) for one in (setting(500, 0.9), setting(300))]
    own, other, note = to_lines(rows)[1:]
    assert own.startswith("model 0.9 after 100 ms *")
    assert other.split()[:3] == ["webrtc", "300", "ms"]
    assert note.endswith("1 clips")
    plot_endpoints([row.to_json() for row in rows], tmp_path / "sub" / "a.png")
    assert (tmp_path / "sub" / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_command_prints_json(
    tmp_path: Path, repo_root: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json` without a file prints the figures, and bad input is one line."""
    question(tmp_path, repo_root)
    models = tiny_models / "models"
    where = ["--codec", str(models / "codec"), "--s2s", str(models / "s2s")]
    assert main(["--data", str(tmp_path), *where, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["endpoints"]
    assert {row["cut_ins"]["count"] for row in rows} == {1}
    assert np.isfinite([row["median_ms"]["value"] for row in rows]).all()
    assert main(["--data", str(tmp_path / "none"), *where]) == 2
    assert "neither manifest" in capsys.readouterr().err
