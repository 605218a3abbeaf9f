"""The seven prosody tokens: control symbols of the text stream, with ids outside every text vocabulary.

External ids (on the wire, in data sets) start at ``PROSODY_ID_BASE``. Whatever has an id at or above it is routed to
the audio stream as a delivery control instead of being spoken. What a token acts on, its scope:

* ``<emph>``: the next word is longer, higher and louder.
* ``<pause_short>``, ``<pause_long>``: 300 or 750 ms of silence at that place, in a voice learnt from recordings as much
  as its speaker makes; none before the first word or after the last. Of several at one place the longest counts.
* ``<pitch_high>``, ``<pitch_low>``: from there to the next boundary, or to the next of the two. A boundary is a word's
  final ``, . ! ? : ;`` or the end.
* ``<pitch_rising>``, ``<pitch_falling>``: the last 300 ms before the next boundary, wherever in that phrase they
  stand, directly before its mark included. Of several in one phrase the last counts.

People put tokens where they like. :func:`canonical` moves each to the one place where the model learns and gets it,
always right before a word, so training and run time agree on the text alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from models.errors import ProsodyTagError

PROSODY_ID_BASE = 5_000_000
PROSODY_TOKENS = (
    "<emph>",
    "<pause_short>",
    "<pause_long>",
    "<pitch_high>",
    "<pitch_low>",
    "<pitch_rising>",
    "<pitch_falling>",
)
PROSODY_IDS = {token: PROSODY_ID_BASE + index for index, token in enumerate(PROSODY_TOKENS)}
EMPH = "<emph>"
PAUSES = ("<pause_short>", "<pause_long>")  # the longer one last
LEVELS = ("<pitch_high>", "<pitch_low>")
GLIDES = ("<pitch_rising>", "<pitch_falling>")

_TAG = re.compile(r"<[^<>\s]*>")
_LOOSE_PUNCTUATION = re.compile(r" ([.,;:!?])")
_LOOSE = tuple(".,;:!?")
_BOUNDARY = re.compile(r"[.,;:!?][\"')\]”’]*$")
_GLIDE_LETTERS = 6  # that a glide's token is ahead of its boundary: about half a second of speech
_DIGIT_LETTERS = 4  # a digit is read as a word


def split_marks(text: str) -> list[tuple[str, bool]]:
    """Cut a marked text into (piece, is_token) pairs, in order.

    Args:
        text: text with prosody tags in any position.

    Returns:
        Non-empty pieces; ``is_token`` is true for one of the seven tokens.

    Raises:
        ProsodyTagError: the text holds a tag that is not one of the seven.
    """
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _TAG.finditer(text):
        if match.group() not in PROSODY_IDS:
            raise ProsodyTagError(f"unknown prosody tag {match.group()} in {text!r}; known: {' '.join(PROSODY_TOKENS)}")
        if match.start() > end:
            pieces.append((text[end : match.start()], False))
        pieces.append((match.group(), True))
        end = match.end()
    if end < len(text):
        pieces.append((text[end:], False))
    return pieces


def strip_marks(text: str) -> str:
    """The text without its prosody tags, as it is spoken.

    Raises:
        ProsodyTagError: the text holds a tag that is not one of the seven.
    """
    spoken = " ".join("".join(" " if token else piece for piece, token in split_marks(text)).split())
    return _LOOSE_PUNCTUATION.sub(r"\1", spoken)


@dataclass(frozen=True, slots=True)
class PlannedWord:
    """A word and how it is to be spoken; tokens or empty strings.

    pause: before the word. level: the word is higher or lower. glide: the phrase ends with it, on its last word only.
    """

    text: str
    phrase: int
    emph: bool = False
    pause: str = ""
    level: str = ""
    glide: str = ""


def plan_delivery(text: str) -> list[PlannedWord]:
    """What the tokens of a text mean for each of its words, which are those of ``strip_marks(text).split()``.

    Raises:
        ProsodyTagError: the text holds a tag that is not one of the seven.
    """
    words: list[PlannedWord] = []
    glides: dict[int, str] = {}
    phrase, emph, pause, level = 0, False, "", ""
    for piece, is_token in split_marks(text):
        if is_token and piece in PAUSES:
            pause = max(pause, piece, key=("", *PAUSES).index)
        elif is_token and piece in LEVELS:
            level = piece
        elif is_token and piece in GLIDES:
            glides[phrase] = piece
        elif is_token:
            emph = True
        for word in () if is_token else piece.split():
            if word.startswith(_LOOSE) and words:
                words[-1] = replace(words[-1], text=words[-1].text + word)
            else:
                speaks = any(map(str.isalnum, word))
                words.append(PlannedWord(word, phrase, emph and speaks, pause if words else "", level))
                emph, pause = emph and not speaks, ""
            if _BOUNDARY.search(word):
                phrase, level = words[-1].phrase + 1, ""
    last = words[-1].phrase if words else 0
    ends = {word.phrase: index for index, word in enumerate(words)}
    for place, glide in glides.items():
        end = ends.get(min(place, last))
        if end is not None:
            words[end] = replace(words[end], glide=glide)
    return words


def place_marks(words: Sequence[PlannedWord]) -> list[tuple[str, ...]]:
    """The tokens that stand right before each word: pause, level, glide, emphasis.

    A glide's token stands before the word that begins about the last half second of its phrase.
    """
    glides = [""] * len(words)
    for index, word in enumerate(words):
        if word.glide:
            glides[_glide_start(words, index)] = word.glide
    placed = []
    for index, word in enumerate(words):
        goes_on = index and words[index - 1].phrase == word.phrase and words[index - 1].level == word.level
        level = "" if goes_on else word.level
        placed.append(tuple(filter(None, (word.pause, level, glides[index], EMPH if word.emph else ""))))
    return placed


def _glide_start(words: Sequence[PlannedWord], end: int) -> int:
    """Index of the word before which the token of a glide at the end of word ``end`` stands."""
    letters = 0
    for index in range(end, -1, -1):
        if words[index].phrase != words[end].phrase:
            return index + 1
        letters += sum(_DIGIT_LETTERS if char.isdigit() else char.isalpha() for char in words[index].text)
        if letters >= _GLIDE_LETTERS:
            return index
    return 0


def canonical(text: str) -> str:
    """The same text and meaning with every token in its canonical place; tokens that act on nothing are dropped.

    Raises:
        ProsodyTagError: the text holds a tag that is not one of the seven.
    """
    words = plan_delivery(text)
    return " ".join("".join(marks) + word.text for marks, word in zip(place_marks(words), words, strict=True))
