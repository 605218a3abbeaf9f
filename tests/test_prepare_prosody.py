from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from models.prosody import PROSODY_IDS
from training import prepare_prosody, segment_audio
from training.marked_transcript import MarkedWord, parse_transcript
from training.prepare_prosody import Clip, DatasetError, drift, pause_lengths, read_dataset, stray_speech
from training.spoken_words import SpokenWord
from training.tts import Utterance, synthesise

MARKED = [
    "The weather in the mountains <pitch_low> changed before the evening.",
    "<emph> Nobody had told the old captain about the broken engine.",
    "Our neighbors keep a yellow parrot <pause_short> and two small dogs.",
    "A long train carried <pitch_high> apples across the wide river.",
]
NOT_WRITTEN = "please remember to close every window tonight"
NOT_SPOKEN = "Seven hungry sailors sang about golden islands and whales."


@dataclass
class Prepared:
    """Where a data set is, and what was said in its sentences."""

    folder: Path
    spoken: list[Utterance]


def _prepare(folder: Path, name: str, *more: str) -> None:
    where = ["--transcript", f"{folder}/transcript.txt", "--segments", f"{folder}/segments"]
    prepare_prosody.main([*where, "--output", f"{folder}/{name}", *more])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A recording with a sentence that is not in its transcript, and the other way round, made ready."""
    folder = tmp_path_factory.mktemp("voice")
    said = [" ".join(part for word in parse_transcript(text) for part in word.spoken) for text in MARKED]
    spoken = [synthesise(text, "flite:slt") for text in [*said, NOT_WRITTEN]]
    pause = np.zeros(28_800, np.float32)
    sf.write(folder / "recording.wav", np.concatenate([part for one in spoken for part in (one.pcm, pause)]), 24_000)
    (folder / "transcript.txt").write_text(" ".join([*MARKED, NOT_SPOKEN]))
    segment_audio.main([f"{folder}/recording.wav", "--output", f"{folder}/segments"])
    _prepare(folder, "prosody_dataset.json")
    _prepare(folder, "proposed.json", "--propose")
    return Prepared(folder, spoken[:4])


def test_segments_get_their_text_and_times(prepared: Prepared) -> None:
    """Each sentence with its marks; words are where the synthesiser put them, marks where their words begin."""
    dataset = read_dataset(prepared.folder / "prosody_dataset.json")
    items = {item["text"]: item for item in (*dataset["train"], *dataset["validation"])}
    for text, truth in list(zip(MARKED, prepared.spoken, strict=True))[:3]:
        item = items[text]
        assert item["duration"] == pytest.approx(sf.info(item["audio_file"]).duration, abs=0.001)
        shift = item["words"][0]["start_s"] - truth.words[0][1]
        for word, (_, start, _) in zip(item["words"], truth.words, strict=True):
            assert word["start_s"] - shift == pytest.approx(start, abs=0.1)
        (token,) = item["prosody_tokens"]
        marked = next(word for word in parse_transcript(text) if word.marks)
        assert token["token"] == marked.marks[0]
        assert token["id"] == PROSODY_IDS[token["token"]] >= 5_000_000
        assert item["words"][token["word"]]["word"] == marked.written
        assert token["time"] == item["words"][token["word"]]["start_s"]
        assert token["source"] == "transcript"


def test_what_is_in_one_alone_is_refused(prepared: Prepared) -> None:
    """The sentence nobody wrote down is left out with a reason, and the one nobody said is in no text."""
    dataset = read_dataset(prepared.folder / "prosody_dataset.json")
    refused = {row["id"]: row["reason"] for row in dataset["refused"]}
    assert set(refused) == {"segment_004", "segment_005"}
    assert "'seven hungry sailors sang about golden'" in refused["segment_004"]
    assert all(refused.values())
    texts = " ".join(item["text"] for item in (*dataset["train"], *dataset["validation"]))
    assert "sailors" not in texts
    assert dataset["drift"]["times_ms"] < 100.0


def test_marks_can_be_proposed(prepared: Prepared) -> None:
    """Measured marks are added, those of the transcript kept; the proposed transcript says both and can be used."""
    before = read_dataset(prepared.folder / "prosody_dataset.json")
    after = read_dataset(prepared.folder / "proposed.json")
    for old, new in zip(before["train"], after["train"], strict=True):
        kept = [(mark["token"], mark["word"]) for mark in new["prosody_tokens"] if mark["source"] == "transcript"]
        assert kept == [(mark["token"], mark["word"]) for mark in old["prosody_tokens"]]
    measured = [m for item in after["train"] for m in item["prosody_tokens"] if m["source"] == "measured"]
    whole = parse_transcript((prepared.folder / "proposed_transcript.txt").read_text())
    given = parse_transcript((prepared.folder / "transcript.txt").read_text())
    assert [word.written for word in whole] == [word.written for word in given]
    assert sum(len(word.marks) for word in whole) >= len(measured) + 3


def test_a_text_of_another_recording_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    """Nothing is guessed: the error asks whether the text belongs to the recording."""
    (tmp_path / "other.txt").write_text("purple giraffes dance quietly beneath enormous silver umbrellas")
    where = ["--segments", f"{prepared.folder}/segments", "--output", f"{tmp_path}/d.json"]
    with pytest.raises(SystemExit, match="is it the text of this recording"):
        prepare_prosody.main(["--transcript", f"{tmp_path}/other.txt", *where])
    assert not (tmp_path / "d.json").exists()
    with pytest.raises(SystemExit, match=r"none\.txt"):
        prepare_prosody.main(["--transcript", f"{tmp_path}/none.txt", *where])


def test_a_missing_part_shows_as_drift() -> None:
    """Four segments of two seconds; where half of the text is in none, the last is 3 s from its place."""
    rows = [{"id": f"{n}", "duration": 2.0} for n in range(4)]
    empty = (np.zeros(0), np.zeros(0))
    clips = [Clip(row, [], first, [], [], (), empty, -0.02) for row, first in zip(rows, (0, 5, 10, 15), strict=True)]
    assert drift(clips, rows, 20) == {"place_s": 0.0, "times_ms": 20.0}
    assert drift(clips, rows, 40) == {"place_s": 3.0, "times_ms": 20.0}


def test_pauses_are_as_long_as_the_speaker_makes_them() -> None:
    """Eight short ones of .3 s after a comma, where .1 s is usual; a single long one tells nothing."""

    def clip(gap: float, *tokens: str) -> tuple[list[SpokenWord], list[MarkedWord]]:
        first, second = (SpokenWord(name, 0.0, 0.0, gap, None, None, 0.0, 1.0) for name in ("so,", "it"))
        return [first, second], [replace(parse_transcript(name)[0], marks=tokens) for name in ("so,", "it")]

    plain, short, long = clip(0.1, "<emph>"), clip(0.3, "<pause_short>", "<emph>"), clip(0.9, "<pause_long>")
    assert pause_lengths(*zip(plain, *[short] * 8, long, strict=True)) == {"<pause_short>": 0.2}
    assert pause_lengths(*zip(plain, *[short] * 7, strict=True)) == {}
    shorter = clip(0.05, "<pause_short>")  # than where nothing is marked: still a pause
    assert pause_lengths(*zip(plain, *[shorter] * 8, strict=True)) == {"<pause_short>": 0.01}


def test_sound_around_the_words_is_noticed() -> None:
    """A second of tone before the first word and a half after the last."""
    tone = 0.3 * np.sin(np.arange(24_000) / 20).astype(np.float32)
    pcm = np.concatenate([tone, np.zeros(24_000, np.float32), tone, tone[:12_000]])
    assert list(stray_speech(pcm, 2.0, 3.0)) == pytest.approx([1.0, 0.5], abs=0.06)


def test_a_wrong_data_set_is_told(tmp_path: Path) -> None:
    """No file, other JSON, audio that is gone."""
    path = tmp_path / "d.json"
    with pytest.raises(DatasetError, match=r"d\.json: not a data set"):
        read_dataset(path)
    path.write_text('{"format": "other"}')
    with pytest.raises(DatasetError, match="format 'other'"):
        read_dataset(path)
    path.write_text('{"format": "repartee-prosody-dataset", "version": 1, "pauses": {"<pause_long>": 9.0}}')
    with pytest.raises(DatasetError, match=r"'<pause_long>' of 9\.0 s"):
        read_dataset(path)
    item = '{"id": "a", "audio_file": "a.wav", "duration": 1.0, "words": [{}]}'
    path.write_text(f'{{"format": "repartee-prosody-dataset", "version": 1, "train": [{item}], "validation": []}}')
    with pytest.raises(DatasetError, match=r"a: .*a\.wav is missing"):
        read_dataset(path)
