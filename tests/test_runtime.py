import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import runtime, runtime_text
from models.artefacts import VERSION, open_graph
from models.errors import ArtefactError
from models.graph import GraphStream
from models.quantize import GroupedFSQ
from models.runtime import Engine, Mode, StepOut
from models.runtime_state import State
from models.s2s import LISTEN, SPEAK
from models.sampling import CodeSampler, greedy, sigmoid
from models.tokenizer import BOS, EOS, PAD
from tests.tiny import CODEC, new_s2s, speech_like, tokenizer
from training import s2s_data
from training.encode_dataset import EncodedTurn
from training.export import export_s2s
from training.s2s_batches import collate
from training.train_s2s import load_s2s

FRAME = 1920
LEAD = 3
Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def engine(tiny_models: Path) -> Engine:
    """The toy models as they are shipped, which hear a turn in one way only."""
    found = Engine.load(tiny_models / "models" / "codec", tiny_models / "models" / "s2s")
    found.most_ways = 1
    return found


def _frames(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(speech_like(count * 0.08 + 0.01, seed).reshape(-1, FRAME)[:count])


def _listen(engine: Engine, state: State, count: int, seed: int = 0) -> list[StepOut]:
    return [engine.step(pcm, state, Mode.LISTEN) for pcm in _frames(count, seed)]


def _speak(engine: Engine, state: State, count: int) -> list[StepOut]:
    return [engine.step(None, state, Mode.SPEAK) for _ in range(count)]


def _facts(engine: Engine, state: State, seed: int = 9) -> list[np.ndarray]:
    """Everything a session would do next: the logits of listening, then a reply's audio."""
    facts: list[np.ndarray] = []
    for pcm in _frames(4, seed):
        out = engine.step(pcm, state, Mode.LISTEN)
        facts += [np.float32(out.end_of_turn).reshape(1), state.step.outputs["transcript_logits"].copy()]
    for _ in range(6):
        out = engine.step(None, state, Mode.SPEAK)
        facts += [state.step.outputs["text_logits"].copy()]
        facts += [] if out.pcm is None else [out.pcm]
    return facts


def _assert_same(made: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(made) == len(expected)
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


def test_a_turn(engine: Engine) -> None:
    """Listening gives a probability, speaking gives frames of audio once the text has its lead."""
    state = engine.new_state()
    assert all(0.0 < out.end_of_turn < 1.0 and out.pcm is None for out in _listen(engine, state, 6))
    outs = _speak(engine, state, 10)
    assert [out.pcm is None for out in outs] == [True] * LEAD + [False] * 7
    for out in outs[LEAD:]:
        assert out.pcm is not None
        assert out.pcm.shape == (FRAME,)
        assert out.pcm.dtype == np.float32
        assert np.isfinite(out.pcm).all()
        assert np.abs(out.pcm).max() <= 1.0
    assert all(out.end_of_turn == 0.0 and not out.done for out in outs)
    assert engine.tail_frames == 6


def test_the_same_again_in_a_new_session(engine: Engine) -> None:
    """A fresh state knows nothing of other sessions, and there is no chance in a step."""
    first, second = engine.new_state(), engine.new_state()
    _assert_same(_facts(engine, first), _facts(engine, second))


def test_sessions_side_by_side_do_not_meet(engine: Engine) -> None:
    """Two sessions stepped in turn do what each does alone."""
    alone = [_facts(engine, engine.new_state(), seed) for seed in (1, 2)]
    states = [engine.new_state(), engine.new_state()]
    made: list[list[np.ndarray]] = [[], []]
    frames = [_frames(4, 1), _frames(4, 2)]
    for index in range(10):
        for state, own, pcm in zip(states, made, frames, strict=True):
            if index < 4:
                out = engine.step(pcm[index], state, Mode.LISTEN)
                own += [np.float32(out.end_of_turn).reshape(1), state.step.outputs["transcript_logits"].copy()]
                continue
            out = engine.step(None, state, Mode.SPEAK)
            own += [state.step.outputs["text_logits"].copy()]
            own += [] if out.pcm is None else [out.pcm]
    for own, expected in zip(made, alone, strict=True):
        _assert_same(own, expected)
    assert not np.allclose(made[0][-2], made[1][-2], atol=1e-3)


def test_frames_before_listening_are_heard(engine: Engine) -> None:
    """The last five IDLE frames reach the model with the first LISTEN frame, older ones do not."""
    frames = _frames(12)
    idle, listened = engine.new_state(), engine.new_state()
    for pcm in frames[:11]:
        engine.step(pcm, idle, Mode.IDLE)
    engine.step(frames[11], idle, Mode.LISTEN)
    for index, pcm in enumerate(frames):
        engine.step(pcm, listened, Mode.IDLE if index < 6 else Mode.LISTEN)
        listened.prefix.clear()
    assert idle.position == listened.position == 6
    _assert_same(_facts(engine, idle), _facts(engine, listened))


def test_idle_frames_give_nothing(engine: Engine) -> None:
    """IDLE returns an empty result and leaves the model where it was."""
    state = engine.new_state()
    assert [engine.step(pcm, state, Mode.IDLE) for pcm in _frames(3)] == [StepOut()] * 3
    assert state.position == 0


def test_encoder_starts_anew_when_a_reply_starts(engine: Engine) -> None:
    """User audio during a reply is encoded as training encodes a turn: from silence."""
    before, fresh = engine.new_state(), engine.new_state()
    _listen(engine, before, 13)
    assert before.history.any()
    _speak(engine, before, 1)
    for pcm in _frames(4, 3):
        engine.step(pcm, before, Mode.IDLE)
        engine.step(pcm, fresh, Mode.IDLE)
    np.testing.assert_array_equal(np.stack(before.prefix), np.stack(fresh.prefix))


@pytest.mark.parametrize("steps", [1, LEAD + 7])
def test_a_reply_that_was_not_heard_never_was(noting: Engine, steps: int) -> None:
    """The user goes on as if no reply had begun: the same context, and the same words heard so far."""
    cut, plain = noting.new_state(), noting.new_state()
    for state in (cut, plain):
        _listen(noting, state, 5)
    _speak(noting, cut, steps)
    noting.truncate_reply(cut, 0)
    plain.encoder.reset()  # as every reply's beginning does
    plain.history[:] = 0.0
    assert cut.position == plain.position
    _assert_same(_facts(noting, cut), _facts(noting, plain))


@pytest.mark.parametrize("heard", [2, 6, 7, 50])
def test_truncated_reply_was_never_made(engine: Engine, heard: int) -> None:
    """After barge-in the session goes on as one that stopped speaking right after what was heard."""
    cut, stopped = engine.new_state(), engine.new_state()
    _listen(engine, cut, 5)
    _listen(engine, stopped, 5)
    _speak(engine, cut, LEAD + 7)
    _speak(engine, stopped, min(LEAD + heard, LEAD + 7))
    engine.truncate_reply(cut, heard)
    assert cut.position == stopped.position
    _assert_same(_facts(engine, cut), _facts(engine, stopped))


def test_truncating_may_go_on(engine: Engine) -> None:
    """A second, shorter figure cuts further."""
    cut, stopped = engine.new_state(), engine.new_state()
    for state, steps in ((cut, 10), (stopped, LEAD + 1)):
        _listen(engine, state, 5)
        _speak(engine, state, steps)
    engine.truncate_reply(cut, 5)
    engine.truncate_reply(cut, 1)
    _assert_same(_facts(engine, cut), _facts(engine, stopped))


def test_truncating_after_a_new_turn_began_loses_nothing(engine: Engine) -> None:
    """It once wound the session back to the old reply, or to its start, and left what was heard since half visible."""
    late, plain = engine.new_state(), engine.new_state()
    for state in (late, plain):
        _listen(engine, state, 4)
    engine.truncate_reply(late, 0)
    assert late.position == 4
    for state in (late, plain):
        _speak(engine, state, 6)
        _listen(engine, state, 3, 5)
    engine.truncate_reply(late, 0)
    assert late.position == plain.position
    _assert_same(_facts(engine, late), _facts(engine, plain))


def test_a_fork_hears_what_an_interrupted_session_hears(engine: Engine) -> None:
    """The copy is the session after a barge-in; the session itself speaks on as if nothing had been heard."""
    forked, cut, plain = engine.new_state(), engine.new_state(), engine.new_state()
    for state in (forked, cut, plain):
        _listen(engine, state, 5)
        _speak(engine, state, LEAD + 6)
    ear = engine.fork(forked, 4)
    engine.truncate_reply(cut, 4)
    assert _listen(engine, ear, 6, 3) == _listen(engine, cut, 6, 3)
    spoken, expected = _speak(engine, forked, 5), _speak(engine, plain, 5)
    _assert_same([out.pcm for out in spoken if out.pcm is not None], [o.pcm for o in expected if o.pcm is not None])
    assert [out.text for out in spoken] == [out.text for out in expected]
    _assert_same(_facts(engine, forked), _facts(engine, plain))


def test_end_token_ends_the_reply(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that says EOS is done; the next SPEAK starts another reply."""
    state = engine.new_state()
    _listen(engine, state, 3)
    assert not any(out.done for out in _speak(engine, state, 5))
    with monkeypatch.context() as patch:
        patch.setattr(runtime_text, "greedy", lambda logits: EOS)
        last = engine.step(None, state, Mode.SPEAK)
    assert last.done
    assert last.text == ""
    assert last.pcm is not None
    assert engine.step(None, state, Mode.SPEAK).pcm is None


def test_replies_are_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that never ends is ended."""
    monkeypatch.setattr(runtime, "MAX_REPLY_FRAMES", 12)
    state = engine.new_state()
    assert [out.done for out in _speak(engine, state, 12)] == [False] * 11 + [True]


@pytest.mark.parametrize("mode", [Mode.IDLE, Mode.LISTEN])
@pytest.mark.parametrize(
    "pcm",
    [
        None,
        np.zeros(FRAME - 1, np.float32),
        np.zeros(FRAME),
        np.zeros(FRAME, np.int16),
        np.zeros((1, FRAME), np.float32),
    ],
    ids=["none", "short", "float64", "int16", "shape"],
)
def test_other_audio_is_refused(engine: Engine, mode: Mode, pcm: np.ndarray | None) -> None:
    """Anything but one float32 frame is an error and leaves the session as it was."""
    state = engine.new_state()
    with pytest.raises(ValueError, match="expected one frame"):
        engine.step(pcm, state, mode)
    _assert_same(_facts(engine, state), _facts(engine, engine.new_state()))


def test_speaking_takes_no_audio(engine: Engine) -> None:
    """User audio during a reply goes through IDLE steps."""
    with pytest.raises(ValueError, match="SPEAK takes no audio"):
        engine.step(np.zeros(FRAME, np.float32), engine.new_state(), Mode.SPEAK)


def _session(engine: Engine, turns: int) -> tuple[Steps, State]:
    """A session's symbols as training data has them: one entry a user turn and one a reply."""
    state, parts = engine.new_state(), []
    groups = len(CODEC.agent_levels)
    for turn in range(turns):
        user, transcript, text, agent = [], [], [], []
        for pcm in _frames(5, turn):
            engine.step(pcm, state, Mode.LISTEN)
            user.append(state.encoder.outputs["codes"][0, 0].copy())
            transcript.append(state.transcript)
        for index in range(6):
            engine.step(None, state, Mode.SPEAK)
            text.append(int(state.step.inputs["text"][0, 0]))
            agent.append(state.step.inputs["agent"][0, 0].copy() if index >= LEAD else np.full(groups, s2s_data.IGNORE))
        parts += [
            {
                "mode": np.full(5, LISTEN),
                "user": np.stack(user),
                "text_target": np.full(5, s2s_data.IGNORE),
                "transcript_target": np.array(transcript),
                "agent_target": np.full((5, groups), s2s_data.IGNORE),
                "turn_target": np.zeros((5, 2), np.int64),
            },
            {
                "mode": np.full(6, SPEAK),
                "user": np.zeros((6, len(CODEC.semantic_levels)), np.int64),
                "text_target": np.array(text),
                "transcript_target": np.full(6, s2s_data.IGNORE),
                "agent_target": np.stack(agent),
                "turn_target": np.full((6, 2), s2s_data.IGNORE),
            },
        ]
    return parts, state


def test_engine_feeds_itself_what_training_fed(
    engine: Engine, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher forcing on what the engine said, through the data set's own shifts, makes torch say the same."""
    parts, state = _session(engine, 2)
    replay = iter(parts)
    monkeypatch.setattr(s2s_data, "listen_steps", lambda *_: next(replay))
    monkeypatch.setattr(s2s_data, "speak_steps", lambda *_: next(replay))
    model = load_s2s(tiny_models / "models" / "s2s").eval()
    turn = EncodedTurn(parts[0]["user"], (0.0, 5.0), [], np.zeros((3, 3), np.uint16), [], "")
    batch = collate([s2s_data.build_sequence([turn, turn], model.config, np.random.default_rng(0))])
    with torch.no_grad():
        out = model(batch.frame)
    np.testing.assert_allclose(state.step.outputs["text_logits"][0, 0], out.text[0, -1].numpy(), atol=2e-3, rtol=1e-3)
    for target, logits in ((batch.text, out.text), (batch.transcript, out.transcript)):
        real = target[0] != s2s_data.IGNORE
        assert torch.equal(logits[0].argmax(-1)[real], target[0][real])


def _copy(tiny_models: Path, folder: Path) -> Path:
    shutil.copytree(tiny_models / "models", folder / "models")
    return folder / "models"


def _load(models: Path) -> Engine:
    return Engine.load(models / "codec", models / "s2s")


@pytest.fixture(scope="module")
def noting_models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy codec with an S2S model that writes notes."""
    models = _copy(tiny_models, tmp_path_factory.mktemp("noting"))
    shutil.rmtree(models / "s2s")
    export_s2s(new_s2s(notes=True), {}, tiny_models / "codec", models / "s2s", _alphabet(tiny_models), [0] * 3)
    return models


def _alphabet(tiny_models: Path) -> dict[str, Any]:
    config = json.loads((tiny_models / "models" / "s2s" / "config.json").read_text())
    return dict(config["alphabet"])


@pytest.fixture
def noting(noting_models: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A model that writes notes, of four steps each, after replies of ten."""
    monkeypatch.setattr(runtime, "MAX_NOTE_STEPS", 4)
    monkeypatch.setattr(runtime, "MAX_REPLY_FRAMES", 10)
    found = _load(noting_models)
    found.most_ways = 1
    return found


def test_a_note_is_what_training_fed(noting: Engine, noting_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn after a note: torch says the same on the sequence that training builds."""
    chosen: list[int] = []

    def record(logits: np.ndarray) -> int:
        chosen.append(greedy(logits))
        return chosen[-1]

    parts, state = _session(noting, 1)
    monkeypatch.setattr(runtime, "greedy", record)
    heard, transcript = [], []
    for pcm in _frames(3, 7):
        noting.step(pcm, state, Mode.LISTEN)
        heard.append(state.encoder.outputs["codes"][0, 0].copy())
        transcript.append(state.transcript)
    note, second = chosen[:3], {key: value[:3] for key, value in parts[0].items()}
    replay = iter([*parts, second | {"user": np.stack(heard), "transcript_target": np.array(transcript)}, parts[1]])
    monkeypatch.setattr(s2s_data, "listen_steps", lambda *_: next(replay))
    monkeypatch.setattr(s2s_data, "speak_steps", lambda *_: next(replay))
    model = load_s2s(noting_models / "s2s").eval()
    turn = EncodedTurn(parts[0]["user"], (0.0, 5.0), [], np.zeros((3, 3), np.uint16), [], "", note)
    batch = collate([s2s_data.build_sequence([turn, turn], model.config, np.random.default_rng(0))])
    with torch.no_grad():
        out = model(batch.frame)
    last = 5 + 6 + 4 + 3 - 1
    made = state.step.outputs["transcript_logits"][0, 0]
    np.testing.assert_allclose(made, out.transcript[0, last].numpy(), atol=2e-3, rtol=1e-3)
    assert out.text[0, 5 + 6].argmax() == note[0]


def test_a_reply_is_noted_while_nothing_else_happens(noting: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pieces a frame after a complete reply; what is left, and an interrupted one, before the next turn."""
    monkeypatch.setattr(runtime, "NOTE_STEPS_A_FRAME", 3)
    whole, left, cut = noting.new_state(), noting.new_state(), noting.new_state()
    for state in (whole, left, cut):
        _listen(noting, state, 3)
    for state in (whole, left):
        assert _speak(noting, state, 10)[-1].done
        assert state.position == 3 + 10
    for pcm, steps in zip(_frames(3, 2), (3, 4, 4), strict=True):
        noting.step(pcm, whole, Mode.IDLE)
        assert whole.position == 3 + 10 + steps
    noting.step(_frames(1, 2)[0], left, Mode.IDLE)
    _listen(noting, left, 1)
    assert left.position == 3 + 10 + 4 + 2  # the idle frame is heard, too
    _speak(noting, cut, 5)
    noting.step(_frames(1, 2)[0], cut, Mode.IDLE)
    assert cut.position == 3 + 5
    cut.prefix.clear()
    assert cut.position == 3 + 5
    _listen(noting, cut, 1)
    assert cut.position == 3 + 5 + 4 + 1


def test_a_note_may_be_given(noting: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written instead of the model's own, also when the reply is cut afterwards; not in place of a begun one."""
    monkeypatch.setattr(runtime, "NOTE_STEPS_A_FRAME", 1)
    monkeypatch.setattr(runtime, "MAX_NOTE_STEPS", 8)
    pieces = tokenizer().encode("latte soy")
    state, begun = noting.new_state(), noting.new_state()
    for one in (state, begun):
        _listen(noting, one, 3)
        _speak(noting, one, 10)
    noting.note("latte soy", state)

    def written() -> list[int]:
        fed = []
        while state.note_due:
            noting.step(_frames(1, 2)[0], state, Mode.IDLE)
            fed.append(int(state.step.inputs["text"][0, 0]))
        return fed

    assert written() == [BOS, *pieces]
    noting.truncate_reply(state, 2)
    assert written() == [BOS, *pieces]
    noting.step(_frames(1, 2)[0], begun, Mode.IDLE)
    noting.note("latte soy", begun)
    assert begun.note is None
    _listen(noting, state, 1)
    _speak(noting, state, 10)
    assert state.note is None


def test_a_reply_with_a_known_opening_goes_on_as_is_known(noting: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model begins so is ended from what is known, and noted like any other; other replies are its own.

    And what it may not begin with it does not.
    """
    monkeypatch.setattr(runtime, "MAX_REPLY_FRAMES", 100)

    def says(openings: dict[str, str | None]) -> list[str]:
        state = noting.new_state()
        _listen(noting, state, 3)
        noting.expect(openings, state)
        texts: list[str] = []
        done = False
        while not done:
            out = noting.step(None, state, Mode.SPEAK)
            texts, done = [*texts, out.text], out.done
        assert state.note_due
        return [text for text in texts if text]

    free = says({})
    known = says({free[0].strip(): "a large latte. soy"})
    assert known[0] == free[0]
    assert "".join(known[1:]).split() == ["a", "large", "latte.", "soy"]
    assert says({"of nobody": "a large latte. soy"}) == free != known
    assert says({"of nobody": None}) == free
    assert says({free[0].strip(): None})[0] != free[0]
    first, second = says({"".join(free[:2]).strip(): None})[:2]
    assert first == free[0]
    assert second != free[1]


def test_words_put_into_its_mouth_are_not_noted(noting: Engine) -> None:
    """They are no answer."""
    state = noting.new_state()
    noting.read("latte", state, say=True)
    before = state.position
    _speak(noting, state, 10)
    _listen(noting, state, 1)
    assert state.position == before + 10 + 1


@pytest.mark.parametrize("heard", [2, 50])
def test_truncating_takes_the_note_back(noting: Engine, heard: int) -> None:
    """Of a reply that was not heard to its end; one that was keeps its note."""
    cut, stopped = noting.new_state(), noting.new_state()
    for state, steps in ((cut, 10), (stopped, min(LEAD + heard, 10))):
        _listen(noting, state, 5)
        _speak(noting, state, steps)
    noting.step(_frames(1, 2)[0], cut, Mode.IDLE)
    if heard == 50:
        noting.step(_frames(1, 2)[0], stopped, Mode.IDLE)
    noting.truncate_reply(cut, heard)
    for state in (cut, stopped):
        state.encoder.reset()
        state.history[:] = 0.0
        state.prefix.clear()
    assert cut.position == stopped.position
    _assert_same(_facts(noting, cut), _facts(noting, stopped))


@pytest.mark.parametrize(
    "name",
    [
        "codec/config.json",
        "codec/semantic_encoder.onnx",
        "codec/decoder.onnx",
        "s2s/config.json",
        "s2s/step.onnx",
        "s2s/tokenizer.json",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_artefacts_are_named(tiny_models: Path, tmp_path: Path, name: str, damage: str) -> None:
    """Each file the engine needs, missing or cut in half, is named by the error."""
    models = _copy(tiny_models, tmp_path)
    path = models / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtefactError, match=name):
        _load(models)


@pytest.mark.parametrize("part", ["codec", "s2s"])
def test_other_versions_are_refused(tiny_models: Path, tmp_path: Path, part: str) -> None:
    """A later version's directory is not guessed at."""
    models = _copy(tiny_models, tmp_path)
    path = models / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": VERSION + 1}))
    with pytest.raises(ArtefactError, match=rf"{part}/config\.json: version {VERSION + 1}"):
        _load(models)


def test_models_for_another_alphabet_are_refused(tiny_models: Path, tmp_path: Path) -> None:
    """An S2S model speaks the codes of one codec only."""
    models = _copy(tiny_models, tmp_path)
    path = models / "s2s" / "config.json"
    config = json.loads(path.read_text())
    config["alphabet"]["user_levels"][0][0] += 1
    path.write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match="another codec"):
        _load(models)


@pytest.mark.parametrize("rotary", [[0.5], [float("inf")] * 99, "no", None])
def test_a_rotation_that_does_not_fit_the_keys_is_refused(tiny_models: Path, tmp_path: Path, rotary: object) -> None:
    """Long conversations would be rotated into nonsense."""
    models = _copy(tiny_models, tmp_path)
    path = models / "s2s" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rotary": rotary}))
    with pytest.raises(ArtefactError, match=r"config\.json: incomplete or wrong"):
        _load(models)


def test_codec_and_s2s_are_not_interchangeable(tiny_models: Path) -> None:
    """Directories given the wrong way round are told apart by their format."""
    with pytest.raises(ArtefactError, match="repartee-codec-onnx"):
        Engine.load(tiny_models / "models" / "s2s", tiny_models / "models" / "codec")


def test_graph_stream_reset_is_a_fresh_stream(tiny_models: Path) -> None:
    """After a reset, at an odd or even step, the same input gives what it gave first."""
    session = open_graph(tiny_models / "models" / "codec" / "decoder.onnx")
    stream, other = GraphStream(session), GraphStream(session)

    def run(code: int) -> np.ndarray:
        stream.inputs["codes"][:] = code
        stream.run()
        return stream.outputs["noise"].copy()

    first = [run(code) for code in (3, 4, 5)]
    for extra in (1, 2):
        stream.reset()
        np.testing.assert_array_equal([run(code) for code in (3, 4, 5)], first)
        for _ in range(extra):
            run(7)
    assert not np.allclose(first[0], run(3))
    assert not other.outputs["noise"].any()


def test_sampler_is_the_inverse_of_the_codes() -> None:
    """The numpy sampler and the torch quantiser number codes alike."""
    fsq = GroupedFSQ(CODEC.agent_levels)
    told, leave = np.zeros((fsq.dims, fsq.dims, 4)), np.zeros((int(fsq.levels.sum()), 4))
    sampler = CodeSampler(CODEC.agent_levels, (told, leave))
    levels = torch.stack([torch.randint(0, int(n), (20,)) for n in fsq.levels], dim=-1)
    for row in levels:
        logits = np.concatenate([9.0 * np.eye(int(n))[int(level)] for n, level in zip(fsq.levels, row, strict=True)])
        np.testing.assert_array_equal(sampler(logits[None, None], np.zeros(4, np.float32)), fsq.to_codes(row).numpy())


def test_small_functions() -> None:
    """The most likely id, and the logistic function."""
    assert greedy(np.array([[[0.1, 3.0, -2.0]]])) == 1
    assert sigmoid(0.0) == 0.5
    assert sigmoid(-3.0) + sigmoid(3.0) == pytest.approx(1.0)


def test_transcripts_are_pieces_of_the_tokenizer(engine: Engine) -> None:
    """What the steps emit, joined, is the text of the tokens."""
    state = engine.new_state()
    outs = _listen(engine, state, 6)
    pieces = tokenizer()
    assert outs[-1].user_text == pieces.piece(state.transcript)
    spoken = []
    for _ in range(8):
        out = engine.step(None, state, Mode.SPEAK)
        spoken.append((out.text, pieces.piece(int(state.step.inputs["text"][0, 0]))))
    assert all(made == expected for made, expected in spoken)
    assert state.transcript == PAD
    assert dataclasses.is_dataclass(state)


def test_text_is_said_word_for_word(engine: Engine) -> None:
    """Whatever the model would rather say, a script comes out whole, with audio, and then the reply ends."""
    state = engine.new_state()
    engine.read("a large latte", state, say=True)
    text, frames = "", 0
    for _ in range(80):
        out = engine.step(None, state, Mode.SPEAK)
        text += out.text
        frames += out.pcm is not None
        if out.done:
            break
    assert text.strip() == "a large latte"
    assert out.done
    assert frames >= 3
    assert state.script is None


def test_tokens_of_a_script_stand_where_training_put_them(engine: Engine) -> None:
    """However they were written: each right before its word, except a pause, which may have silence behind it."""
    state = engine.new_state()
    engine.read("A large<pause_short> <emph>latte with soy<pitch_falling> milk", state, say=True)
    said: list[int] = []
    for _ in range(120):
        out = engine.step(None, state, Mode.SPEAK)
        said.append(int(state.step.inputs["text"][0, 0]))
        if out.done:
            break
    tokens = tokenizer().encode("A large <pause_short><emph>latte with <pitch_falling>soy milk")
    assert [token for token in said if token != PAD] == [*tokens, EOS]
    for mark, word in (("<emph>", "latte"), ("<pitch_falling>", "soy")):
        assert said.index(*tokenizer().encode(word)) == said.index(*tokenizer().encode(mark)) + 1


@pytest.mark.parametrize("steps", [0, 1, LEAD + 2])
def test_a_script_that_was_not_heard_is_forgotten(engine: Engine, steps: int) -> None:
    """Interrupted, also before its first step, it is not what the next reply has to say."""
    state = engine.new_state()
    engine.read("a large latte", state, say=True)
    _speak(engine, state, steps)
    engine.truncate_reply(state, 0)
    assert state.script is None
    untold = engine.new_state()
    replies = []
    for one in (state, untold):
        engine.step(np.zeros(engine.frame_size, np.float32), one, Mode.LISTEN)
        replies.append("".join(out.text for out in _speak(engine, one, 20)).strip())
    assert "a large latte" not in replies


def test_typed_text_is_heard(engine: Engine) -> None:
    """What is read changes what comes next, and different words change it differently."""
    replies = []
    for typed in ("", "a large latte", "soy milk"):
        state = engine.new_state()
        if typed:
            engine.read(typed, state, say=False)
        engine.step(None, state, Mode.SPEAK)
        replies.append(state.step.outputs["text_logits"].copy())
    assert np.abs(replies[0] - replies[1]).max() > 1e-3
    assert np.abs(replies[1] - replies[2]).max() > 1e-3


@pytest.mark.parametrize("text", ["", " ", "\u200b", "<emph>"])
def test_text_without_pieces_is_refused(engine: Engine, text: str) -> None:
    """The error says what was given; the session goes on."""
    state = engine.new_state()
    with pytest.raises(ValueError, match="can be read"):
        engine.read(text, state, say=True)
    assert state.position == 0


def test_too_long_a_text_is_refused(engine: Engine) -> None:
    """It would push the conversation out of the context."""
    with pytest.raises(ValueError, match="too long: 24 pieces"):
        engine.read("a large " * 12, engine.new_state(), say=True)


def test_a_reply_can_be_recalled(noting: Engine) -> None:
    """It has the given words, it is noted like one of the model's own, and the next one is free again."""
    recalled, said = noting.new_state(), noting.new_state()
    for state in (recalled, said):
        noting.read("latte", state, say=False)
    noting.recall("latte", recalled)
    noting.read("latte", said, say=True)
    for state in (recalled, said):
        outs = _speak(noting, state, 10)
        assert "".join(out.text for out in outs).strip() == "latte"
        assert outs[-1].done
        assert state.script is None
    assert (recalled.note_due, said.note_due) == (True, False)
    with pytest.raises(ValueError, match="too long"):
        noting.recall("a large " * 12, recalled)


def test_what_is_said_aside_is_not_remembered(engine: Engine) -> None:
    """A state aside remembers nothing of the session's past, and the session nothing of what was said aside."""
    state, alone, fresh = engine.new_state(), engine.new_state(), engine.new_state()
    for each in (state, alone):
        _listen(engine, each, 5)
        engine.read("latte", each, say=False)
    aside = engine.aside(state)
    engine.read("a large latte", aside, say=False)
    engine.read("a large latte", fresh, say=False)
    said, expected = ([out.text for out in _speak(engine, each, 4)] for each in (aside, fresh))
    assert said == expected
    engine.aside(alone)
    alone.encoder.reset()  # a reply is a new beginning for the ears
    alone.history[:] = 0.0
    alone.prefix.clear()
    _assert_same(_facts(engine, state), _facts(engine, alone))
