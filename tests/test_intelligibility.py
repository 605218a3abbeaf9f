import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from training.domain import Domain, load_domain
from training.intelligibility import (
    IntelligibilityError,
    Pair,
    Recogniser,
    find_pairs,
    grammar_words,
    main,
    mean_opinions,
    measure,
    replies_grammar,
    spoken_words,
)
from training.tts import synthesise

TEXT = "Okay, a large dark roast latte with a lot of soy milk. Anything else?"


@pytest.fixture(scope="module")
def domain(repo_root: Path) -> Domain:
    return load_domain(repo_root / "configs" / "domains" / "coffee.yaml")


@pytest.fixture(scope="module")
def recogniser(domain: Domain) -> Recogniser:
    return Recogniser(replies_grammar(domain.spec))


def test_grammar_has_every_word_of_every_reply(domain: Domain) -> None:
    """No reply of the domain holds a word that the recogniser cannot hear."""
    known = set(grammar_words(replies_grammar(domain.spec)))
    said = {word for reply in domain.all_reply_samples(random.Random(3), 300) for word in spoken_words(reply)}
    assert said <= known


def test_silence_is_no_words(recogniser: Recogniser) -> None:
    """Nothing said, nothing heard."""
    assert recogniser.hear(np.zeros(16_000, np.float32)) == []


def test_missing_pronunciations_are_named_and_can_be_given() -> None:
    """An unknown word is an error that says which, unless its phones come along."""
    grammar = "#JSGF V1.0;\ngrammar domain;\npublic <reply> = (blorptastic | latte);\n"
    with pytest.raises(IntelligibilityError, match="no pronunciation for blorptastic;"):
        Recogniser(grammar)
    assert Recogniser(grammar, {"blorptastic": "B L AO R P T AE S T IH K"})


def test_clear_speech_is_heard_and_other_speech_is_not(recogniser: Recogniser, tmp_path: Path) -> None:
    """The teacher voice is recognised word for word; the wrong text under the same audio counts errors."""
    pcm = synthesise(TEXT, "festival:slt").pcm
    assert recogniser.hear(soxr.resample(pcm, 24_000, 16_000)) == spoken_words(TEXT)
    soundfile.write(tmp_path / "a.wav", pcm, 24_000)
    right, rows = measure(recogniser, [Pair("a", tmp_path / "a.wav", TEXT)])
    wrong, _ = measure(recogniser, [Pair("a", tmp_path / "a.wav", TEXT.replace("latte", "mocha"))])
    words = len(spoken_words(TEXT))
    assert (right.value, right.count, rows[0]["errors"]) == (0.0, words, 0)
    assert wrong.value == pytest.approx(1 / words)


def test_voices_are_compared_on_the_texts_both_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command speaks the teacher's side, measures both and writes the report."""
    agent, teacher, report = tmp_path / "agent", tmp_path / "teacher", tmp_path / "out" / "report.json"
    agent.mkdir()
    soundfile.write(agent / "a.wav", synthesise("Hello! What would you like?", "flite:slt").pcm, 24_000)
    (agent / "a.txt").write_text("<pitch_high>Hello! What would you like?")
    flags = ["--agent", str(agent), "--teacher", str(teacher), "--voice", "festival:slt", "--json", str(report)]
    assert main(flags) == 0
    assert "teacher  word errors 0.000" in capsys.readouterr().out
    assert report.is_file()
    (teacher / "a.txt").write_text("Goodbye.")
    assert main([*flags[:4], "--json", str(report)]) == 2
    assert "no text under the same name" in capsys.readouterr().err


def test_folder_without_pairs_is_an_error(tmp_path: Path) -> None:
    """An empty folder, or audio without its text, is named."""
    with pytest.raises(IntelligibilityError, match=r"no NAME\.wav"):
        find_pairs(tmp_path)
    soundfile.write(tmp_path / "a.wav", np.zeros(100, np.float32), 24_000)
    with pytest.raises(IntelligibilityError, match=r"a\.wav: its text"):
        find_pairs(tmp_path)


def test_any_text_is_spoken_and_heard(tiny_models: Path, tmp_path: Path) -> None:
    """A model says the lines of a file, its teacher too; the recogniser knows English without a grammar."""
    lines = tmp_path / "lines.txt"
    lines.write_text("a large milk\nwith a large milk\n", "utf8")
    models = ["--codec", tiny_models / "models" / "codec", "--s2s", tiny_models / "models" / "s2s"]
    where = ["--agent", tmp_path / "agent", "--teacher", tmp_path / "teacher", "--json", tmp_path / "out.json"]
    flags = ["--say", lines, *models, *where, "--open", "--voice", "hibari:heart"]
    assert main([str(flag) for flag in flags]) == 0
    report = json.loads((tmp_path / "out.json").read_text("utf8"))
    assert report["texts"] == 2
    assert report["teacher"]["word_error_rate"]["value"] < 0.5
    assert [clip["text"] for clip in report["agent"]["clips"]] == ["a large milk", "with a large milk"]
    lines.write_text("fine\n<whisper>not fine\n", "utf8")
    assert main([str(flag) for flag in flags]) == 2


def test_opinions_need_their_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is optional; without it the message says what to install."""
    monkeypatch.setitem(sys.modules, "speechmos", None)
    soundfile.write(tmp_path / "a.wav", np.zeros(2400), 24_000)
    with pytest.raises(IntelligibilityError, match="speechmos"):
        mean_opinions([Pair("a", tmp_path / "a.wav", TEXT)])


def test_opinions_prefer_speech_to_noise(tmp_path: Path) -> None:
    """Where the package is there: a clean voice is thought better of than the same voice in noise."""
    pytest.importorskip("speechmos")
    clean = synthesise(TEXT, "hibari:heart").pcm
    noisy = clean + np.random.default_rng(0).normal(0, 0.05, len(clean)).astype(np.float32)
    overall = []
    for name, pcm in (("clean", clean), ("noisy", noisy)):
        soundfile.write(tmp_path / f"{name}.wav", pcm, 24_000)
        overall.append(mean_opinions([Pair(name, tmp_path / f"{name}.wav", TEXT)])["overall"].value)
    assert overall[0] > overall[1] + 0.5
