"""What a step of a reply writes: the model's own piece, a script's, or a prosody token that was injected."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from models.errors import ProsodyTagError
from models.prosody import PAUSES, PROSODY_IDS, PROSODY_TOKENS
from models.runtime_state import State
from models.sampling import greedy
from models.tokenizer import EOS, FIRST_PIECE, FIRST_PROSODY, PAD, SpokenPiece, Tokenizer

MAX_WAIT = 12  # steps after which the next piece of a script is due in any case
MAX_WAIT_FOR_WORD = 1  # steps that an injected token waits for the end of a word of several pieces
_NOTHING = SpokenPiece(PAD, "", False)


def next_piece(logits: np.ndarray, last: int, state: State, tokenizer: Tokenizer) -> tuple[SpokenPiece, bool]:
    """The piece to write now.

    Args:
        logits: of the text, [..., V], a single position.
        last: internal id of the piece before.
        state: the session's; its script, what was injected and what is owed change.
        tokenizer: of the ids.

    Returns:
        The piece, and whether it was injected.
    """
    if state.owed is not None:
        piece, state.owed = state.owed, None
    elif state.script is not None:
        piece = _follow(state.script, logits.reshape(-1), last, state)
    else:
        text = tokenizer.piece(token := greedy(logits))
        piece = SpokenPiece(token, text, text.startswith(" "))
    return _interject(piece, state)


def enter_now(text: np.ndarray, state: State) -> str:
    """Let the first injected token take the place of the nothing that was written last, before the model reads it.

    Args:
        text: the step's input, int64 [1, 1]; changed in place.
        state: the session's; ``injected`` changes.

    Returns:
        The token's name, empty when there is none or its place is taken.
    """
    if not state.injected or state.owed is not None or int(text[0, 0]) != PAD:
        return ""
    token = state.injected.popleft()
    text[:] = token
    return prosody_token(token)


def internal_ids(tokens: Sequence[str]) -> list[int]:
    """Internal ids of prosody tokens.

    Raises:
        ProsodyTagError: one is none of the seven; the message names it and the known ones.
    """
    for token in tokens:
        if token not in PROSODY_TOKENS:
            raise ProsodyTagError(f"unknown prosody token {token[:40]!r}; known: {' '.join(PROSODY_TOKENS)}")
    return [FIRST_PROSODY + PROSODY_TOKENS.index(token) for token in tokens]


def read_tokens(tokens: Sequence[str | int]) -> tuple[str, ...]:
    """Prosody tokens by name from names or external ids.

    Raises:
        ProsodyTagError: one is none of the seven; the message names it and the known ones.
    """
    names = {number: name for name, number in PROSODY_IDS.items()}
    named = tuple(names.get(token, str(token)) if isinstance(token, int) else token for token in tokens)
    internal_ids(named)
    return named


def prosody_token(token: int) -> str:
    """The name of a prosody token's internal id, empty for any other piece."""
    return PROSODY_TOKENS[token - FIRST_PROSODY] if FIRST_PROSODY <= token < FIRST_PIECE else ""


def _follow(script: deque[SpokenPiece], row: np.ndarray, last: int, state: State) -> SpokenPiece:
    """The next piece of a script when the model would write one now, or right after the token that it belongs to."""
    if not script:
        state.waited += 1
        ended = greedy(row) == EOS or state.waited > MAX_WAIT
        return SpokenPiece(EOS, "", False) if ended else _NOTHING
    others = np.logaddexp.reduce(np.delete(row, PAD))
    # a word comes right after its prosody token; a pause has its silence before the next word
    marked = state.waited == 0 and state.reply_steps > 1 and prosody_token(last) not in ("", *PAUSES)
    if marked or others > row[PAD] or state.waited >= MAX_WAIT:
        state.waited = 0
        return script.popleft()
    state.waited += 1
    return _NOTHING


def _interject(piece: SpokenPiece, state: State) -> tuple[SpokenPiece, bool]:
    """The injected token that takes this step, or ``piece``, what the step would write.

    It stands right before a word that begins now, as in training, takes an empty step, or waits for the end of a word.
    The piece whose place it takes is owed: it is written in the next step that no other one takes.
    """
    if not state.injected or piece.token == EOS:
        return piece, False
    goes_on = piece.token != PAD and not piece.begins
    if goes_on and state.put_off < MAX_WAIT_FOR_WORD:
        state.put_off += 1
        return piece, False
    if piece.token != PAD:
        state.owed = piece
    injected = SpokenPiece(state.injected.popleft(), "", True)
    state.put_off = MAX_WAIT_FOR_WORD if state.injected else 0  # the others follow at once
    return injected, True
