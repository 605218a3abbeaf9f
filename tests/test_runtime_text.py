from collections import deque
from pathlib import Path

import numpy as np
import pytest

from models.errors import ProsodyTagError
from models.runtime import Engine, Mode, StepOut
from models.runtime_state import State, pause_steps
from models.runtime_talker import Mark
from models.runtime_text import MAX_WAIT, MAX_WAIT_FOR_WORD, enter_now, internal_ids, next_piece
from models.tokenizer import EOS, PAD, SpokenPiece, prosody_token
from tests.tiny import speech_like, tokenizer

PIECES = tokenizer()
LEAD = 3  # steps that text is ahead of its audio
LOW, PAUSE = internal_ids(["<pitch_low>", "<pause_short>"])


@pytest.fixture(scope="module")
def engine(tiny_models: Path) -> Engine:
    return Engine.load(tiny_models / "models" / "codec", tiny_models / "models" / "s2s")


def _writes(wanted: list[int], state: State, at: dict[int, list[int]]) -> list[int]:
    """What is written when a model wants ``wanted``, one piece a step, and waits with a word until it was written.

    Args:
        wanted: internal ids, PAD where it wants none.
        state: of the session.
        at: what is injected before which step.
    """
    written, left, last = [], list(wanted), PAD
    for step in range(100):
        state.injected.extend(at.get(step, ()))
        logits = np.zeros((1, 1, len(PIECES)), np.float32)
        logits[..., left[0] if left else EOS] = 5.0
        owed = state.owed is not None
        (last, _, _), injected = next_piece(logits, last, state, PIECES)
        if not injected and not owed and left:
            left.pop(0)
        elif injected and state.owed is not None and left and not owed and left[0] == state.owed.token:
            left.pop(0)  # it is owed: the model need not want it again
        written.append(last)
        if last == EOS:
            break
    return written


@pytest.fixture
def state(engine: Engine) -> State:
    return engine.new_state()


LARGE, LATTE = PIECES.encode("large latte")
PARTS = PIECES.encode("xyz")  # spelled: one piece a letter
WANTED = [LARGE, PAD, PAD, *PARTS, PAD, LATTE, PAD, PAD]


@pytest.mark.parametrize("step", range(9))
@pytest.mark.parametrize("tokens", [[LOW], [LOW, PAUSE], [PAUSE, LOW, LOW]])
def test_no_piece_is_lost(state: State, tokens: list[int], step: int) -> None:
    """Injected anywhere, tokens are written in order and together, at once or a step later, and so are all words."""
    written = _writes(WANTED, state, {step: tokens})
    places = [index for index, token in enumerate(written) if token in (LOW, PAUSE)]
    assert [written[place] for place in places] == tokens
    assert places == list(range(places[0], places[0] + len(tokens)))
    assert step <= places[0] <= step + MAX_WAIT_FOR_WORD
    assert [t for t in written if t not in (PAD, LOW, PAUSE, EOS)] == [t for t in WANTED if t != PAD]
    assert state.owed is None
    assert not state.injected


def test_a_token_stands_right_before_a_word_that_is_near(state: State) -> None:
    """As in training: with a word that would begin now, nothing comes between the token and the word."""
    assert _writes([LATTE, PAD], state, {0: [LOW]})[:2] == [LOW, LATTE]


def test_a_token_is_read_at_once_where_nothing_was_written(state: State) -> None:
    """It takes the place of the latest PAD, before the model has read that; no other piece's place."""
    for last, entered in ((PAD, "<pitch_low>"), (LATTE, "")):
        state.injected.extend([LOW, PAUSE])
        text = np.array([[last]])
        assert enter_now(text, state) == entered
        assert text[0, 0] == (LOW if entered else last)
        assert len(state.injected) == (1 if entered else 2)
        state.drop_injected()
    assert enter_now(np.array([[PAD]]), state) == ""


def test_a_word_is_not_cut_when_it_ends_in_time(state: State) -> None:
    """A token that comes with the last letter waits until the word is complete."""
    assert _writes([*PARTS, PAD, LATTE], state, {2: [LOW]})[:5] == [*PARTS, LOW, PAD]


