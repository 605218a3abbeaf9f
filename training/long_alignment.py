"""Which words of a long transcript are in which piece of a recording.

Every piece is recognised with a language model of the transcript alone, and what was heard of all pieces is laid
along the transcript at the least cost (Moreno et al., "A recursive algorithm for the forced alignment of very long
audio segments", ICSLP 1998, without the recursion: the pieces are short). A piece whose words are not found beyond
doubt is refused with a reason.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pocketsphinx
import soxr

from training.lexicon import pronunciations
from training.phones import SILENCE
from training.tts import SAMPLE_RATE, TtsError, synthesise

RECOGNISER_RATE = 16_000
FRAME_S = 0.01
DISCOUNT = 0.3  # of a count, for words that were not seen after one another
MATCHED_SHARE = 0.6  # of a piece's words have to be heard as written
CLAIMED_SHARE = 0.3  # below, a piece holds none of the words that it seems to: they may be its neighbours'
MAX_CELLS = 400_000_000  # of the alignment's table, a byte each: about three hours of speech


class LongAlignmentError(ValueError):
    """A transcript and a recording cannot be laid along each other."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A word that was recognised in a piece, with its seconds there."""

    piece: int
    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Span:
    """Words ``first`` to ``end`` of the transcript are in a piece; ``reason`` says why not, where it was refused."""

    first: int
    end: int
    reason: str = ""


def spell_out(words: Iterable[str]) -> dict[str, str]:
    """ARPABET of words that the dictionary lacks, as espeak-ng says them; words it cannot say are left out."""
    made = {}
    for word in sorted(set(words)):
        try:
            phones = [name for name, _, _ in synthesise(word, "espeak:en-us").phones if name != SILENCE]
        except TtsError:
            continue
        if phones:
            made[word] = " ".join(phones)
    return made


def write_language_model(words: Sequence[str], path: Path) -> None:
    """A trigram model of a text with absolute discounting and back-off (Ney et al., 1994), in the ARPA format."""
    text = ["<s>", *words, "</s>"]
    grams = [Counter(zip(*(text[k:] for k in range(n)), strict=False)) for n in (1, 2, 3)]
    grams[0].update([("<s>",), ("</s>",)])
    total = sum(grams[0].values())
    one = {gram: count / total for gram, count in grams[0].items()}
    followers = [Counter(gram[:-1] for gram in grams[n]) for n in (1, 2)]
    contexts: list[Counter[tuple[str, ...]]] = [Counter(), Counter()]
    for n in (1, 2):
        for gram, count in grams[n].items():
            contexts[n - 1][gram[:-1]] += count

    def backoff(context: tuple[str, ...]) -> float:
        """Weight of the shorter context: the mass the discount has freed."""
        n = len(context) - 1
        seen = contexts[n][context]
        return math.log10(DISCOUNT * followers[n][context] / seen) if seen else 0.0

    two = {
        gram: (count - DISCOUNT) / contexts[0][gram[:1]] + 10.0 ** backoff(gram[:1]) * one[gram[1:]]
        for gram, count in grams[1].items()
    }
    three = {
        gram: (count - DISCOUNT) / contexts[1][gram[:2]] + 10.0 ** backoff(gram[:2]) * two[gram[1:]]
        for gram, count in grams[2].items()
    }
    lines = ["\\data\\", *(f"ngram {n}={len(table)}" for n, table in enumerate((one, two, three), 1)), ""]
    for n, table in enumerate((one, two, three), 1):
        lines.append(f"\\{n}-grams:")
        for gram, share in sorted(table.items()):
            weight = f" {backoff(gram):.4f}" if n < 3 else ""
            lines.append(f"{math.log10(min(share, 1.0)):.4f} {' '.join(gram)}{weight}")
        lines.append("")
    path.write_text("\n".join([*lines, "\\end\\", ""]), "utf8")


