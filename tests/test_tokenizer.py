import json
from pathlib import Path

import pytest

from models.errors import ArtefactError, ProsodyTagError
from models.lexicon import Lexicon
from models.prosody import PROSODY_ID_BASE, PROSODY_IDS, PROSODY_TOKENS, split_marks, strip_marks
from models.tokenizer import BOS, EOS, FIRST_PIECE, FIRST_PROSODY, PAD, UNKNOWN_WORD, Tokenizer
from tests.tiny import tokenizer


@pytest.mark.parametrize(
    "text",
    ["Sure, a large latte. Anything else?", "zyxw qu'est-ce 3.75 $!", "a", "It's 12:30 (really)", 'say "hi" <now'],
)
def test_round_trip(text: str) -> None:
    """Known words, unknown words, numbers and signs all come back as they were."""
    pieces = tokenizer()
    assert pieces.decode(pieces.encode(text)) == text


def test_known_words_are_one_piece_and_others_characters() -> None:
    """A word of the training text is one id; any other is spelled, its first character carrying the space."""
    pieces = tokenizer()
    assert len(pieces.encode("latte")) == 1
    assert [pieces.piece(token) for token in pieces.encode("large xyz")] == [" large", " x", "y", "z"]


def test_characters_outside_ascii_are_dropped() -> None:
    """What has no piece does not stop the rest."""
    pieces = tokenizer()
    assert pieces.decode(pieces.encode("a \u00e9 latte")) == "a latte"


def test_concatenated_pieces_are_the_text() -> None:
    """The runtime emits piece after piece: leading spaces are part of them."""
    pieces = tokenizer()
    assert "".join(map(pieces.piece, pieces.encode("a large latte."))) == " a large latte."


def test_prosody_ids_never_meet_a_piece() -> None:
    """Prosody tokens have ids from 5,000,000 on outside and their own dense ids inside; they are silent."""
    pieces = tokenizer()
    marked = pieces.encode("a <emph>large <pause_short>latte")
    inside = [token for token in marked if FIRST_PROSODY <= token < FIRST_PIECE]
    assert [pieces.external_id(token) for token in inside] == [5_000_000, 5_000_001]
    assert pieces.decode(marked) == "a large latte"
    assert list(PROSODY_IDS.values()) == list(range(5_000_000, 5_000_007))
    outside = {pieces.external_id(token) for token in range(len(pieces))}
    assert len(outside) == len(pieces)
    assert {token for token in outside if token >= PROSODY_ID_BASE} == set(PROSODY_IDS.values())


def test_specials_are_silent() -> None:
    """PAD, BOS, EOS and ids beyond the vocabulary have no text."""
    pieces = tokenizer()
    assert [pieces.piece(token) for token in (PAD, BOS, EOS, len(pieces))] == ["", "", "", ""]


def test_unknown_tag_is_named() -> None:
    """The error names the tag that does not exist and those that do."""
    with pytest.raises(ProsodyTagError, match=r"<whisper>.*<emph>"):
        tokenizer().encode("a <whisper>latte")


def test_marks_split_and_strip() -> None:
    """Tags are found in any place; the spoken text has neither tags nor the gaps they leave."""
    text = "<pitch_high>Sure<pause_long>, a <emph>large latte<pitch_falling>."
    assert strip_marks(text) == "Sure, a large latte."
    assert "".join(piece for piece, _ in split_marks(text)) == text
    assert [piece for piece, token in split_marks("".join(PROSODY_TOKENS)) if token] == list(PROSODY_TOKENS)


def test_training_keeps_the_most_frequent_words() -> None:
    """Frequency first, then the alphabet, so that the same text gives the same ids."""
    pieces = Tokenizer.train(["bb cc aa", "cc", "dd cc"], max_words=2)
    assert pieces.pieces[-3:] == [" cc", " aa", UNKNOWN_WORD]


