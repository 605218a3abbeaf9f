"""The agent's side of a data set: where a reply is cut, and at which frame each of its words and tokens stands."""

import numpy as np

from models.features import FRAME_SIZE, SAMPLE_RATE
from models.prosody import PAUSES, place_marks, plan_delivery
from models.tokenizer import Tokenizer
from training.conversation import AssistantTurn

HEAD_S, TAIL_S = 0.02, 0.1
FRAME_S = FRAME_SIZE / SAMPLE_RATE

PlacedWord = tuple[list[int], float]
"""Ids of pieces and tokens, and the frame at which the first of them stands."""


def place_sounds(tokenizer: Tokenizer, text: str, start: float, end: float) -> list[PlacedWord]:
    """A spoken word: its sounds one after the other over its time, each as long as it has phones.

    So what is to be heard in a frame is always close by in the text stream, and where to be in a long word need not be
    counted. What belongs to no sound of its own (a mark, a whole word) stays with the piece before it.

    Args:
        tokenizer: with the sounds.
        text: the word as written, with the tokens right before it.
        start: the frame in which it begins.
        end: and ends.
    """
    pieces = tokenizer.spoken(text)
    lengths = [tokenizer.phones(piece.token) for piece in pieces]
    total, before = max(sum(lengths), 1), 0
    placed: list[PlacedWord] = []
    for piece, length in zip(pieces, lengths, strict=True):
        if placed and not (length and before):
            placed[-1][0].append(piece.token)
        else:
            placed.append(([piece.token], start + (end - start) * before / total))
        before += length
    return placed


def reply_audio(track: np.ndarray, turn: AssistantTurn) -> tuple[np.ndarray, float]:
    """The reply cut so that it starts HEAD_S into its first frame; (audio of whole frames, start time on the track)."""
    start_s = (turn.start_s or 0.0) - HEAD_S
    end_s = turn.end_s if turn.end_s is not None else len(track) / SAMPLE_RATE
    begin, end = round(start_s * SAMPLE_RATE), round((end_s + TAIL_S) * SAMPLE_RATE)
    pcm = track[max(begin, 0) : end]
    pcm = np.pad(pcm, (max(-begin, 0), 0))
    return np.pad(pcm, (0, -len(pcm) % FRAME_SIZE)).astype(np.float32), start_s


def spread_words(turn: AssistantTurn, tokenizer: Tokenizer, start_s: float, marked: str = "") -> list[PlacedWord]:
    """Reply words with their start frames; without times they are spread evenly over the reply.

    With ``marked``, the text with prosody tokens, a pause stands at the end of the word before it, and other tokens
    right before their word, so early that the word still comes at its own frame.

    Raises:
        ValueError: the words of ``marked`` are not those of the turn.
    """
    if turn.words:
        words = [
            (word.name, (word.start_s - start_s) / FRAME_S, (word.end_s - start_s) / FRAME_S) for word in turn.words
        ]
    else:
        texts = turn.text.split()
        length = ((turn.end_s or 0.0) - (turn.start_s or 0.0)) / FRAME_S / max(len(texts), 1)
        words = [(word, index * length, (index + 1) * length) for index, word in enumerate(texts)]
    if not marked:
        return [placed for name, start, end in words for placed in place_sounds(tokenizer, name, start, end)]
    plan = plan_delivery(marked)
    if len(plan) != len(words):
        raise ValueError(f"{marked!r} does not have the words {' '.join(name for name, _, _ in words)!r}")
    placed: list[PlacedWord] = []
    before = 0.0
    for (name, start, end), marks in zip(words, place_marks(plan), strict=True):
        placed += [(tokenizer.encode(mark), before) for mark in marks if mark in PAUSES]
        ahead = [mark for mark in marks if mark not in PAUSES]
        word = place_sounds(tokenizer, "".join(ahead) + name, start, end)
        placed += [(word[0][0], start - len(ahead)), *word[1:]]
        before = end
    return placed
