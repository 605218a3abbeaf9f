import numpy as np
import pytest

from training.long_alignment import (
    Heard,
    LongAlignmentError,
    TranscriptRecogniser,
    find_spans,
    lay_along,
    spell_out,
)
from training.tts import synthesise

TEXT = [
    "the",
    "quick",
    "fox",
    "jumped",
    "over",
    "a",
    "sleeping",
    "dog",
    "then",
    "it",
    "went",
    "home",
    "to",
    "eat",
    "its",
    "dinner",
    "by",
    "the",
    "fire",
]


def _heard(*pieces: str) -> list[Heard]:
    return [
        Heard(piece, word, float(at), at + 1.0)
        for piece, text in enumerate(pieces)
        for at, word in enumerate(text.split())
    ]


def test_words_are_laid_along_the_text() -> None:
    """Equal words meet; another word stands for one written, a word too many for none."""
    assert lay_along(["quick", "box", "jumped"], TEXT) == [1, 2, 3]
    assert lay_along(["the", "quick", "um", "fox"], TEXT) == [0, 1, -1, 2]
    assert lay_along([], TEXT) == []
    written = [f"w{i}" for i in range(300)]
    heard = [word for at, word in enumerate(written) if at % 7]
    assert [written[place] for place in lay_along(heard, written)] == heard


def test_laying_along_costs_the_least() -> None:
    """On random words the cost is that of the textbook's table."""
    rng = np.random.default_rng(4)
    for _ in range(30):
        heard, written = ([f"{n}" for n in rng.integers(0, 4, rng.integers(1, 9))] for _ in range(2))
        places = lay_along(heard, written)
        met = [place for place in places if place >= 0]
        assert met == sorted(set(met))
        wrong = sum(1.5 for word, place in zip(heard, places, strict=True) if place >= 0 and written[place] != word)
        cost = wrong + (len(heard) - len(met)) + (len(written) - len(met))
        table = np.add.outer(np.arange(len(heard) + 1.0), np.arange(len(written) + 1.0))
        for i, word in enumerate(heard, 1):
            for j, other in enumerate(written, 1):
                both = table[i - 1, j - 1] + 1.5 * (word != other)
                table[i, j] = min(both, table[i - 1, j] + 1, table[i, j - 1] + 1)
        assert cost == table[-1, -1]


def test_every_piece_gets_its_words() -> None:
    """Pieces in order, one with a word that was misheard."""
    spans = find_spans(_heard("the quick fox jumped over", "a sleeping frog then it", "went home to eat"), TEXT[:14], 3)
    assert [(span.first, span.end, span.reason) for span in spans] == [(0, 5, ""), (5, 10, ""), (10, 14, "")]


def test_doubtful_pieces_are_refused_with_a_reason() -> None:
    """Words at an edge that nobody heard, sound without words, and other words than the text's."""
    spans = find_spans(_heard("the quick fox", "over a sleeping dog", "", "zebra yak emu gnu", "by the fire"), TEXT, 5)
    assert "'jumped' were heard in no piece; they may belong to its end" in spans[0].reason
    assert "they may belong to its beginning" in spans[1].reason
    assert spans[2].reason == "nothing of the transcript was heard in it"
    assert spans[3].reason
    assert not spans[4].reason or "were heard in no piece" in spans[4].reason


def test_words_of_a_piece_that_is_something_else_are_not_its_own() -> None:
    """A word lost at the end of one piece and heard by chance in noise after it leaves the first piece in doubt.

    It was taken without its last word, because the noise seemed to hold that.
    """
    spans = find_spans(
        _heard("the quick fox", "dinner jumped by fire the by went home", "over a sleeping dog"), TEXT[:8], 3
    )
    assert spans[1].reason
    assert "'jumped' were heard in no piece; they may belong to its end" in spans[0].reason
    assert "they may belong to its beginning" in spans[2].reason


def test_a_missing_paragraph_costs_only_its_own_pieces() -> None:
    """What is not in the recording is skipped; pieces further on are found where they are."""
    text = [*TEXT[:8], *(f"x{i}" for i in range(30)), *TEXT[8:]]
    spans = find_spans(
        _heard("the quick fox jumped", "over a sleeping dog", "then it went home", "to eat its dinner"), text, 4
    )
    assert (spans[0].first, spans[0].end, spans[0].reason) == (0, 4, "")
    assert (spans[3].first, spans[3].end) == (42, 46)
    assert spans[1].reason
    assert spans[2].reason


def test_speech_is_heard_in_the_words_of_the_transcript() -> None:
    """A sentence out of a longer text, with a name that no dictionary has."""
    text = [*TEXT, "mister", "zorblatt", "asked", "for", "coffee"]
    recogniser = TranscriptRecogniser(text)
    assert set(recogniser.spelt) == {"zorblatt"}
    spoken = synthesise("mister zorblatt asked for coffee", "flite:slt")
    heard = recogniser.hear(3, spoken.pcm)
    assert [one.word for one in heard] == ["mister", "zorblatt", "asked", "for", "coffee"]
    assert {one.piece for one in heard} == {3}
    for one, (_, start, _) in zip(heard, spoken.words, strict=True):
        assert one.start_s == pytest.approx(start, abs=0.1)


def test_words_that_no_dictionary_has_are_spelt_out() -> None:
    """Espeak's phones as the aligner calls them."""
    assert spell_out(["zorblatt"])["zorblatt"].split()[:3] == ["Z", "AO", "R"]
    with pytest.raises(LongAlignmentError, match="no word"):
        TranscriptRecogniser([])
