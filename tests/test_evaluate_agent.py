import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.config import AgentConfig
from agent.turn import TurnConfig
from streaming.vad import VadConfig
from tests.fakes import SAMPLE_RATE, FakeEngine, silence, speech
from training.answers import Answer, Exchange, leading_silence_ms, pair, report, save_audio, to_json, to_lines
from training.domain import Domain, load_domain
from training.engine_pool import speak as speak_to
from training.evaluate_agent import main
from training.recordings import Background, Recording, Utterance, find_recordings

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


def speak(recordings: list[Recording], engine: FakeEngine) -> list[list[Answer]]:
    return [speak_to(engine, CONFIG, recording) for recording in recordings]


def test_answer_carries_reply_audio_and_times(tmp_path: Path) -> None:
    """A clip is answered after the detector's silence, on the sample clock, with the reply's text and audio."""
    recordings = command(tmp_path, np.concatenate([silence(0.4), speech(0.8), silence(0.2)]), {})
    engine = FakeEngine(reply_frames=10, words=LATTE)
    ((answer,),) = speak(recordings, engine)
    assert (answer.reply, answer.cut_in, answer.interrupted) == (LATTE, False, 0)
    assert len(answer.pcm) == 10 * 1920
    assert answer.decision_ms == pytest.approx(400, abs=61)
    assert answer.first_audio_ms is not None
    assert 0 < answer.first_audio_ms < 5000


def test_engine_hears_what_a_daemon_would_feed_it(tmp_path: Path) -> None:
    """Frames are heard in order, each before the next chunk is spoken, although time is simulated."""
    recordings = command(tmp_path, np.concatenate([silence(0.4), speech(0.8), silence(0.2)]), {})
    engine = FakeEngine(step_s=0.002)
    speak(recordings, engine)
    (state,) = engine.states
    assert state.listened >= 12
    assert len(engine.threads) == 1


def test_pause_longer_than_the_silence_is_a_cut_in(tmp_path: Path) -> None:
    """Speech after the decision makes it a cut-in; the reply to the whole is what counts."""
    pcm = np.concatenate([silence(0.4), speech(0.8), silence(0.8), speech(0.6), silence(0.2)])
    ((answer,),) = speak(command(tmp_path, pcm, {}), FakeEngine(reply_frames=40, words=LATTE))
    assert answer.cut_in
    assert answer.interrupted == 1
    assert answer.reply == LATTE
    assert answer.decision_ms is not None
    assert answer.decision_ms > 0


def test_silence_is_not_answered(tmp_path: Path, domain: Domain) -> None:
    """Without speech there is no reply, and the clip counts as not understood."""
    recordings = command(tmp_path, silence(0.5), {"size": "large"})
    answers = speak(recordings, FakeEngine())
    result = report(domain, pair(recordings, answers))
    assert answers[0][0].answered is False
    assert (result["answered"].value, result["by_reply"]["understood"].value) == (0.0, 0.0)


def test_turns_of_a_conversation_share_a_session(tmp_path: Path, domain: Domain) -> None:
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
    exchanges = pair(recordings, speak(recordings, engine))
    result = report(domain, exchanges)
    assert len(engine.states) == 1
    assert [row["reply_right"] for row in result["clips"]] == [True, False]
    assert (result["turns"], result["reply_right"].value, result["answered"].value) == (2, 0.5, 1.0)
    assert "read_back_right_after_change" not in result


def test_report_scores_reply_and_transcript_apart(tmp_path: Path, domain: Domain) -> None:
    """The reply names the slots, the fake's transcript does not; the report is JSON and text."""
    recordings = command(
        tmp_path, np.concatenate([silence(0.4), speech(0.8)]), {"size": "large", "coffeeDrink": "latte"}
    )
    exchanges = pair(recordings, speak(recordings, FakeEngine(words=LATTE)))
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


def test_background_is_heard_all_the_time(tmp_path: Path) -> None:
    """Noise is in every frame that the model gets, before, during and after the speech."""
    soundfile.write(tmp_path / "noise.wav", 0.01 * speech(1.0), SAMPLE_RATE)
    (plain,) = command(tmp_path, np.concatenate([silence(0.4), speech(0.8), silence(0.3)]), {})
    noisy = dataclasses.replace(plain, background=Background(tmp_path / "noise.wav", 0.3, 40.0))
    engine = FakeEngine()
    (without,), (with_noise,) = speak([plain, noisy], engine)
    assert [len(state.heard) > 12 for state in engine.states] == [True, True]
    quiet, loud = (min(float(np.abs(frame).max()) for frame in state.heard) for state in engine.states)
    assert (quiet == 0.0, loud > 1e-4) == (True, True)
    assert with_noise.reply == without.reply


def exchange(recording: str, turn: int, intent: str, expected: str | None, answer: Answer) -> Exchange:
    utterance = Utterance(Path("a.wav"), 0.0, None, None, intent, None, expected)
    return Exchange(recording, turn, utterance, answer)


def said(text: str, *before: str) -> Answer:
    return Answer(text, pcm=speech(0.1), replies=(*before, text) if text else before)


@pytest.mark.parametrize(
    ("answer", "declined", "no_order"),
    [
        (said("Sorry, I can only help with coffee."), True, True),
        (said("Hello! What would you like?"), False, True),
        (said("Okay, a latte. Anything else?"), False, False),
        (said("Okay, I canceled your order."), False, False),
        (said("Sorry, I can only help with coffee.", "Okay, a large la", "Okay, a mocha."), True, False),
        (said(""), False, True),
    ],
    ids=["declined", "other", "item", "action", "item before", "silent"],
)
def test_foreign_sentence_is_declined_or_at_least_orders_nothing(
    domain: Domain, answer: Answer, declined: bool, no_order: bool
) -> None:
    """Only the reply of the unknown intent declines; any reply of the turn that names an item or acts is an order."""
    result = report(domain, [exchange("a", 1, "unknown", None, answer)])
    assert (result["declined"].value, result["no_order"].value) == (declined, no_order)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("You ordered a large latte and a mocha.", True),
        ("You ordered a large latte and a mocha and a mocha.", False),
        ("You ordered a latte and a mocha.", False),
        ("So that is a large latte and a mocha. Is that right?", False),
    ],
)
def test_read_back_after_a_change_has_every_item_right(domain: Domain, reply: str, right: bool) -> None:
    """The last turn is a read-back, and every item counts; other turns and dialogues without a change do not."""
    whole = "You ordered a large latte and a mocha."
    changed = [
        exchange("a", 1, "order", "Okay, a latte and a mocha. Anything else?", said("no")),
        exchange("a", 2, "change", "Okay, now a large latte. Anything else?", said("no")),
        exchange("a", 3, "read_back", whole, said(reply)),
    ]
    unchanged = [exchange("b", turn, "read_back", whole, said(whole)) for turn in (1, 2, 3)]
    result = report(domain, changed + unchanged)
    figure = result["read_back_right_after_change"]
    assert (figure.count, figure.value) == (1, float(right))
    by_intent = result["reply_right_by_intent"]
    assert (by_intent["change"].value, by_intent["read_back"].count) == (0.0, 4)


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


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--data", "a", "--suite", "b"],
        ["--data", "a", "--snr", "6"],
        ["--dialogues", "3", "--via", "openai"],
        ["--data", "a", "--as", "digits", "--save", "b"],
        ["--data", "a", "--workers", "0"],
    ],
)
def test_flags_that_contradict_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What would be ignored is an error instead."""
    with pytest.raises(SystemExit) as end:
        main(flags)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err
