"""Text in, speech out: answers that are composed or written, spoken sentence by sentence."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from agent.composer import compose
from agent.errors import InputError
from agent.local import say
from agent.writer import Exchange, Writer
from models.errors import ModelError
from models.prosody import split_marks
from models.runtime import Engine, Mode
from models.spoken_text import spoken

SENTENCE_GAP_S, CLAUSE_GAP_S, WORD_GAP_S = 0.35, 0.15, 0.04
PAUSES_S = {"<pause_short>": 0.3, "<pause_long>": 0.75}
MAX_WORDS = 40  # of a passage: about 15 s, half of what one reply may take
_EDGE_S = 0.03  # of silence that stays at a passage's ends
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")
_CLAUSE_END = re.compile(r"(?<=[,;:])\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """What is spoken in one go, and the silence before it in seconds."""

    text: str
    gap_s: float


class TextIn:
    """Answers questions in text, and speaks.

    Args:
        engine: the loaded models.
        writer: writes the answers; None: the talking points are composed, and without any the speech model answers.
        tell: told the words as they are spoken.
    """

    def __init__(self, engine: Engine, writer: Writer | None, tell: Callable[[str], None]) -> None:
        self._engine = engine
        self._writer = writer
        self._tell, self._begun = tell, False
        self._past: list[Exchange] = []
        self._state = engine.new_state()  # of the speech model's own conversation

    def answer(self, question: str, points: Sequence[str] = ()) -> np.ndarray:
        """The spoken answer to the next question, float32 [n] at 24 kHz.

        Raises:
            InputError: it cannot be answered, or the answer cannot be spoken; the message says why.
        """
        self._begun = False
        if self._writer is None and not points:
            return self._converse(question)
        try:
            earlier = [exchange.question for exchange in self._past]
            text = self._writer(question, points, self._past) if self._writer else compose(question, points, earlier)
        except (ValueError, ModelError) as exc:
            raise InputError(str(exc)) from exc
        pcm = speak(self._engine, text, self._say)
        self._past.append(Exchange(question, text))
        return pcm

    def _say(self, text: str) -> None:
        self._tell(text if self._begun else text.lstrip())
        self._begun = True

    def _converse(self, question: str) -> np.ndarray:
        try:
            self._engine.read(question, self._state, say=False)
        except (ValueError, ModelError) as exc:
            raise InputError(str(exc)) from exc
        frames: list[np.ndarray] = []
        while True:
            out = self._engine.step(None, self._state, Mode.SPEAK)
            frames += [] if out.pcm is None else [out.pcm]
            if out.text:
                self._say(out.text)
            if out.done:
                return np.concatenate(frames) if frames else np.zeros(0, np.float32)


def speak(engine: Engine, text: str, tell: Callable[[str], None]) -> np.ndarray:
    """A text of any length in the agent's voice, float32 [n] at 24 kHz.

    Args:
        engine: the loaded models.
        text: may hold prosody tokens.
        tell: told the words as they are spoken.

    Raises:
        InputError: the text cannot be spoken; the message says why.
    """
    parts: list[np.ndarray] = []
    try:
        for passage in passages(text, lambda part: _fits(engine, part)):
            pcm = _trimmed(say(engine, passage.text, tell), engine.sample_rate)
            silence = np.zeros(round(passage.gap_s * engine.sample_rate), np.float32)
            parts += [silence, pcm] if parts else [pcm]
    except ModelError as exc:
        raise InputError(str(exc)) from exc
    if not parts:
        raise InputError(f"nothing in {text[:80]!r} can be spoken")
    return np.concatenate(parts)


def passages(text: str, fits: Callable[[str], bool]) -> list[Passage]:
    """Cut a text into sentences, where they do not fit into clauses, and where those do not into words.

    A pause that a passage begins with becomes silence before it.

    Raises:
        ProsodyTagError: the text holds an unknown tag.
    """
    found: list[Passage] = []
    for sentence in _cut(_SENTENCE_END, spoken(text)):
        gap_s = SENTENCE_GAP_S
        for clause in [sentence] if fits(sentence) else _cut(_CLAUSE_END, sentence):
            for part in [clause] if fits(clause) else _lines(clause, fits):
                words, pause_s = _without_leading_pause(part)
                if re.search(r"\w", "".join(piece for piece, is_mark in split_marks(words) if not is_mark)):
                    found.append(Passage(words, gap_s + pause_s))
                gap_s = WORD_GAP_S
            gap_s = CLAUSE_GAP_S
    return found


def _cut(end: re.Pattern[str], text: str) -> list[str]:
    places = [0, *(match.end() for match in end.finditer(text)), len(text)]
    return [part for begin, stop in pairwise(places) if (part := text[begin:stop].strip())]


def _lines(text: str, fits: Callable[[str], bool]) -> list[str]:
    """As many words a line as fit."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        lines[-1:] = [longer] if lines and fits(longer) else [*lines[-1:], word]
    return lines


def _without_leading_pause(text: str) -> tuple[str, float]:
    pause_s = 0.0
    for piece, is_mark in split_marks(text):
        if is_mark and piece in PAUSES_S:
            pause_s = max(pause_s, PAUSES_S[piece])
            text = text.replace(piece, "", 1)
        elif not is_mark and piece.strip():
            break
    return text.strip(), pause_s


def _fits(engine: Engine, text: str) -> bool:
    if len(text.split()) > MAX_WORDS:
        return False
    try:
        engine.pieces(text)
    except ValueError:
        return len(text.split()) == 1  # it will be said what is wrong with it
    return True


def _trimmed(pcm: np.ndarray, rate: int) -> np.ndarray:
    """Without the silence at both ends, but for a moment: what is 40 dB below the loudest 10 ms."""
    size = rate // 100
    blocks = pcm[: len(pcm) // size * size].reshape(-1, size)
    power = np.square(blocks, dtype=np.float64).mean(axis=1)
    sounding = np.flatnonzero(power > max(1e-9, power.max(initial=0.0) * 1e-4))
    if not sounding.size:
        return pcm
    edge = round(_EDGE_S * rate)
    return pcm[max(0, sounding[0] * size - edge) : (sounding[-1] + 1) * size + edge]
