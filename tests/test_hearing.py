"""What a session hears in several ways at once, until what follows tells which of them it was."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models import runtime_state
from models.hearing import MARGIN, MOST_WAYS, PAD_BONUS, Way, branch, go_on
from models.runtime import Engine, Mode
from models.runtime_state import BLOCKED, State
from models.sampling import NO_GUESS
from models.tokenizer import FIRST_PIECE, PAD
from tests.tiny import WINDOW, speech_like

FRAME = 1920
ONE, TWO, SIX = FIRST_PIECE, FIRST_PIECE + 1, FIRST_PIECE + 2


@pytest.fixture(scope="module")
def engine(tiny_models: Path) -> Engine:
    """The toy models as they are shipped."""
    return Engine.load(tiny_models / "models" / "codec", tiny_models / "models" / "s2s")


def _logits(**shares: float) -> np.ndarray:
    """Of a frame in which nothing (``pad``), ``one``, ``two`` and ``six`` are so likely."""
    row = np.full(FIRST_PIECE + 4, -30.0)
    for name, share in shares.items():
        row[{"pad": PAD, "one": ONE, "two": TWO, "six": SIX}[name]] = math.log(share)
    row[PAD] -= PAD_BONUS
    return row


def _frames(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(speech_like(count * 0.08 + 0.01, seed).reshape(-1, FRAME)[:count])


def test_one_way_takes_the_likeliest_piece() -> None:
    """As it is, without the bonus for no word."""
    row = _logits(pad=0.45, one=0.55)
    row[PAD] += PAD_BONUS / 2
    assert go_on([0.0], [()], row[None], 1) == [(0, ONE, 0.0)]


def test_what_follows_tells_which_word_it_was() -> None:
    """The less likely word wins when only it goes on well; nothing is told until then."""
    ways, told = branch([Way()], _logits(one=0.6, six=0.4)[None], 3)
    assert ([way.pieces for way in ways], told) == ([(ONE,), (SIX,)], ())
    after = np.stack([_logits(pad=0.5, two=0.5), _logits(two=1.0)])
    ways, told = branch(ways, after, 3)
    assert (ways[0].pieces, told) == ((SIX, TWO), ())
    for _ in range(2):  # nothing goes on well after the others
        nothing = np.zeros_like(after[0])
        ways, told = branch(ways, np.stack([_logits(pad=1.0), *[nothing] * (len(ways) - 1)]), 3)
    assert (len(ways), told) == (1, (SIX, TWO))


def test_the_same_words_at_another_time_are_one_way() -> None:
    """Their probabilities add up, and the likelier of them goes on."""
    ways, _ = branch([Way()], _logits(pad=0.7, one=0.3)[None], 3)
    assert [way.pieces for way in ways] == [(), (ONE,)]
    after = go_on([way.score for way in ways], [way.pieces for way in ways],
                  np.stack([_logits(one=0.9, pad=0.1), _logits(pad=1.0)]), 3)  # fmt: skip
    total = {(0, ONE): 0.7 * 0.9 + 0.3, (0, PAD): 0.7 * 0.1}
    assert [(parent, piece) for parent, piece, _ in after] == list(total)
    assert after[1][2] == pytest.approx(math.log(total[0, PAD] / total[0, ONE]))


def test_unlikely_ways_are_given_up() -> None:
    """No more than so many, none that is unlikelier than the margin allows."""
    assert len(go_on([0.0], [()], _logits(pad=0.3, one=0.3, two=0.2, six=0.2)[None], 3)) == 3
    unlikely = math.exp(-MARGIN) * 0.9
    assert len(go_on([0.0], [()], _logits(pad=1.0 - unlikely, one=unlikely)[None], 3)) == 1


def test_a_guess_is_of_a_way_without_words() -> None:
    """What a way holds if it holds any word, although another way has written it."""
    ways, _ = branch([Way()], _logits(pad=0.5, one=0.4, two=0.1)[None], 2)
    assert ways[1].guess is None
    assert ways[0].guess is not None
    assert ways[0].guess == pytest.approx((math.log(0.8) + PAD_BONUS, ONE))


Script = Sequence[Sequence[tuple[int, int]]]  # of each frame: each way's parent and piece


def _scripted(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """Let ways go on as this says, whatever is heard."""
    frames = iter(script)

    def told_to(ways: Sequence[Way], logits: np.ndarray, most: int) -> tuple[list[Way], tuple[int, ...]]:
        after = []
        for parent, piece in next(frames):
            way = ways[parent]
            pieces = way.pieces if piece == PAD else (*way.pieces, piece)
            after.append(Way(0.0, pieces, way.slots, piece, way.recent, NO_GUESS, way.end_of_turn))
        return after, ()

    monkeypatch.setattr(runtime_state, "branch", told_to)


def _window(state: State) -> dict[str, np.ndarray]:
    used = state.step.inputs["mask"][0, 0, 0, :-1] > BLOCKED
    return {"used": used} | {
        name: window[:, :, : state.position].copy()
        for name, window in state.step.inputs.items()
        if name.startswith(("keys_", "values_"))
    }


def test_ways_that_share_a_window_do_not_meet(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that is left has the window of a session that never knew of another, and goes on as that one does."""
    forked = [[(0, PAD), (0, ONE)], [(1, TWO), (0, PAD), (0, SIX)], [(1, ONE), (0, PAD)], [(1, PAD)], [(0, SIX)]]
    alone = [[(0, ONE)], [(0, TWO)], [(0, PAD)], [(0, PAD)], [(0, SIX)]]
    windows, words = [], []
    for script in (forked, alone):
        state = engine.new_state()
        _scripted(monkeypatch, script)
        outs = [engine.step(pcm, state, Mode.LISTEN) for pcm in _frames(5)]
        assert state.transcript == SIX
        assert state.position == 5
        windows.append(_window(state))
        monkeypatch.undo()
        words.append("".join(out.user_text for out in outs))
        outs = [engine.step(None, state, Mode.SPEAK) for _ in range(8)]
        windows[-1] |= {"said": np.stack([out.pcm for out in outs if out.pcm is not None])}
    for name, window in windows[1].items():
        np.testing.assert_allclose(windows[0][name], window, atol=1e-5, err_msg=name)


