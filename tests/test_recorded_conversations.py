"""Conversations made of recorded people."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.tiny import run_main
from training import recorded_conversations
from training.conversation import read_conversation
from training.domain import load_domain
from training.recorded_conversations import choose, trim

DOMAIN = Path("configs/domains/coffee.yaml")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Four speakers say digits and sentences; half a second of sound in a second of silence."""
    folder = tmp_path / "people"
    folder.mkdir()
    rows = []
    for speaker in "abcd":
        for number, text in enumerate(("one", "two", "three", "it rains a lot in spring", "a large latte please")):
            pcm = np.zeros(8000, np.float32)
            pcm[2000:6000] = 0.2 * np.sin(np.arange(4000) * (0.1 + 0.02 * number))
            name = f"{speaker}{number}.wav"
            soundfile.write(folder / name, pcm, 8000)
            rows.append({"audio": name, "text": text, "speaker": speaker})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    return folder


def test_what_can_be_answered_is_chosen(people: Path) -> None:
    """Digits alone and in strings of one speaker, sentences outside the domain; nothing that names a drink."""
    clips = choose(people, load_domain(DOMAIN), 0, random.Random(1))
    texts = [clip.text for clip in clips]
    assert texts.count("it rains a lot in spring") == 4
    assert not any("latte" in text for text in texts)
    singles = [clip for clip in clips if len(clip.audio) == 1 and clip.text in ("one", "two", "three")]
    strings = [clip for clip in clips if len(clip.audio) > 1]
    assert len(singles) == 12
    assert sum(len(clip.audio) for clip in strings) in range(8, 13)
    for clip in strings:
        assert len({Path(path).name[0] for path in clip.audio}) == 1
        assert len(clip.text.split()) == len(clip.audio)
    assert {Path(clip.audio[0]).name[0] for clip in clips if clip.split == "valid"} == {"d"}


def test_exchanges_are_written_as_conversations(people: Path, tmp_path: Path) -> None:
    """Speech without its silence, the reply of the domain after it, times that fit; a second run makes nothing new."""
    flags = ["--recordings", people, "--domain", DOMAIN, "--output_dir", tmp_path / "out", "--workers", 1]
    run_main(recorded_conversations.main, *flags, "--limit", 6)
    made = sorted((tmp_path / "out").glob("conv_*"))
    assert len(made) == 6
    for folder in made:
        conversation = read_conversation(folder)
        (turn,) = conversation.turns
        user, agent = conversation.load_audio()
        assert turn.user.start_s is not None
        assert turn.user.end_s is not None
        assert turn.assistant.start_s is not None
        assert turn.user.end_s - turn.user.start_s >= 0.45
        assert turn.assistant.start_s > turn.user.end_s + 0.3
        assert np.abs(user[: round(turn.user.start_s * 24_000) - 10]).max() == 0.0
        assert np.abs(agent).max() > 0.1
        expected = "You said" if turn.user.intent == "number" else "Sorry, I can only help with coffee."
        assert turn.assistant.text.startswith(expected)
    before = {folder: (folder / "meta.json").stat().st_mtime_ns for folder in made}
    run_main(recorded_conversations.main, *flags, "--limit", 6)
    assert before == {folder: (folder / "meta.json").stat().st_mtime_ns for folder in made}


def test_trim_keeps_what_is_loud() -> None:
    """Both ends are cut 30 dB below the loudest 20 ms; silence stays as it is."""
    pcm = np.zeros(24_000, np.float32)
    pcm[4800:9600] = 0.5
    assert len(trim(pcm)) == 4800
    assert len(trim(np.zeros(4800, np.float32))) == 4800