def test_save_and_load(tmp_path: Path) -> None:
    """A saved tokenizer is the same tokenizer."""
    tokenizer().save(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json").pieces == tokenizer().pieces


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": "repartee-tokenizer", "version": 2, "pieces": []}',
        '{"format": "other", "version": 1, "pieces": []}',
        '{"format": "repartee-tokenizer", "version": 1, "pieces": ["a"]}',
        json.dumps({"format": "repartee-tokenizer", "version": 1, "pieces": [*tokenizer().pieces, " a"]}),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str) -> None:
    """Damaged, foreign, other versions, missing characters, repeats: one error that names the file."""
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ArtefactError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """No file, the same error."""
    with pytest.raises(ArtefactError, match=r"nowhere\.json"):
        Tokenizer.load(tmp_path / "nowhere.json")


def speaker() -> Tokenizer:
    """Knows three words, the sounds of some others, and how to join sounds."""
    lexicon = Lexicon({"tree": "tɹˈi", "house": "hˈWs", "dog": "dˈɔɡ", "bus": "bˈʌs", "B": "bˈi", "Z": "zˈi"})
    singles = [lead + phone for phone in "tɹˈˌihWsdɔɡbʌzᵻ" for lead in ("", " ")]
    return Tokenizer.train(["Okay, a latte", "okay"], sounds=[*singles, " tɹˈ", "ˈWs"], lexicon=lexicon)


def written(tokenizer: Tokenizer, text: str) -> list[str]:
    """What the pieces of a text to be spoken are; sounds between slashes."""
    first = FIRST_PIECE + len(tokenizer.pieces)
    ids = [piece.token for piece in tokenizer.spoken(text)]
    return [f"/{tokenizer.sounds[token - first]}/" if token >= first else tokenizer.piece(token) for token in ids]


def test_words_that_are_no_pieces_are_spoken_by_their_sounds() -> None:
    """Known words stay whole in either case; others take the longest sounds, and only their first shows the word."""
    tokenizer = speaker()
    assert written(tokenizer, "Okay, A tree") == [" Okay", ",", " A", "/ tɹˈ/", "/i/"]
    pieces = tokenizer.spoken("Okay, A Tree")
    assert [piece.text for piece in pieces] == [" Okay", ",", " A", " Tree", ""]
    assert [piece.begins for piece in pieces] == [True, False, True, True, False]
    assert max(piece.token for piece in pieces) < len(tokenizer)


@pytest.mark.parametrize(
    ("word", "sounds"),
    [
        ("treehouse", ["/ tɹˈ/", "/i/", "/h/", "/ˌ/", "/W/", "/s/"]),  # two words written as one
        ("dog's", ["/ d/", "/ˈ/", "/ɔ/", "/ɡ/", "/z/"]),
        ("bus's", ["/ b/", "/ˈ/", "/ʌ/", "/s/", "/ᵻ/", "/z/"]),
        ("zb", ["/ z/", "/ˈ/", "/i/", "/b/", "/ˈ/", "/i/"]),  # spelt
        ("b", ["/ b/", "/ˈ/", "/i/"]),
        ("q", [" q"]),  # a letter that even the lexicon does not know is its character
    ],
)
def test_a_word_outside_the_lexicon_is_still_pronounced(word: str, sounds: list[str]) -> None:
    """As a genitive, as a compound, as its letters."""
    assert written(speaker(), word) == sounds


def test_sounds_and_lexicon_survive_saving(tmp_path: Path) -> None:
    """What is loaded speaks as what was saved; a damaged lexicon is named when it is needed."""
    speaker().save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert written(loaded, "Okay, treehouse") == written(speaker(), "Okay, treehouse")
    (tmp_path / "lexicon.txt.gz").write_bytes(b"nothing")
    with pytest.raises(ArtefactError, match=r"lexicon\.txt\.gz"):
        Tokenizer.load(tmp_path / "tokenizer.json").spoken("tree")


def test_what_a_user_types_is_words_or_unknown() -> None:
    """A typed word that the model has never heard is the unknown word, and never spelt."""
    tokenizer = speaker()
    assert tokenizer.decode(tokenizer.heard("a quick latte")) == "a … latte"


def test_the_unknown_word_is_one_piece() -> None:
    """It stands for any word of the user that the model cannot write; other text never becomes it."""
    pieces = Tokenizer.train(["a latte"])
    assert pieces.decode(pieces.encode("a") + pieces.unknown_word) == "a …"
    assert pieces.encode("a …") == pieces.encode("a") + pieces.unknown_word
    assert Tokenizer([piece for piece in pieces.pieces if "…" not in piece]).unknown_word == []
