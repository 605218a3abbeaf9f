from pathlib import Path

import pytest

from models.errors import ProsodyTagError
from training.marked_transcript import MarkedWord, TranscriptError, parse_transcript, read_transcript, to_text


def test_marks_belong_to_the_word_after_them() -> None:
    """Words as written and as spoken, with their marks; the text comes back as it was."""
    text = "Late-night television <pitch_low> shows, <pause_short> <emph> don't end."
    words = parse_transcript(text)
    assert [word.written for word in words] == ["Late-night", "television", "shows,", "don't", "end."]
    assert [word.spoken for word in words] == [("late", "night"), ("television",), ("shows",), ("don't",), ("end",)]
    assert [word.marks for word in words] == [(), (), ("<pitch_low>",), ("<pause_short>", "<emph>"), ()]
    assert to_text(words) == text


def test_odd_places_of_marks_and_punctuation() -> None:
    """Punctuation that stands alone, marks after the last word, curly apostrophes."""
    assert parse_transcript("Anything else<pitch_rising>?") == [
        MarkedWord("Anything", ("anything",)),
        MarkedWord("else?", ("else",), ("<pitch_rising>",)),
    ]
    assert parse_transcript("so – it’s") == [MarkedWord("so-", ("so",)), MarkedWord("it's", ("it's",))]
    assert parse_transcript("") == []


def test_figures_are_words(tmp_path: Path) -> None:
    """A file is read as it is spoken, over its lines, with its marks."""
    (tmp_path / "t.txt").write_text("Mr. Smith paid\n$3.50 for <emph> 2 lattes.")
    words = read_transcript(tmp_path / "t.txt")
    assert to_text(words) == "mister Smith paid three dollars and fifty cents for <emph> two lattes."


def test_what_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    """An unknown tag, no words, no file, no text."""
    path = tmp_path / "t.txt"
    path.write_text("fine\nnot <loud> fine\n")
    with pytest.raises(TranscriptError, match=r"t\.txt:2: unknown prosody tag <loud>"):
        read_transcript(path)
    path.write_text("<emph> ...")
    with pytest.raises(TranscriptError, match="holds no words"):
        read_transcript(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TranscriptError, match="cannot be read as UTF-8"):
        read_transcript(path)
    with pytest.raises(TranscriptError, match=r"none\.txt"):
        read_transcript(tmp_path / "none.txt")
    with pytest.raises(ProsodyTagError):
        parse_transcript("<loud> word")
