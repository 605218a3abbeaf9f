import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from models.prosody import strip_marks
from tests.fakes import SAMPLE_RATE, speech
from training.domain import Domain, load_domain
from training.evaluation_sets import change_dialogues, digits, find_noises, noise_alone, outside, with_noise
from training.recordings import Recording, RecordingError
from training.scoring import reads_back_after_change


@pytest.fixture(scope="module")
def domain(repo_root: Path) -> Domain:
    return load_domain(repo_root / "configs" / "domains" / "coffee.yaml")


def folder_of(folder: Path, rows: list[dict[str, str]], seconds: float = 0.1) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for row in rows:
        soundfile.write(folder / row["audio"], speech(seconds), SAMPLE_RATE)
    return folder


def test_noises_hold_no_people(tmp_path: Path) -> None:
    """Kind and file name are looked at, words inside other words are not."""
    kinds = {"a": "Dog bark", "b": "Baby cry", "c": "background", "babble": "background", "d": "scrying glass"}
    rows = [{"audio": f"{name}.wav", "kind": kind} for name, kind in kinds.items()]
    assert [path.stem for path in find_noises(folder_of(tmp_path / "n", rows))] == ["a", "c", "d"]


def test_noises_of_a_plain_folder(tmp_path: Path) -> None:
    """Without a manifest every audio file is noise, unless its name says otherwise; none at all is an error."""
    (tmp_path / "sub").mkdir()
    with pytest.raises(RecordingError, match="no recording of noise"):
        find_noises(tmp_path)
    for name in ("sub/tap.wav", "dishes.wav", "people_talking.wav"):
        soundfile.write(tmp_path / name, speech(0.1), SAMPLE_RATE)
    (tmp_path / "notes.txt").write_text("")
    assert [path.name for path in find_noises(tmp_path)] == ["dishes.wav", "tap.wav"]


def test_noise_of_a_recording_is_the_same_at_every_ratio() -> None:
    """Figures of two ratios differ by the ratio alone, and not by the order or number of the recordings."""
    recordings = [Recording(name, ()) for name in "abcdef"]
    noises = [Path(f"{name}.wav") for name in "uvwxyz"]
    loud, quiet = with_noise(recordings, noises, 6.0, seed=3), with_noise(recordings[::-1], noises, 24.0, seed=3)[::-1]
    for one, other in zip(loud, quiet, strict=True):
        assert one.background is not None
        assert other.background is not None
        assert (one.background.audio, one.background.start) == (other.background.audio, other.background.start)
        assert (one.background.snr_db, other.background.snr_db) == (6.0, 24.0)
    other_seed = with_noise(recordings, noises, 6.0, seed=4)
    assert [r.background for r in other_seed] != [r.background for r in loud]


def test_digits_are_of_held_out_people(tmp_path: Path) -> None:
    """Of four people one is held out, and the number is the label."""
    names, people = ["zero", "one", "two"], ["ann", "bob", "cat", "dan"]
    rows = [{"audio": f"{who}{n}.wav", "text": n, "speaker": who} for who in people for n in names]
    found = digits(folder_of(tmp_path / "d", rows))
    assert {recording.name[:3] for recording in found} == {"dan"}
    assert {recording.turns[0].text for recording in found} == set(names)
    for recording in found:
        (turn,) = recording.turns
        assert (turn.intent, turn.slots) == ("number", {"number": turn.text})
    assert [r.name for r in digits(tmp_path / "d", 2)] == [r.name for r in found][:2]


def test_sentences_with_a_meaning_are_left_out(tmp_path: Path, domain: Domain) -> None:
    """An order among the sentences is no sentence outside the domain."""
    texts = ["The river is deep.", "Can I get a large latte?", "Goodbye!", "Nobody knows the way home."]
    rows = [{"audio": f"{i}.wav", "text": text, "speaker": f"{i % 3}"} for i, text in enumerate(texts * 3)]
    found, left_out = outside(folder_of(tmp_path / "s", rows), domain)
    assert {recording.turns[0].intent for recording in found} == {"unknown"}
    assert {recording.turns[0].text for recording in found} == {"the river is deep", "nobody knows the way home"}
    assert (len(found), left_out) == (2, 2)


def test_missing_or_foreign_manifest_is_named(tmp_path: Path) -> None:
    """The file is named, and the line."""
    with pytest.raises(RecordingError, match=r"manifest\.jsonl"):
        digits(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"audio": "a.wav"}\n3\n')
    with pytest.raises(RecordingError, match=r"manifest\.jsonl:2"):
        digits(tmp_path)


def test_noise_alone_lasts_as_long_as_asked(tmp_path: Path) -> None:
    """Every noise is heard before one is heard again."""
    folder = folder_of(tmp_path / "n", [{"audio": f"{i}.wav", "kind": "rain"} for i in range(4)], seconds=1.0)
    pieces = noise_alone(find_noises(folder), 0.1, seed=1)
    assert len(pieces) == 6
    assert len(set(pieces[:4])) == 4
    assert noise_alone(find_noises(folder), 0.1, seed=1) == pieces


@pytest.mark.parametrize("seed", [0, 5])
def test_change_dialogues_are_what_the_domain_would_answer(tmp_path: Path, domain: Domain, seed: int) -> None:
    """Each has a read-back after a change, its turns are spoken, and the seed says what and by whom."""
    first = change_dialogues(domain, 2, tmp_path, seed)
    again = change_dialogues(domain, 2, tmp_path, seed)
    for recording, other in zip(first, again, strict=True):
        assert reads_back_after_change([turn.intent for turn in recording.turns])
        assert [turn.text for turn in recording.turns] == [turn.text for turn in other.turns]
        for turn in recording.turns:
            assert turn.reply == strip_marks(turn.reply or "")
            assert len(turn.load()) > 0.2 * SAMPLE_RATE
            assert np.abs(turn.load()).max() > 0.05


def test_domain_without_such_dialogues_is_an_error(tmp_path: Path, repo_root: Path) -> None:
    """Instead of drawing for ever."""
    body = yaml.safe_load((repo_root / "configs" / "domains" / "coffee.yaml").read_text())
    body["dialogues"]["flows"] = [{"weight": 1, "turns": ["order", "add", "read_back"]}]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    with pytest.raises(RecordingError, match="no dialogue with a read-back"):
        change_dialogues(load_domain(tmp_path / "short.yaml"), 1, tmp_path)
