import re

import pytest

from agent.composer import compose
from models.errors import ProsodyTagError
from models.prosody import split_marks, strip_marks

POINTS = ["We <emph>guarantee results", "Fast delivery"]


def test_question_and_points() -> None:
    """The example of the documentation, as it is spoken and as it is marked."""
    text = compose("What makes you different?", POINTS)
    assert strip_marks(text) == "Here is what makes us different. We guarantee results. And fast delivery."
    assert "We <emph>guarantee results." in text
    assert text.endswith("<pitch_falling>delivery.")


@pytest.mark.parametrize(
    ("question", "opening"),
    [
        ("How do you work?", "Here is how we work."),
        ("why should I choose you", "Here is why you should choose us."),
        ("Where are you?", "Here is where we are."),
        ("What can you do for me?", "Here is what we can do for you."),
        ("What does it cost?", ""),  # it would have to be "costs"
        ("What are your hours?", ""),  # where the subject ends is not known
        ("Do you have milk?", ""),
        ("What? Really?", ""),
        ("", ""),
    ],
)
def test_the_question_is_taken_up_where_that_is_safe(question: str, opening: str) -> None:
    """A question is turned round when its grammar is simple; else the points alone are the answer."""
    said = strip_marks(compose(question, ["By listening"]))
    assert said == f"{opening} By listening.".strip()


def test_later_answers_know_that_they_are_later() -> None:
    """What was asked before changes how the next answer begins, and nothing else does."""
    assert compose("How do you work?", ["We listen"], ["Who are you?"]).startswith("And here is how we work.")
    assert compose("How do you work?", ["We listen"]) == compose("How do you work?", ["We listen"])


def test_points_stay_in_order_with_their_marks() -> None:
    """Every word and mark of every point is there, in order, whatever stands between them."""
    points = ["- <pitch_low>Open <emph>daily", "2) no  queues", "NASA brews, it does", "Is that <pitch_rising>all?"]
    text = compose("Why?", points)
    at = 0
    for point in ("pen <emph>daily", "queues", "NASA brews, it does", "s that <pitch_rising>all?"):
        at = text.index(point, at) + len(point)
    assert text.index("<pitch_low>") < text.index("pen <emph>daily")
    assert "<pitch_falling>" not in text  # the last point ends in a way of its own
    said = strip_marks(text)
    assert said == "First, open daily. Then, no queues. Also, NASA brews, it does. And finally, is that all?"


def test_prosody_where_people_use_it() -> None:
    """A pause before each sentence but the first, weight on a word that has it, and the voice falls at the end."""
    text = compose("How do you work?", ["We never sleep", "Coffee for $2", "We listen"])
    sentences = re.split(r"(?<=[.!?]) ", text)
    assert [s.startswith("<pause_short>") for s in sentences] == [False, True, True, True]
    assert "<emph>never" in text
    assert "<emph>$2" in text
    assert sum(is_mark for _, is_mark in split_marks(text)) == 3 + 2 + 1


def test_names_keep_their_capital() -> None:
    """The first word of a point is written small inside a sentence, unless it may be a name."""
    said = strip_marks(compose("", ["Fast service", "NASA uses us", "Blue Mountain coffee", "I check it", "A smile"]))
    assert "First, fast" in said
    assert "NASA" in said
    assert "Blue Mountain" in said
    assert "I check" in said
    assert "a smile" in said


def test_nothing_to_say_and_unknown_tags() -> None:
    """Points without words are none; a tag that does not exist is named."""
    with pytest.raises(ValueError, match="nothing to say"):
        compose("Why?", ["", " - ", "<emph>"])
    with pytest.raises(ProsodyTagError, match="<loud>"):
        compose("Why?", ["<loud>Because"])
