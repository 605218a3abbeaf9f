from pathlib import Path

import numpy as np
import pytest

from models.runtime import Engine, Mode
from models.sampling import NO_GUESS, likelier_word, median
from models.tokenizer import FIRST_PIECE, PAD
from tests.tiny import speech_like, tokenizer

PIECES = tokenizer()
LATTE = PIECES.encode("latte")[0]


@pytest.mark.parametrize(("chances", "level"), [((0.4, 0.3, 0.3), 1), ((0.6, 0.0, 0.4), 0), ((0.1, 0.2, 0.7), 2)])
def test_the_median_level_has_half_of_the_chances_at_or_below(chances: tuple[float, ...], level: int) -> None:
    """Where the likeliest level is not sure, the one in the middle is taken."""
    assert median(np.log(np.array(chances) + 1e-9)) == level


def _logits(pad: float, **pieces: float) -> np.ndarray:
    logits = np.full(FIRST_PIECE + 4, -9.0)
    logits[PAD] = pad
    for name, value in pieces.items():
        logits[FIRST_PIECE + int(name[1:])] = value
    return logits


def test_a_word_that_was_never_sure_is_the_best_of_all_frames() -> None:
    """Beside nothing, frame by frame; tokens that are no words do not count."""
    guess = likelier_word(_logits(5.0, w1=1.0), NO_GUESS)
    guess = likelier_word(_logits(5.0, w2=3.0), guess)
    guess = likelier_word(_logits(9.0, w3=4.0), guess)
    assert guess == (-2.0, FIRST_PIECE + 2)
    prosody = _logits(5.0)
    prosody[PAD + 1 : FIRST_PIECE] = 4.9
    assert likelier_word(prosody, guess) == guess


def test_after_a_word_there_is_nothing_to_guess() -> None:
    """Until the next turn."""
    assert likelier_word(_logits(5.0, w1=1.0), None) is None


def test_a_reply_to_a_turn_without_words_answers_the_likeliest(tiny_models: Path) -> None:
    """It is told as heard with the reply's first step, once; after a turn with words nothing is."""
    engine = Engine.load(tiny_models / "models" / "codec", tiny_models / "models" / "s2s")
    engine.most_ways = 1
    state = engine.new_state()
    engine.step(speech_like(0.1)[:1920], state, Mode.LISTEN)
    state.guess, state.transcript = (-3.0, LATTE), PAD
    assert engine.step(None, state, Mode.SPEAK).user_text == " latte"
    assert state.guess == NO_GUESS
    assert engine.step(None, state, Mode.SPEAK).user_text == ""
    engine.step(speech_like(0.1)[:1920], state, Mode.LISTEN)
    state.guess = None
    assert engine.step(None, state, Mode.SPEAK).user_text == ""


def test_a_reply_that_nobody_asked_for_hears_nothing(tiny_models: Path) -> None:
    """There was no turn."""
    engine = Engine.load(tiny_models / "models" / "codec", tiny_models / "models" / "s2s")
    assert engine.step(None, engine.new_state(), Mode.SPEAK).user_text == ""
