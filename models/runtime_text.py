"""What a step of a reply writes: the model's own piece, a script's, or a prosody token that was injected."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from models.errors import ProsodyTagError
from models.prosody import EMPH, PAUSES, PROSODY_IDS, PROSODY_TOKENS
from models.runtime_state import NEXT_WORD, NO_WORD, THIS_WORD, State
from models.sampling import greedy
from models.tokenizer import EOS, FIRST_PROSODY, PAD, SpokenPiece, Tokenizer, prosody_token

MAX_WAIT = 12  # steps after which the next piece of a script is due in any case
MAX_WAIT_FOR_WORD = 1  # steps that an injected token waits for the end of a word of several pieces
UNWRITTEN = 0.38  # a piece of a script is due once it is less likely than this to be still to come: the voice's tempo
_NOTHING = SpokenPiece(PAD, "", False)


def to_read(script: Sequence[SpokenPiece]) -> list[int]:
    """What a model reads of a text that it has to say: all but pauses.

    So it says when the next word is due without a pause, and the pause comes on top.
    """
    return [piece.token for piece in script if prosody_token(piece.token) not in PAUSES]


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
    pausing, state.pausing = state.pausing, max(state.pausing - 1, 0)
    row = logits.reshape(-1)
    waits = pausing > 1 + _marks_ahead(state.script)
    if state.owed is not None:
        piece, state.owed = (_NOTHING, state.owed) if waits else (state.owed, None)
    elif state.script is not None:
        piece = _NOTHING if waits else _follow(state.script, row, last, state, pausing > 0)
    else:
        piece = _own(row, state, tokenizer)
        if waits and piece.token != PAD:
            piece, state.owed = _NOTHING, piece
    piece, injected = _interject(_stretched(piece, state), state)
    _keep_time(piece.token, state)
    return piece, injected


def _own(row: np.ndarray, state: State, tokenizer: Tokenizer) -> SpokenPiece:
    """The likeliest piece with which the reply does not begin as it may not."""
    while True:
        text = tokenizer.piece(token := greedy(row))
        if not text or (state.said + text).strip() not in state.barred:
            return SpokenPiece(token, text, text.startswith(" "))
        row = row.copy()
        row[token] = -np.inf


def _keep_time(token: int, state: State) -> None:
    """Note what a token says about the time of what follows.

    The text is the clock of a reply: how long a word and a pause are is decided here, what they sound like is not.
    """
    mark = prosody_token(token)
    state.pausing = state.pause_steps.get(mark, state.pausing)
    state.emphasis = NEXT_WORD if mark == EMPH else state.emphasis


def _marks_ahead(script: deque[SpokenPiece] | None) -> int:
    """How many tokens stand before the next word of a script: they belong to it, not to the pause before them."""
    return 0 if script is None else next((at for at, piece in enumerate(script) if not prosody_token(piece.token)), 0)


def _stretched(piece: SpokenPiece, state: State) -> SpokenPiece:
    """The piece, or nothing where an emphasised word still goes on: it is a step longer than it would be."""
    mark = prosody_token(piece.token)
    if state.emphasis == NEXT_WORD and piece.begins and not mark:
        state.emphasis = THIS_WORD
    elif state.emphasis == THIS_WORD and (piece.begins or piece.token == EOS):
        state.emphasis, state.owed = NO_WORD, piece
        return _NOTHING
    return piece


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
    _keep_time(token, state)
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


def _follow(script: deque[SpokenPiece], row: np.ndarray, last: int, state: State, due: bool) -> SpokenPiece:
    """The next piece of a script when it is due, or the model would have written one, or after the token it belongs to.

    When that is, the model has a distribution of; the piece comes once it is likelier than ``1 - UNWRITTEN`` that it
    would have been written. To wait until one step alone is more likely than not to have it is to wait for ever where
    the model is unsure of the step.
    """
    if not script:
        state.waited += 1
        ended = greedy(row) == EOS or state.waited > MAX_WAIT
        return SpokenPiece(EOS, "", False) if ended else _NOTHING
    state.unwritten *= float(np.exp(row[PAD] - np.logaddexp.reduce(row)))
    # a word comes right after its prosody token; a pause has its silence before the next word
    marked = state.waited == 0 and state.reply_steps > 1 and prosody_token(last) not in ("", *PAUSES)
    if due or marked or state.unwritten < UNWRITTEN or state.waited >= MAX_WAIT:
        state.waited, state.unwritten = 0, 1.0
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
