"""From the text stream of a reply to what is to be heard in each of its frames: phones over time, and delivery.

Text leads its audio by a few frames, so when a frame is made it is known which pieces begin up to ``look`` frames after
it, and so, for most pieces, where they end. In between, the phones of a piece share its time (the length regulator of
Ren et al., "FastSpeech", arXiv 1905.09263, with lengths that are still open for what is being said). Training and run
time compute this from the same row of pieces. numpy only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from models.errors import ArtefactError
from models.prosody import EMPH, GLIDES, LEVELS, PAUSES, PROSODY_TOKENS
from models.tokenizer import FIRST_PROSODY, STRESS, Tokenizer

SLOTS = 8  # a frame, for one phone each
SHOWN = 4  # frames that are shown: the one before, the frame itself, and two after it
ENDINGS = (",:;", ".!", "?")  # of phrases, told apart by how they sound
N_ACTING = len(PROSODY_TOKENS) + len(ENDINGS)
SILENT, PAUSE = 0, 1
_OPEN, _LONGEST, _LONGEST_PAUSE = 0.85, 1.6, 16.0  # frames a phone lasts: while its end is open; at most
NOTHING_EARLY: Mapping[int, int] = MappingProxyType({})
_MARKS = range(FIRST_PROSODY, FIRST_PROSODY + len(PROSODY_TOKENS))
_PAUSED = tuple(FIRST_PROSODY + PROSODY_TOKENS.index(mark) for mark in PAUSES)
_EMPH = FIRST_PROSODY + PROSODY_TOKENS.index(EMPH)
_KINDS = tuple(
    tuple(FIRST_PROSODY + PROSODY_TOKENS.index(mark) for mark in marks) for marks in (LEVELS, GLIDES)
)  # of what lasts to the next boundary, the latest of a kind counts


@dataclass(frozen=True, slots=True)
class Score:
    """What every piece of a tokenizer stands for.

    symbols: of phones, and with what stress; silence and a pause first. phones: numbers of a piece's symbols. begins:
    whether a word begins with it. ending: number of the kind of ending that it is, or -1.
    """

    symbols: tuple[str, ...]
    phones: tuple[tuple[int, ...], ...]
    begins: tuple[bool, ...]
    ending: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Score":
        """The score of a tokenizer."""
        tokens = range(len(tokenizer))
        written = [tokenizer.written(token) for token in tokens]
        ending = [next((kind for kind, marks in enumerate(ENDINGS) if text and text in marks), -1) for text in written]
        spelt = [_phones(tokenizer, token) if ending[token] < 0 else [] for token in tokens]
        symbols = ("", "pause", *sorted({symbol for phones in spelt for symbol in phones}))
        number = {symbol: index for index, symbol in enumerate(symbols)}
        phones = [
            (PAUSE,) if token in _PAUSED else tuple(number[symbol] for symbol in spelt[token]) for token in tokens
        ]
        return cls(symbols, tuple(phones), tuple(text.startswith(" ") for text in written), tuple(ending))

    def save(self, path: Path) -> None:
        """Write JSON that :meth:`load` reads, so that it can be known without the lexicon."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), "utf8")

    @classmethod
    def load(cls, path: Path) -> "Score":
        """Read a saved score.

        Raises:
            ArtefactError: the file is missing or is not a score.
        """
        try:
            data = json.loads(path.read_text("utf8"))
            phones = tuple(tuple(map(int, piece)) for piece in data["phones"])
            score = cls(
                tuple(data["symbols"]), phones, tuple(map(bool, data["begins"])), tuple(map(int, data["ending"]))
            )
            if not len(phones) == len(score.begins) == len(score.ending):
                raise ValueError("its lists differ in length")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtefactError(f"{path}: not the score of a tokenizer ({exc})") from exc
        return score


def _phones(tokenizer: Tokenizer, token: int) -> list[str]:
    """Phones of a piece, each with the stress before it."""
    text = tokenizer.written(token)
    phones: list[str] = []
    stress = ""
    for char in text if tokenizer.phones(token) else tokenizer.lexicon.lookup(text.strip()) if text.strip() else "":
        if char in STRESS:
            stress = char.strip()
        else:
            phones.append(stress + char)
            stress = ""
    return phones


def sounding(
    pieces: Sequence[int], score: Score, look: int, frames: Sequence[int], early: Mapping[int, int] = NOTHING_EARLY
) -> tuple[np.ndarray, np.ndarray]:
    """What is known of some frames of a reply when they are made.

    Args:
        pieces: the text stream, a piece a frame, PAD among them; of frame f, what follows f + ``look`` is not read.
        score: of the tokenizer.
        look: by how many frames text is ahead.
        frames: for which it is asked, in order.
        early: pitch tokens that act before their place in the text, by the frame they act from.

    Returns:
        Symbols int16 [N, SHOWN * SLOTS] of the frame before, the frame and those after it, and what acts on the frame,
        int8 [N, N_ACTING]: prosody tokens, and the ending of the phrase once it is known.
    """
    said = [(at, token) for at, token in enumerate(pieces) if score.phones[token]]
    symbols = np.full((len(frames), SHOWN * SLOTS), SILENT, np.int16)
    first = 0
    for row, frame in zip(symbols, frames, strict=True):
        begin = frame - 1
        while first + 1 < len(said) and said[first + 1][0] <= begin:
            first += 1  # it ends before what is shown
        for index in range(first, len(said)):
            start, token = said[index]
            if start > frame + look:
                break
            following = said[index + 1][0] if index + 1 < len(said) else frame + look + 1
            _fill(row, score.phones[token], start - begin, following - begin, look + 2)
    return symbols, _acting(pieces, score, look, early)[list(frames)]


def _fill(row: np.ndarray, phones: tuple[int, ...], start: int, following: int, known: int) -> None:
    """Spread phones from ``start`` to the piece that is ``following``; what begins at ``known`` is not known yet."""
    longest = start + (_LONGEST_PAUSE if phones == (PAUSE,) else _LONGEST * len(phones))
    end = min(following, longest) if following < known else max(start + _OPEN * len(phones), min(known, longest))
    length = (end - start) / len(phones)
    for index, phone in enumerate(phones):
        a, b = round((start + index * length) * SLOTS), round((start + (index + 1) * length) * SLOTS)
        if b > 0:
            row[max(a, 0) : b] = phone


def _acting(pieces: Sequence[int], score: Score, look: int, early: Mapping[int, int]) -> np.ndarray:
    """What acts on every frame, int8 [frames, N_ACTING]."""
    table = np.zeros((len(pieces), N_ACTING), np.int8)
    lasting = [0, 0]
    emphasis, ended = "", False  # whether of the next word or of this one; whether the phrase is over with this word
    for frame, token in enumerate(pieces):
        if token == _EMPH:
            emphasis = "next"
        elif score.ending[token] >= 0:
            ended = True
            table[max(frame - look, 0) :, len(PROSODY_TOKENS) + score.ending[token]] = 1
        elif score.begins[token]:
            emphasis = "this" if emphasis == "next" else ""
            table[frame:, len(PROSODY_TOKENS) :] = 0
        if ended and (token in _MARKS or score.begins[token]):
            lasting, ended = [0, 0], False
        for kind, marks in enumerate(_KINDS):
            for mark in (early.get(frame, 0), token):
                lasting[kind] = mark if mark in marks else lasting[kind]
        for mark in (*lasting, _EMPH if emphasis == "this" else 0):
            if mark:
                table[frame, mark - FIRST_PROSODY] = 1
    return table
