"""What a session forgets: turns before the latest, and never its first steps."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.runtime import Engine, Mode
from models.runtime_state import BLOCKED, KEPT_TURNS, SINK_STEPS, State
from streaming.sound_files import read_audio
from tests.tiny import WINDOW, speech_like

FRAME = 1920
QUESTION = Path(__file__).parent / "data" / "question.wav"


@pytest.fixture(scope="module")
def engine(tiny_models: Path) -> Engine:
    """The toy models as they are shipped."""
    return Engine.load(tiny_models / "models" / "codec", tiny_models / "models" / "s2s")


def _listen(engine: Engine, state: State, count: int, seed: int = 0) -> str:
    frames = speech_like(count * 0.08 + 0.01, seed).reshape(-1, FRAME)[:count]
    return "".join(engine.step(pcm, state, Mode.LISTEN).user_text for pcm in frames)


def _speak(engine: Engine, state: State, count: int) -> None:
    for _ in range(count):
        engine.step(None, state, Mode.SPEAK)


def _steps(state: State, name: str, begin: int, end: int) -> np.ndarray:
    return state.step.inputs[name][:, :, begin:end].copy()


def test_what_is_kept_is_as_if_it_had_come_earlier(engine: Engine) -> None:
    """A step that moves has the keys and values of the same step at the earlier place."""
    late, early = engine.new_state(), engine.new_state()
    late.position, early.position = SINK_STEPS + 21, SINK_STEPS
    for state in (late, early):
        state.turns = [state.position]
        _listen(engine, state, 1, 5)
    assert not np.allclose(_steps(late, "keys_1", SINK_STEPS + 21, SINK_STEPS + 22), _steps(early, "keys_1", 4, 5))
    late.forget(SINK_STEPS + 21)
    assert late.position == early.position == SINK_STEPS + 1
    for name in ("keys_0", "keys_1", "values_0", "values_1"):
        np.testing.assert_allclose(_steps(late, name, 4, 5), _steps(early, name, 4, 5), atol=1e-4)


def test_a_new_turn_forgets_all_but_the_latest(engine: Engine) -> None:
    """However many there were: the first steps, the turns that are kept, and this one."""
    state, lengths, firsts = engine.new_state(), [], []
    for turn in range(6):
        _listen(engine, state, 5 + turn % 2, turn)
        lengths.append(state.position)
        _speak(engine, state, 7)
        firsts.append(_steps(state, "values_0", 0, SINK_STEPS))
    assert all(np.array_equal(first, firsts[0]) for first in firsts)
    kept = [5 + turn % 2 + 7 for turn in range(5)][-KEPT_TURNS:]
    assert lengths[-1] == SINK_STEPS + sum(kept) + 6
    used = state.step.inputs["mask"][0, 0, 0, :-1] > BLOCKED
    assert used.tolist() == [True] * state.position + [False] * (WINDOW - state.position)


def test_a_reply_nobody_heard_begins_no_new_turn(engine: Engine) -> None:
    """What the user said before it and what they say after it is one turn."""
    state = engine.new_state()
    _listen(engine, state, 6)
    _speak(engine, state, 5)
    engine.truncate_reply(state, 0)
    _listen(engine, state, 3, 1)
    assert state.turns == [0]
    assert state.position == 9


def test_a_turn_longer_than_the_window_is_heard_on(engine: Engine) -> None:
    """Its older half goes, the first steps stay, and the reply that follows can be taken back."""
    state = engine.new_state()
    _listen(engine, state, SINK_STEPS)
    engine.decide(state)
    first = _steps(state, "keys_0", 0, SINK_STEPS)
    for seed in range(3):
        _listen(engine, state, WINDOW - 7, seed)
        assert SINK_STEPS < state.position <= WINDOW
    np.testing.assert_array_equal(_steps(state, "keys_0", 0, SINK_STEPS), first)
    before = state.position
    _speak(engine, state, 9)
    engine.truncate_reply(state, 0)
    assert state.position in (before, before - (WINDOW // 2 - SINK_STEPS))


def test_a_reply_that_fills_the_window_can_be_taken_back(engine: Engine) -> None:
    """Room is made before it, not in it."""
    state = engine.new_state()
    _listen(engine, state, WINDOW - 5)
    _speak(engine, state, 20)
    assert state.position - state.reply_start == 20
    engine.truncate_reply(state, 6)
    assert state.position - state.reply_start == 6 + 3
    assert (state.step.inputs["mask"][..., state.position : -1] == BLOCKED).all()


def test_the_tenth_question_is_heard_as_the_first(shipped_models: Path) -> None:
    """The shipped model in a conversation of a thousand steps."""
    engine = Engine.load(shipped_models / "codec", shipped_models / "s2s")
    assert len(json.loads((shipped_models / "s2s" / "config.json").read_text())["rotary"]) == 32
    pcm = read_audio(QUESTION)
    frames = pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME)
    state, heard = engine.new_state(), []
    for _ in range(10):
        text = "".join(engine.step(frame, state, Mode.LISTEN).user_text for frame in frames)
        silence = np.zeros(FRAME, np.float32)
        text += "".join(engine.step(silence, state, Mode.LISTEN).user_text for _ in range(engine.tail_frames))
        while not engine.step(None, state, Mode.SPEAK).done:
            pass
        heard.append(text)
    assert len(set(heard)) == 1
    assert "…" not in heard[0]
    assert len(heard[0].split()) >= 4