class TranscriptRecogniser:
    """PocketSphinx that expects the words of one transcript.

    Args:
        words: what is said, in order, lower case.

    Raises:
        LongAlignmentError: none of the words can be pronounced.
    """

    def __init__(self, words: Sequence[str]) -> None:
        known = pronunciations()
        missing = {word for word in words if word not in known}
        self.spelt = spell_out(missing)
        self.unpronounced = frozenset(missing - self.spelt.keys())
        said = [word for word in words if word not in self.unpronounced]
        if not said:
            raise LongAlignmentError("no word of the transcript can be pronounced")
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "transcript.arpa"
            write_language_model(said, model)
            self._decoder = pocketsphinx.Decoder(samprate=float(RECOGNISER_RATE), lm=None, loglevel="FATAL")
            for word, phones in self.spelt.items():
                self._decoder.add_word(word, phones, True)
            self._decoder.add_lm_file("transcript", str(model))
            self._decoder.activate_search("transcript")

    def hear(self, piece: int, pcm: np.ndarray) -> list[Heard]:
        """The words in one piece, float32 [N] at 24 kHz."""
        speech = np.clip(soxr.resample(pcm, SAMPLE_RATE, RECOGNISER_RATE) * 32767, -32768, 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(speech.tobytes(), full_utt=True)
        self._decoder.end_utt()
        if self._decoder.hyp() is None:
            return []
        return [
            Heard(piece, part.word.split("(")[0], part.start_frame * FRAME_S, (part.end_frame + 1) * FRAME_S)
            for part in self._decoder.seg()
            if not part.word.startswith(("<", "[", "+"))
        ]


def lay_along(heard: Sequence[str], words: Sequence[str]) -> list[int]:
    """Least-cost alignment of what was heard with what is written.

    Returns:
        For each heard word the index of the written word it is or stands for, -1 for a word too many.

    Raises:
        LongAlignmentError: the two are too long.
    """
    rows, columns = len(heard), len(words)
    if rows * columns > MAX_CELLS:
        raise LongAlignmentError(f"{rows} heard and {columns} written words are too many: cut the recording in parts")
    numbers = {word: index for index, word in enumerate(dict.fromkeys([*words, *heard]))}
    written = np.array([numbers[word] for word in words], np.int64)
    steps = np.arange(columns + 1)
    cost: np.ndarray = steps.astype(np.float64)
    moves = np.empty((rows + 1, columns + 1), np.uint8)  # 0: these two, 1: heard too much, 2: not heard
    moves[0] = 2
    for row, word in enumerate(heard, 1):
        both = cost[:-1] + 1.5 * (written != numbers[word])
        extra = cost + 1.0
        own = extra.copy()
        own[1:] = np.minimum(own[1:], both)
        best: np.ndarray = np.minimum.accumulate(own - steps) + steps  # written words that were not heard cost 1 each
        moves[row] = np.where(best < own, 2, 1)
        moves[row, 1:][(best[1:] >= own[1:]) & (both <= extra[1:])] = 0
        cost = best
    found = [-1] * rows
    row, column = rows, columns
    while row:
        move = moves[row, column]
        if move == 0:
            found[row - 1] = int(column) - 1
        row -= move != 2
        column -= move != 1
    return found


def find_spans(heard: Sequence[Heard], words: Sequence[str], pieces: int) -> list[Span]:
    """The words of every piece. Refused are pieces without words, with too few that match, or with doubtful edges.

    Args:
        heard: all words that were recognised, in order of time.
        words: the transcript.
        pieces: how many pieces there are.
    """
    places = lay_along([one.word for one in heard], words)
    spans = [_span(heard, places, words, piece) for piece in range(pieces)]
    end = 0  # of what is accounted for
    last: int | None = None
    for piece, span in enumerate([*spans, Span(len(words), len(words))]):
        if span.first == span.end and piece < pieces:
            continue
        lost = span.first - end
        if lost > 0:
            what = f"words {' '.join(words[end : span.first][:6])!r}{' ...' if lost > 6 else ''} were heard in no piece"
            if last is not None and not spans[last].reason:
                spans[last] = Span(spans[last].first, spans[last].end, f"{what}; they may belong to its end")
            if piece < pieces and not span.reason:
                spans[piece] = Span(span.first, span.end, f"{what}; they may belong to its beginning")
        end, last = max(end, span.end), piece if piece < pieces else None
    return spans


def _span(heard: Sequence[Heard], places: Sequence[int], words: Sequence[str], piece: int) -> Span:
    mine = [(one.word, place) for one, place in zip(heard, places, strict=True) if one.piece == piece]
    placed = [place for _, place in mine if place >= 0]
    if not placed:
        return Span(0, 0, "nothing of the transcript was heard in it")
    first, end = int(placed[0]), int(placed[-1]) + 1
    right = sum(place >= 0 and word == words[place] for word, place in mine)
    share = right / max(len(mine), end - first)
    if share < MATCHED_SHARE:
        reason = f"only {share:.0%} of its words match the transcript"
        return Span(first, end, reason) if share >= CLAIMED_SHARE else Span(0, 0, reason)
    return Span(first, end)
