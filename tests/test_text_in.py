import re
from pathlib import Path

import numpy as np
import pytest

from agent.errors import InputError
from agent.text_in import CLAUSE_GAP_S, PAUSES_S, SENTENCE_GAP_S, TextIn, passages, speak
from models.prosody import strip_marks
from models.runtime import Engine
from models.spoken_text import spoken


@pytest.fixture(scope="module")
def engine(shipped_models: Path) -> Engine:
    return Engine.load(shipped_models / "codec", shipped_models / "s2s")


def at_most(words: int):  # type: ignore[no-untyped-def]
    return lambda text: len(text.split()) <= words


def test_sentences_are_passages() -> None:
    """Cut after each sentence, not within a figure or an abbreviation, which are words by then."""
    found = passages("Dr. No paid $4.50. Really?  Yes! <pause_long>Bye", at_most(10))
    assert [p.text for p in found] == ["doctor No paid four dollars and fifty cents.", "Really?", "Yes!", "Bye"]
    assert [p.gap_s for p in found] == [SENTENCE_GAP_S] * 3 + [SENTENCE_GAP_S + PAUSES_S["<pause_long>"]]


def test_long_sentences_are_cut_into_clauses_and_lines() -> None:
    """What does not fit is cut after a comma, and where that is not enough between words; nothing is lost."""
    text = "One two three, <emph>four five six seven eight, nine. Ten"
    found = passages(text, at_most(3))
    assert [p.text for p in found] == ["One two three,", "<emph>four five six", "seven eight,", "nine.", "Ten"]
    assert [p.gap_s for p in found][1] == CLAUSE_GAP_S
    assert " ".join(p.text for p in found) == text


def test_marks_alone_are_no_passage() -> None:
    """Nothing would be said with them."""
    assert passages("<emph> . <pause_short>", at_most(3)) == []


@pytest.mark.shipped
def test_a_long_text_is_spoken_whole(engine: Engine) -> None:
    """Longer than one reply may be: every word is told as it is spoken, and the gaps are silent."""
    text = "Okay, a large latte with soy milk. " * 8
    told: list[str] = []
    pcm = speak(engine, text, told.append)
    assert re.sub(r"\W+", " ", "".join(told)).lower().split() == re.sub(r"\W+", " ", spoken(text).lower()).split()
    silent = np.abs(pcm) < 1e-6
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], silent.astype(np.int8), [0]]))))[::2]
    assert (runs >= round(SENTENCE_GAP_S * 24_000)).sum() == 7


@pytest.mark.shipped
def test_a_conversation_in_text(engine: Engine) -> None:
    """Points are composed, with the past in mind; without points the speech model answers, and knows its own past."""
    told: list[str] = []
    text_in = TextIn(engine, None, told.append)
    assert len(text_in.answer("How do you work?", ["We listen"])) > 24_000
    text_in.answer("Where are you?", ["In town"])
    said = "".join(told)
    assert said.startswith(("Here is how we work", "here is how we work"))
    assert "and here is where we are" in said.lower()
    told.clear()
    text_in.answer("a small latte please")
    text_in.answer("what did i order")
    assert "".join(told).lower().count("small latte") == 2


@pytest.mark.shipped
def test_what_cannot_be_spoken_is_said(engine: Engine) -> None:
    """Unknown tags and empty points: one sentence, and the next question is answered."""
    text_in = TextIn(engine, None, lambda text: None)
    for points, why in ((["a <loud>latte"], "<loud>"), (["..."], "nothing to say")):
        with pytest.raises(InputError, match=why):
            text_in.answer("What?", points)
    with pytest.raises(InputError, match="nothing in"):
        speak(engine, "...", lambda text: None)
    assert text_in.answer("", ["a latte"]).size


def test_the_writer_sees_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question comes with the exchanges before it."""
    seen = []

    def write(question, points, past):  # type: ignore[no-untyped-def]
        seen.append((question, list(points), [(e.question, strip_marks(e.answer)) for e in past]))
        return f"<emph>answer {len(seen)}"

    monkeypatch.setattr("agent.text_in.speak", lambda engine, text, tell: np.zeros(1, np.float32))

    class NoEngine:
        def new_state(self) -> None:
            return None

    text_in = TextIn(NoEngine(), write, lambda text: None)  # type: ignore[arg-type]
    text_in.answer("one", ["a"])
    text_in.answer("two")
    assert seen == [("one", ["a"], []), ("two", [], [("one", "answer 1")])]
