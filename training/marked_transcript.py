"""A marked transcript: the words of a recording as written, how they are spoken, and the prosody tokens before them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models import spoken_text
from models.errors import ProsodyTagError
from models.prosody import split_marks

_SPOKEN = re.compile(r"[a-z]+(?:'[a-z]+)*'?|[0-9]+")
_FOLD = str.maketrans({"\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{EN DASH}": "-", "\N{EM DASH}": "-"})


class TranscriptError(ValueError):
    """A transcript cannot be used; the message names the file, and the line where there is one."""


@dataclass(frozen=True, slots=True)
class MarkedWord:
    """One written word: ``marks`` stand before it, ``spoken`` is what an aligner looks for ("well-known" is two)."""

    written: str
    spoken: tuple[str, ...]
    marks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The word with its marks, as in a transcript."""
        return " ".join([*self.marks, self.written])


def parse_transcript(text: str) -> list[MarkedWord]:
    """Cut a marked text into words. A mark belongs to the word after it; marks at the very end to the last word.

    Raises:
        ProsodyTagError: the text holds a tag that is not one of the seven tokens.
    """
    words: list[MarkedWord] = []
    marks: tuple[str, ...] = ()
    for piece, is_token in split_marks(text.translate(_FOLD)):
        if is_token:
            marks += (piece,)
            continue
        for written in (word.lstrip(".,;:!?") or word for word in piece.split()):
            spoken = tuple(_SPOKEN.findall(written.lower()))
            if not spoken:  # punctuation that stands alone goes with the word before it
                if words:
                    words[-1] = MarkedWord(words[-1].written + written, words[-1].spoken, words[-1].marks)
                continue
            words.append(MarkedWord(written, spoken, marks))
            marks = ()
    if marks and words:
        words[-1] = MarkedWord(words[-1].written, words[-1].spoken, words[-1].marks + marks)
    return words


def read_transcript(path: Path) -> list[MarkedWord]:
    """The words of a transcript file; figures, money, abbreviations and the like as they are spoken.

    Raises:
        TranscriptError: it cannot be read, holds no words, or a tag is unknown; the message names file and line.
    """
    try:
        text = path.read_text("utf8")
    except (OSError, UnicodeDecodeError) as exc:
        raise TranscriptError(f"{path}: cannot be read as UTF-8 text ({exc})") from exc
    for number, line in enumerate(text.splitlines(), 1):
        try:
            split_marks(line)
        except ProsodyTagError as exc:
            raise TranscriptError(f"{path}:{number}: {exc}") from exc
    words = parse_transcript(spoken_text.spoken(text))
    if not words:
        raise TranscriptError(f"{path}: holds no words")
    return words


def to_text(words: Sequence[MarkedWord]) -> str:
    """The marked text of words, one space between them."""
    return " ".join(word.text for word in words)