def test_words_are_told_once(engine: Engine) -> None:
    """Those that all ways have at once, the others when it is decided, or with the reply's first step."""
    frames = _frames(12)
    states = [engine.new_state(), engine.new_state()]
    texts = ["".join(engine.step(pcm, state, Mode.LISTEN).user_text for pcm in frames) for state in states]
    assert texts[0] == texts[1]
    assert len(states[0].ways) > 1, "the toy model is sure of what it hears"
    rest = engine.decide(states[0])
    assert rest
    assert engine.decide(states[0]) == ""
    assert engine.step(None, states[1], Mode.SPEAK).user_text == rest
    assert engine.step(None, states[0], Mode.SPEAK).user_text == ""


def test_a_copy_goes_on_in_all_ways(engine: Engine) -> None:
    """And neither knows what the other hears then."""
    frames, other = _frames(9), _frames(4, 3)
    state = engine.new_state()
    for pcm in frames[:5]:
        engine.step(pcm, state, Mode.LISTEN)
    assert len(state.ways) > 1, "the toy model is sure of what it hears"
    copy = engine.copy(state)
    for pcm in other:
        engine.step(pcm, copy, Mode.LISTEN)
    plain = engine.new_state()
    for pcm in frames[:5]:
        engine.step(pcm, plain, Mode.LISTEN)
    for pcm in frames[5:]:
        assert engine.step(pcm, state, Mode.LISTEN) == engine.step(pcm, plain, Mode.LISTEN)
    assert engine.decide(state) == engine.decide(plain)


def test_a_full_window_decides(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways that never agree are no more when there is no room for them; no word is lost."""
    written = itertools.cycle([ONE, TWO])

    def never(ways: Sequence[Way], logits: np.ndarray, most: int) -> tuple[list[Way], tuple[int, ...]]:
        piece = next(written)
        return [
            Way(0.0, (*ways[0].pieces, piece), ways[0].slots, piece, ways[0].recent, None, 0.5),
            Way(-1.0, (*ways[-1].pieces, SIX), ways[-1].slots, SIX, ways[-1].recent, None, 0.5),
        ], ()

    monkeypatch.setattr(runtime_state, "branch", never)
    state, text = engine.new_state(), ""
    count = WINDOW + 9
    for pcm in _frames(count):
        text += engine.step(pcm, state, Mode.LISTEN).user_text
        assert state.next_slot <= WINDOW
    text += engine.decide(state)
    one, two = (engine._tokenizer.piece(piece) for piece in (ONE, TWO))
    assert text == "".join(itertools.islice(itertools.cycle([one, two]), count))


def test_over_a_held_reply_words_are_told_at_once(engine: Engine) -> None:
    """Who listens there wants to know whether there are any."""
    state = engine.new_state()
    for pcm in _frames(3):
        engine.step(pcm, state, Mode.LISTEN)
    for _ in range(6):
        engine.step(None, state, Mode.SPEAK)
    ear = engine.fork(state, 1)
    for pcm in _frames(6, 2):
        engine.step(pcm, ear, Mode.LISTEN)
        assert not ear.ways
    assert state.most_ways == engine.most_ways == MOST_WAYS


def test_in_a_hurry_one_way_has_to_do(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait: the likeliest of the ways goes on alone, and no word is lost or told twice."""
    state = engine.new_state()
    frames = _frames(12)
    for pcm in frames[:6]:
        engine.step(pcm, state, Mode.LISTEN)
    assert len(state.ways) > 1, "the toy model is sure of what it hears"
    rest = engine._read_out(state.ways[0].pieces)
    monkeypatch.setattr(engine, "in_hurry", lambda: True)
    out = engine.step(frames[6], state, Mode.LISTEN)
    assert out.user_text.startswith(rest)
    assert not state.ways
    assert len(out.user_text) - len(rest) == len(engine._read_out([state.transcript]))
    monkeypatch.undo()
    for pcm in frames[7:]:
        engine.step(pcm, state, Mode.LISTEN)
    assert state.ways