def test_the_end_takes_no_token(state: State) -> None:
    """Where the model ends its reply there is nothing left to change."""
    assert _writes([LATTE], state, {1: [LOW]}) == [LATTE, EOS]


@pytest.mark.parametrize(("chance", "waits"), [(0.9, 0), (0.4, 1), (0.1, 9), (0.0, MAX_WAIT)])
def test_a_piece_of_a_script_comes_at_its_time(state: State, chance: float, waits: int) -> None:
    """A model that would write it with this chance at every step has written it by then in 62 cases of 100."""
    logits = np.full((1, 1, len(PIECES)), -30.0, np.float32)
    logits[..., PAD], logits[..., LATTE] = np.log(1.0 - chance), np.log(max(chance, 1e-9))
    state.script = deque([SpokenPiece(LARGE, " large", True), SpokenPiece(LATTE, " latte", True)])
    for word in (LARGE, LATTE):  # what it waited for the first has nothing to do with the second
        written = [next_piece(logits, PAD, state, PIECES)[0].token for _ in range(waits + 1)]
        assert written == [PAD] * waits + [word]


@pytest.mark.parametrize(("own", "steps"), [({}, 4), ({"<pause_short>": 2}, 2)])
def test_a_pause_is_as_long_as_the_model_says(state: State, own: dict[str, int], steps: int) -> None:
    """However much the model wants the next word: it comes so many steps after the token."""
    state.pause_steps = pause_steps({"pause_steps": own})
    assert _writes([PAUSE, *[LATTE] * steps], state, {})[: steps + 1] == [PAUSE, *[PAD] * (steps - 1), LATTE]


@pytest.mark.parametrize("own", [{"<emph>": 2}, {"<pause_long>": 0}, {"<pause_long>": 1.5}, {"<pause_long>": 51}, 4])
def test_pauses_of_no_length_are_refused(own: object) -> None:
    """Other tokens, no time, half a frame, more than four seconds, no lengths at all."""
    with pytest.raises(ValueError, match="pause_steps must be"):
        pause_steps({"pause_steps": own})


def test_tokens_have_names_and_ids() -> None:
    """Both ways; other pieces have no name, other names no id."""
    assert [prosody_token(token) for token in (LOW, PAUSE, LATTE, PAD)] == ["<pitch_low>", "<pause_short>", "", ""]
    with pytest.raises(ProsodyTagError, match="'<loud>'; known: <emph>"):
        internal_ids(["<emph>", "<loud>"])


# --- with an engine ---------------------------------------------------------------------------------------------------


def _taken(outs: list[StepOut]) -> list[tuple[str, int]]:
    """Injected tokens, and the frames of audio they act from."""
    return [(mark.token, mark.frame) for out in outs for mark in out.marks if mark.injected]


def _say(engine: Engine, text: str, tokens: list[str], at: int) -> list[StepOut]:
    state = engine.new_state()
    engine.read(text, state, say=True)
    outs = []
    for step in range(100):
        if step == at:
            engine.inject(tokens, state)
        outs.append(engine.step(None, state, Mode.SPEAK))
        if outs[-1].done:
            break
    assert not state.injected
    assert state.owed is None
    return outs


@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_a_script_is_said_whole_around_an_injection(engine: Engine, at: int) -> None:
    """Text that is given stays as it is, and the step that took the token tells."""
    outs = _say(engine, "a large latte with soy milk", ["<pitch_low>"], at)
    assert "".join(out.text for out in outs).strip() == "a large latte with soy milk"
    ((token, frame),) = _taken(outs)
    assert token == "<pitch_low>"
    assert max(at - LEAD, 0) <= frame <= max(at - LEAD, 0) + MAX_WAIT_FOR_WORD


