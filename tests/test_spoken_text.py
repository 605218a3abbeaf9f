import re
from pathlib import Path

import pytest

from agent.domain.domain_file import read_domain_file
from models.errors import ProsodyTagError
from models.prosody import strip_marks
from models.spoken_text import spoken

CASES = {
    "$4.50 at 10:30": "four dollars and fifty cents at ten thirty",
    "$0.50, $1, $1,200 and $3.5 million": (
        "fifty cents, one dollar, one thousand two hundred dollars and three point five million dollars"
    ),
    "\u20ac2 or \u00a31.01": "two euros or one pound and one penny",
    "7am, 10:00 p.m., 14:00, 9:05": "seven a m, ten p m, fourteen hundred, nine oh five",
    "2026-11-21, 1999, 2005": "november twenty first, twenty twenty six, nineteen ninety nine, two thousand five",
    "Fast delivery 24/7 \u2014 99.9% uptime": "Fast delivery twenty four seven, ninety nine point nine percent uptime",
    "call 555-1234 or 0800123": "call five five five one two three four or zero eight zero zero one two three",
    "2-3 days, 10\u201320 min": "two to three days, ten to twenty minutes",
    "12 oz, 1 oz, 1.5 l, 5 km/h": "twelve ounces, one ounce, one point five liters, five kilometers per hour",
    "1st, 22nd and 3/4": "first, twenty second and three quarters",
    "Dr. Smith vs. Mr. Jones": "doctor Smith versus mister Jones",
    "tea, e.g. Earl Grey, etc.": "tea, for example Earl Grey, and so on.",
    "USB, OK? NASA": "U S B, okay? NASA",
    "2 lattes & 1 mocha": "two lattes and one mocha",
    "me@example.com": "me at example dot com",
    "caf\u00e9 na\u00efve \u201cquotes\u201d it\u2019s": "cafe naive quotes it's",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \U0001f600": "Privet ",
    "-5\u00b0C, \u00bd off": "minus five degrees celsius, one half off",
    "room 007, 1,000,000": "room zero zero seven, one million",
    "(really) great [yes].": "really, great, yes.",
    "no. 5 is #1": "no. five is number one",
    "<pitch_low>Only $5<pause_short>, 50% off": "<pitch_low>Only five dollars<pause_short>, fifty percent off",
    "\u2026 please wait\u2026": "\u2026 please wait.",
    "9" * 400: " ".join(["nine"] * 400),
    "1," * 200 + "000": None,
}


@pytest.mark.parametrize(("text", "words"), CASES.items(), ids=[text[:30] for text in CASES])
def test_figures_and_signs_are_words(text: str, words: str | None) -> None:
    """As a reader would say them; what is left has no figure and no sign, and is said as it stands."""
    said = spoken(text)
    assert words is None or said == words
    assert spoken(said) == said
    assert not any(char.isdigit() or char in "$%&@#*_+=/" for char in strip_marks(said))


def test_words_of_the_domain_stay(repo_root: Path) -> None:
    """What the agent says and remembers is words already."""
    spec, _ = read_domain_file(repo_root / "configs" / "domains" / "coffee.yaml")
    for reply in spec.replies.values():
        filled = re.sub(r"{\w+}", "latte", reply)
        assert spoken(filled) == filled
        assert spoken(strip_marks(filled)) == strip_marks(filled)


def test_an_unknown_tag_is_named() -> None:
    """It is no word, and nobody knows what it was to do."""
    with pytest.raises(ProsodyTagError, match="<loud>"):
        spoken("a <loud>latte")
