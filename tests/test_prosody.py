"""Prosody tokens: what they mean for each word of a text, and the one place where the model learns and gets them."""

import random

import pytest

from models.errors import ProsodyTagError
from models.prosody import PROSODY_TOKENS, canonical, plan_delivery, strip_marks
from training.random_marks import add_marks, mark_lines

SENTENCES = (
    "Okay, a large latte with soy milk. Anything else?",
    "Great, your order is coming right up.",
    "hello jennifer - nice to meet you",
    "it costs 12 dollars",
)


@pytest.mark.parametrize(
    ("written", "moved"),
    [
        ("Anything else<pitch_rising>?", "<pitch_rising>Anything else?"),
        ("Anything <pitch_rising> else?", "<pitch_rising>Anything else?"),
        ("is coming right <pitch_falling>up.", "is coming <pitch_falling>right up."),
        ("that is <pitch_falling>all, thanks", "<pitch_falling>that is all, thanks"),
        ("<pitch_falling>it is done. Good", "it <pitch_falling>is done. Good"),
        ("it is done.<pitch_falling>", "it <pitch_falling>is done."),
        ("Great<pause_short>, your order", "Great, <pause_short>your order"),
        ("one <pause_long><pause_short> two", "one <pause_long>two"),
        ("<pause_long>one two<pause_short>.", "one two."),
        ("a <emph> - b", "a - <emph>b"),
        ("one two <emph>", "one two"),
        ("one<pitch_high>, two", "one, two"),
        ("one <pitch_high>two <pitch_high>three, four", "one <pitch_high>two three, four"),
        ("one <pitch_high>two <pitch_low>three", "one <pitch_high>two <pitch_low>three"),
        ("<pitch_rising>one two<pitch_falling>!", "<pitch_falling>one two!"),
        ("<emph><pitch_low><pause_short>no", "<pitch_low><emph>no"),
    ],
)
def test_every_token_has_one_place(written: str, moved: str) -> None:
    """Tokens are where they act, before a word; those that act on nothing are gone, and nothing moves twice."""
    assert canonical(written) == moved
    assert canonical(moved) == moved


def test_scopes() -> None:
    """Emphasis is for one word, a level lasts to the boundary, a glide is on the phrase's last word."""
    plan = plan_delivery("So <emph>that <pitch_low>is a <pause_long>mocha, and<pitch_rising> a tea?")
    assert [word.text for word in plan] == ["So", "that", "is", "a", "mocha,", "and", "a", "tea?"]
    assert [word.emph for word in plan] == [False, True, *[False] * 6]
    assert [word.level for word in plan] == ["", "", *["<pitch_low>"] * 3, "", "", ""]
    assert [word.pause for word in plan] == [*[""] * 4, "<pause_long>", "", "", ""]
    assert [word.glide for word in plan] == [*[""] * 7, "<pitch_rising>"]
    assert [word.phrase for word in plan] == [0] * 5 + [1] * 3


def test_random_tokens_keep_text_and_meaning() -> None:
    """Wherever tokens stand, the words are those without them, and moving tokens changes the meaning of no word."""
    rng = random.Random(3)
    for _ in range(400):
        text = rng.choice(SENTENCES)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text) + 1)
            if text[:at].count("<") == text[:at].count(">"):
                text = text[:at] + rng.choice(PROSODY_TOKENS) + text[at:]
        moved = canonical(text)
        assert strip_marks(moved) == strip_marks(text)
        assert plan_delivery(moved) == plan_delivery(text)
        assert canonical(moved) == moved


def test_unknown_tokens_are_named() -> None:
    """A typing error is no word."""
    with pytest.raises(ProsodyTagError, match="<pich_high>"):
        canonical("a <pich_high>b")


def test_lines_are_marked_evenly() -> None:
    """All seven tokens about equally often, one to three a line, the other lines as they were, some with twins."""
    lines = [f"{text} {index}" for index in range(150) for text in SENTENCES]
    made = mark_lines(lines, 0.6, random.Random(1))
    marked = [line for line in made if "<" in line]
    assert set(map(strip_marks, made)) == set(lines)
    assert len(marked) == pytest.approx(0.6 * len(lines), rel=0.1)
    plain = {line for line in made if "<" not in line}
    assert sum(strip_marks(line) in plain for line in marked) == pytest.approx(len(marked) / 2, rel=0.15)
    counts = [sum(line.count(token) for line in marked) for token in PROSODY_TOKENS]
    assert min(counts) > 0.85 * max(counts)
    assert {sum(line.count(token) for token in PROSODY_TOKENS) for line in marked} == {1, 2, 3}
    assert all(canonical(line) == line for line in marked)
    assert add_marks("hello", ["<pause_long>"], random.Random(0)) == "hello"