def test_audio_changes_at_the_frame_that_is_told(engine: Engine) -> None:
    """Up to the frame that a token acts from the audio is the same to the bit, and from there on another.

    One that changes the pitch acts on the very next frame; a pause comes where the text is, at most LEAD frames later.
    """
    plain = [out.pcm for out in _say(engine, "a large latte with soy milk", [], 0) if out.pcm is not None]
    for token in ("<pitch_low>", "<pause_long>"):
        outs = _say(engine, "a large latte with soy milk", [token], 7 + LEAD)
        ((_, frame),) = _taken(outs)
        changed = [out.pcm for out in outs if out.pcm is not None]
        same = [bool(np.array_equal(a, b)) for a, b in zip(plain, changed, strict=False)]
        assert frame == 7
        assert all(same[:6])  # and the overlap of the frame before
        assert not all(same[frame - 1 : frame + LEAD + 2])


def test_tokens_of_the_text_are_told_and_not_spoken(engine: Engine) -> None:
    """A mark of the given text is no injection; its word follows in the very next step."""
    outs = _say(engine, "a <emph>large latte", [], 0)
    assert "".join(out.text for out in outs).strip() == "a large latte"
    ((place, mark),) = [(index, mark) for index, out in enumerate(outs) for mark in out.marks]
    assert (mark, outs[place + 1].text) == (Mark("<emph>", max(place - LEAD, 0), False), " large")


@pytest.mark.parametrize(("token", "steps"), [("<pause_short>", 4), ("<pause_long>", 9)])
def test_a_pause_is_added_to_the_time_that_words_take_without_it(engine: Engine, token: str, steps: int) -> None:
    """Until the pause all is as without it, the silence after a sentence, too; the next word comes so much later."""
    plain, paused = (_say(engine, f"a large latte. {mark}soy", [], 0) for mark in ("", token))
    (word,) = [index for index, out in enumerate(plain) if "soy" in out.text]
    assert [out.text for out in paused[:word]] == [out.text for out in plain[:word]]
    assert [mark.token for mark in paused[word].marks] == [token]
    assert "soy" in paused[word + steps].text
    assert not any(out.text for out in paused[word : word + steps])
    expects = []
    for mark in ("", token):  # a model that knows of the pause would not say when the next word is due without it
        state = engine.new_state()
        engine.read(f"a large latte. {mark}soy", state, say=True)
        engine.step(None, state, Mode.SPEAK)
        expects.append(state.step.outputs["text_logits"].copy())
    np.testing.assert_array_equal(expects[0], expects[1])


def test_what_a_reply_did_not_take_ends_with_it(engine: Engine) -> None:
    """Interrupted, or followed by the user's next words, it leaves nothing for the next reply."""
    for end in ("truncate", "listen"):
        state = engine.new_state()
        engine.step(None, state, Mode.SPEAK)
        engine.inject(["<pitch_low>"] * 3, state)
        engine.step(None, state, Mode.SPEAK)
        assert state.injected
        if end == "truncate":
            engine.truncate_reply(state, 0)
        else:
            engine.step(speech_like(0.1)[:1920], state, Mode.LISTEN)
        assert not state.injected
        assert state.owed is None
        assert state.unwritten == 1.0


def test_a_fork_takes_no_tokens_along(engine: Engine) -> None:
    """The copy listens; the reply keeps what it has to take."""
    state = engine.new_state()
    engine.step(None, state, Mode.SPEAK)
    engine.inject(["<pitch_low>"], state)
    assert not engine.fork(state, 0).injected
    assert state.injected


def test_figures_are_said_as_words(engine: Engine) -> None:
    """A text with figures is the same script as the words for them, and so is what the user types."""
    said, heard = [], []
    for text in ("2 lattes", "two lattes"):
        said.append([(out.text, out.done) for out in _say(engine, text, [], 0)])
        state = engine.new_state()
        engine.read(text, state, say=False)
        engine.step(None, state, Mode.SPEAK)
        heard.append(state.step.outputs["text_logits"].copy())
    assert said[0] == said[1]
    np.testing.assert_array_equal(heard[0], heard[1])


def test_prosody_of_the_user_is_left_out(engine: Engine) -> None:
    """The tokens are for the agent's voice: in what the user typed they change nothing."""
    heard = []
    for text in ("a large latte", "<pitch_low>a <emph>large latte"):
        state = engine.new_state()
        engine.read(text, state, say=False)
        engine.step(None, state, Mode.SPEAK)
        heard.append(state.step.outputs["text_logits"].copy())
    np.testing.assert_array_equal(heard[0], heard[1])
