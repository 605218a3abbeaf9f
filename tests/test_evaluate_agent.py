import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.config import AgentConfig
from agent.turn import TurnConfig
from streaming.vad import VadConfig
from tests.fakes import SAMPLE_RATE, FakeEngine, silence, speech
from training.answers import Answer, leading_silence_ms, pair, report, save_audio, to_json, to_lines
from training.domain import Domain, load_domain
from training.evaluate_agent import answer_with_engine, main
from training.recordings import Recording, find_recordings

CONFIG = AgentConfig(
    vad=VadConfig(detector="energy", silence_duration_ms=400), turn=TurnConfig(end_of_turn_threshold=2.0)
)
LATTE = "Okay, a large latte. Anything else?"


@pytest.fixture(scope="module")
def domain(repo_root: Path) -> Domain:
    return load_domain(repo_root / "configs" / "domains" / "coffee.yaml")


def command(folder: Path, pcm: np.ndarray, slots: dict[str, str]) -> list[Recording]:
    soundfile.write(folder / "a.wav", pcm, SAMPLE_RATE)
    row = {"audio": "a.wav", "intent": "orderDrink", "slots": slots}
    (folder / "manifest.jsonl").write_text(json.dumps(row))
    return find_recordings(folder)


async def speak(recordings: list[Recording], engine: FakeEngine) -> list[list[Answer]]:
    return await answer_with_engine(engine, CONFIG, recordings, lambda: None)


async def test_answer_carries_reply_audio_and_times(tmp_path: Path) -> None:
    """A clip is answered after the detector's silence, on the sample clock, with the reply's text and audio."""
    recordings = command(tmp_path, np.concatenate([silence(0.4), speech(0.8), silence(0.2)]), {})
    engine = FakeEngine(reply_frames=10, words=LATTE)
    ((answer,),) = await speak(recordings, engine)
    assert (answer.reply, answer.cut_in, answer.interrupted) == (LATTE, False, 0)
    assert len(answer.pcm) == 10 * 1920
    assert answer.decision_ms == pytest.approx(400, abs=61)
    assert answer.first_audio_ms is not None
    assert 0 < answer.first_audio_ms < 5000


async def test_engine_hears_what_a_daemon_would_feed_it(tmp_path: Path) -> None:
    """Frames are heard in order, each before the next chunk is spoken, although time is simulated."""
    recordings = command(tmp_path, np.concatenate([silence(0.4), speech(0.8), silence(0.2)]), {})
    engine = FakeEngine(step_s=0.002)
    await speak(recordings, engine)
    (state,) = engine.states
    assert state.listened >= 12
    assert len(engine.threads) == 1


async def test_pause_longer_than_the_silence_is_a_cut_in(tmp_path: Path) -> None:
    """Speech after the decision makes it a cut-in; the reply to the whole is what counts."""
    pcm = np.concatenate([silence(0.4), speech(0.8), silence(0.8), speech(0.6), silence(0.2)])
    ((answer,),) = await speak(command(tmp_path, pcm, {}), FakeEngine(reply_frames=40, words=LATTE))
    assert answer.cut_in
    assert answer.interrupted == 1
    assert answer.reply == LATTE
    assert answer.decision_ms is not None
    assert answer.decision_ms > 0


async def test_silence_is_not_answered(tmp_path: Path, domain: Domain) -> None:
    """Without speech there is no reply, and the clip counts as not understood."""
    recordings = command(tmp_path, silence(0.5), {"size": "large"})
    answers = await speak(recordings, FakeEngine())
    result = report(domain, pair(recordings, answers))
    assert answers[0][0].answered is False
    assert (result["answered"].value, result["by_reply"]["understood"].value) == (0.0, 0.0)


async def test_turns_of_a_conversation_share_a_session(tmp_path: Path, domain: Domain) -> None:
    """Two turns are spoken one after the other to the same state, each answered."""
    folder = tmp_path / "conv_000001"
    folder.mkdir()
    soundfile.write(
        folder / "user.wav", np.concatenate([silence(0.4), speech(0.8), silence(1.0), speech(0.8)]), SAMPLE_RATE
    )
    turns = [
        {"user": {"text": "hello", "start_s": 0.4, "end_s": 1.2}, "assistant": {"text": LATTE}},
        {"user": {"text": "hello", "start_s": 2.2, "end_s": 3.0}, "assistant": {"text": "Goodbye."}},
    ]
    (folder / "meta.json").write_text(json.dumps({"id": "conv_000001", "turns": turns}))
    recordings = find_recordings(tmp_path)
    engine = FakeEngine(words=LATTE)
    exchanges = pair(recordings, await speak(recordings, engine))
    result = report(domain, exchanges)
    assert len(engine.states) == 1
    assert [row["reply_right"] for row in result["clips"]] == [True, False]
    assert (result["turns"], result["reply_right"].value, result["answered"].value) == (2, 0.5, 1.0)


async def test_report_scores_reply_and_transcript_apart(tmp_path: Path, domain: Domain) -> None:
    """The reply names the slots, the fake's transcript does not; the report is JSON and text."""
    recordings = command(
        tmp_path, np.concatenate([silence(0.4), speech(0.8)]), {"size": "large", "coffeeDrink": "latte"}
    )
    exchanges = pair(recordings, await speak(recordings, FakeEngine(words=LATTE)))
    result = report(domain, exchanges)
    assert result["by_reply"]["understood"].value == 1.0
    assert result["by_transcript"]["understood"].value == 0.0
    plain = json.loads(json.dumps(to_json(result)))
    assert plain["clips"][0]["wrong_by_transcript"] == ["size", "coffeeDrink", "intent"]
    assert plain["by_reply"]["per_slot"]["size"]["value"] == 1.0
    assert any(line.split()[:2] == ["understood", "1.000"] for line in to_lines(result))
    save_audio(exchanges, tmp_path / "answers")
    assert (tmp_path / "answers" / "a-1.txt").read_text() == LATTE
    assert soundfile.info(tmp_path / "answers" / "a-1.wav").samplerate == SAMPLE_RATE


def test_silence_before_the_voice_is_counted() -> None:
    """Audio that begins with silence is heard later than it is sent."""
    assert leading_silence_ms(np.concatenate([silence(0.1), speech(0.3)])) == 100.0
    assert leading_silence_ms(silence(0.3)) is None
    answer = Answer("hi", pcm=np.concatenate([silence(0.1), speech(0.3)]), decision_ms=200.0, first_audio_ms=50.0)
    assert answer.audible_ms == 350.0


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder or missing models end with a sentence, not with a traceback."""
    assert main(["--data", str(tmp_path)]) == 2
    assert "neither manifest" in capsys.readouterr().err
    command(tmp_path, speech(0.1), {})
    assert main(["--data", str(tmp_path), "--codec", str(tmp_path), "--s2s", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
