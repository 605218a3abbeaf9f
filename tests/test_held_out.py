import json
from pathlib import Path

import pytest
import soundfile

from models.checkpoint import write_json
from tests.tiny import speech_like
from training.conversation import AssistantTurn, Conversation, Turn, UserTurn, write_conversation
from training.held_out import find_samples, training_files


def _people(folder: Path, speakers: int, clips: int = 2) -> Path:
    """A manifest folder: ``clips`` recordings of each speaker, one second, at another rate and in stereo."""
    (folder / "audio").mkdir(parents=True)
    rows = []
    for index in range(speakers * clips):
        pcm = speech_like(1.0, index)
        soundfile.write(folder / "audio" / f"{index:03d}.wav", [[x, x] for x in pcm[::2]], 12_000)
        rows.append({"audio": f"audio/{index:03d}.wav", "text": f"Clip {index}!", "speaker": f"s{index // clips:02d}"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _codec(folder: Path, audio: str, max_seconds: float) -> Path:
    """The record of a codec whose acoustic part heard ``audio`` and whose decoder heard nothing of it."""
    folder.mkdir()
    for part, heard in (("acoustic", [f"human={audio}:0.2"]), ("decoder", ["agent=elsewhere/*/assistant.wav"])):
        provenance = {"audio": str(heard), "max_seconds": str(max_seconds), "seed": "0"}
        write_json(folder / f"{part}.json", {"format": "repartee-codec", "version": 1, "provenance": provenance})
    return folder


def _conversations(folder: Path) -> Path:
    for index, split in enumerate(["train", "valid", "valid"]):
        turns = tuple(
            Turn(UserTurn(f"user {index}", start_s=0.0, end_s=0.8), AssistantTurn(text, start_s=1.0, end_s=2.0))
            for text in ("the same", f"own {index}")
        )
        track = speech_like(3.2, index)
        write_conversation(folder, Conversation(f"conv_{index}", "coffee", split, turns), track, track)
    return folder


def test_people_who_validate_are_taken_and_nobody_else(tmp_path: Path) -> None:
    """Of twelve speakers the validation ones, mono at 24 kHz with their texts; training reads the others."""
    folder = _people(tmp_path / "people", 12)
    chosen = find_samples(str(folder), 99)
    assert chosen.name == "people"
    assert {sample.name for sample in chosen.samples} == {"000", "001", "020", "021"}
    assert {len(sample.pcm) for sample in chosen.samples} == {23_040}
    assert "clip 20" not in {sample.text for sample in chosen.samples}  # texts hold words only
    trained = {path.stem for path in training_files(str(folder), 0)}
    assert trained == {f"{index:03d}" for index in range(24)} - {"000", "001", "020", "021"}
    assert len(find_samples(str(folder), 3).samples) == 3


def test_clips_in_the_codecs_record_are_left_out(tmp_path: Path) -> None:
    """A codec that read the first seconds of a folder is measured on the rest of it; the record may be moved."""
    folder = _people(tmp_path / "one", 1, 20)
    for number, audio in enumerate(["one/audio", str(folder / "audio")]):
        codec = _codec(tmp_path / f"codec_{number}", audio, 3.5)
        plain = find_samples(str(folder / "audio"), 99, codec)
        heard = {path.stem for path in training_files(str(folder / "audio"), 0)[:4]}
        assert {sample.name for sample in plain.samples} == {f"{index:03d}" for index in range(20)} - heard
        assert plain.chosen == "all clips, 4 trained-on left out"
    other = _codec(tmp_path / "other", "two/audio", 3.5)
    assert len(find_samples(str(folder / "audio"), 99, other).samples) == 20


def test_a_set_that_was_all_heard_says_so(tmp_path: Path) -> None:
    """It is measured all the same."""
    folder = _people(tmp_path / "one", 12)
    chosen = find_samples(f"name={folder}", 99, _codec(tmp_path / "codec", "one/audio", 1e9))
    assert chosen.name == "name"
    assert "ALL heard in training" in chosen.chosen
    assert len(chosen.samples) == 4


def test_conversations_give_each_sentence_of_the_validation_split_once(tmp_path: Path) -> None:
    """The agent's side by default, the user's by pattern; cut out of the track by their times."""
    folder = _conversations(tmp_path)
    chosen = find_samples(f"agent={folder}", 99)
    assert sorted(str(sample.text) for sample in chosen.samples) == ["own 1", "own 2", "the same"]
    assert {len(sample.pcm) for sample in chosen.samples} == {24_000}
    users = find_samples(f"user={folder}/*/user.wav", 99)
    assert sorted(str(sample.text) for sample in users.samples) == ["user 1", "user 2"]
    assert {len(sample.pcm) for sample in users.samples} == {19_200}
    only_train = find_samples(f"agent={folder}/conv_0/assistant.wa*", 99)
    assert only_train.chosen == "conversations of split train"


def test_heard_conversations_are_left_out(tmp_path: Path) -> None:
    """Training on sound reads conversations of every split; those it read are no evidence."""
    folder = _conversations(tmp_path / "talks")
    read = training_files(f"{folder}/*/assistant.wav", 0)
    codec = _codec(tmp_path / "codec", "talks/*/assistant.wav", 4.0)  # two tracks
    chosen = find_samples(f"agent={folder}", 99, codec)
    unheard = {"conv_1", "conv_2"} - {path.parent.name for path in read[:2]}
    assert unheard
    assert {sample.name.rpartition("_")[0] for sample in chosen.samples} == unheard
    assert "ALL heard" in find_samples(str(folder), 99, _codec(tmp_path / "all", "talks/*/assistant.wav", 99)).chosen


def test_plain_folders_take_their_texts_along(tmp_path: Path) -> None:
    """A text beside a recording is its text; what is too short to measure is passed over."""
    for name, seconds in (("a", 1.0), ("b", 1.0), ("short", 0.2)):
        soundfile.write(tmp_path / f"{name}.wav", speech_like(seconds), 24_000)
    (tmp_path / "a.txt").write_text("Hello.")
    texts = {sample.name: sample.text for sample in find_samples(str(tmp_path), 99).samples}
    assert texts == {"a": "Hello.", "b": None}


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    """No audio, nothing long enough, a broken file, a manifest without audio."""
    with pytest.raises(ValueError, match=r"nothing: no audio files"):
        find_samples(str(tmp_path / "nothing"), 5)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"broken\.wav: cannot be read as audio"):
        find_samples(str(tmp_path), 5)
    soundfile.write(tmp_path / "broken.wav", speech_like(0.2), 24_000)
    with pytest.raises(ValueError, match=r"no clip lasts 0\.5 s"):
        find_samples(str(tmp_path), 5)
    (tmp_path / "manifest.jsonl").write_text('{"text": "no audio"}\n')
    with pytest.raises(ValueError, match=r"manifest\.jsonl: a line is no object with 'audio'"):
        find_samples(str(tmp_path), 5)
