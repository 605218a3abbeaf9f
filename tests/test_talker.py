from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models.runtime import Engine, Mode
from models.s2s import S2S, agent_cross_entropy
from models.score import N_ACTING, SHOWN, SLOTS, Score
from models.talker import Talker
from models.tokenizer import PAD
from tests.tiny import cuts, new_s2s, run_main, speech_like, stream, tokenizer
from training import train_talker
from training.encode_dataset import EncodedTurn, save_codes
from training.train_s2s import load_s2s
from training.train_talker import ReplyBatches, collate, prepare

FRAMES = 23


@pytest.fixture
def talker() -> Talker:
    """Random weights, a chain that says something."""
    made = new_s2s().talker
    with torch.no_grad():
        made.chain.leave.normal_()
    return made


def inputs(talker: Talker, batch: int = 2) -> list[torch.Tensor]:
    """Any symbols, marks and codes; the first frame hears nothing."""
    draw = torch.Generator().manual_seed(4)
    before = torch.randint(0, 8, (batch, FRAMES, len(talker.fsq.groups)), generator=draw)
    before[:, 0] = -1
    return [
        torch.randint(0, talker.symbols.num_embeddings, (batch, FRAMES, SHOWN * SLOTS), generator=draw),
        torch.randint(0, 2, (batch, FRAMES, N_ACTING), generator=draw).float(),
        before,
    ]


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(1,), (4, 1, 7)])
def test_streaming_is_the_whole(talker: Talker, sizes: Sequence[int]) -> None:
    """Frame by frame or in pieces, a reply is the same."""
    parts = inputs(talker)
    whole, _ = talker(*parts, talker.init_state(2))
    torch.testing.assert_close(torch.cat(stream(talker, parts, cuts(FRAMES, sizes)), dim=1), whole)


@torch.no_grad()
@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_input_matters_and_only_the_past(talker: Talker, which: int) -> None:
    """A change in a frame is heard in it and not before."""
    parts = inputs(talker)
    changed = [part.clone() for part in parts]
    changed[which][:, 9] = (changed[which][:, 9] + 1) % (8 if which else talker.symbols.num_embeddings)
    one, other = (talker(*each, talker.init_state(2))[0] for each in (parts, changed))
    torch.testing.assert_close(one[:, :9], other[:, :9])
    assert (one[:, 9] - other[:, 9]).abs().max() > 1e-3


def turn(text: str, frames: int, seed: int = 0) -> EncodedTurn:
    """A reply of words spread over its frames."""
    pieces = tokenizer()
    words = text.split()
    step = frames / len(words)
    placed = [(pieces.encode(f" {word}"), index * step) for index, word in enumerate(words)]
    codes = np.random.default_rng(seed).integers(0, 8, (frames, len(new_s2s().config.agent_levels)))
    return EncodedTurn(
        np.zeros((0, 1), np.uint16), (0.0, 0.0), [], codes.astype(np.uint16), placed, text, note=[]
    )  # fmt: skip


def test_the_engine_speaks_as_the_model_was_trained(tiny_models: Path) -> None:
    """Its reply, prepared as training data, gives in torch the very codes that it spoke."""
    engine = Engine.load(tiny_models / "models" / "codec", tiny_models / "models" / "s2s")
    model = load_s2s(tiny_models / "models" / "s2s").eval()
    state = engine.new_state()
    for pcm in speech_like(0.41).reshape(-1, 1920):
        engine.step(pcm, state, Mode.LISTEN)
    engine.read("Sure, a <emph>large latte <pause_short>with soy.", state, say=True)
    codes = []
    for _ in range(90):
        out = engine.step(None, state, Mode.SPEAK)
        codes += [] if out.pcm is None else [state.step.inputs["agent"][0, 0].copy()]
        if out.done:
            break
    said = [([token], float(at)) for at, token in enumerate(state.utterance.said) if token != PAD]
    assert len(said) > 5
    reply = EncodedTurn(np.zeros((0, 1)), (0, 0), [], np.array(codes, np.uint16), said, "all", note=[])
    lead = model.config.lead_frames
    batch = collate(prepare([reply], Score.of(tokenizer()), lead), 0.0, np.random.default_rng(0))
    with torch.no_grad():
        hidden, _ = model.talker(batch.symbols, batch.acting, batch.before, model.talker.init_state(1))
        logits = model.talker.logits(hidden[0], batch.codes[0])
    parts = torch.split(logits, model.agent_fsq.levels.tolist(), dim=-1)
    medians = [(part.softmax(-1).cumsum(-1) < 0.5).sum(-1) for part in parts]
    spoken = model.agent_fsq.to_indices(batch.codes[0])
    assert (torch.stack(medians, dim=-1) == spoken).float().mean() > 0.99
    assert len({tuple(frame) for frame in codes}) > 3


def test_replies_are_seen_once() -> None:
    """A sentence that is said the same way again is the same reply; every one is in an epoch once."""
    turns = [turn("a large latte", 9), turn("a large latte", 9), turn("Sure, a latte", 12), turn("soy milk", 30)]
    replies = prepare(turns, Score.of(tokenizer()), 3)
    assert [len(reply.codes) for reply in replies] == [9, 12, 30]
    order = [pick for batch in ReplyBatches(replies, 24, 0.0, 0).an_epoch() for pick in batch]
    assert sorted(order) == [0, 1, 2]


def test_disturbed_codes_are_missing_or_others() -> None:
    """Only what is fed back is disturbed, never what is asked for."""
    replies = prepare([turn("a large latte", 40)], Score.of(tokenizer()), 3)
    clean, dirty = (collate(replies, share, np.random.default_rng(1)) for share in (0.0, 0.5))
    assert torch.equal(clean.codes, dirty.codes)
    hit = (clean.before != dirty.before).any(-1)[0]
    assert 10 < hit.sum() < 30
    assert 0 < (dirty.before[0, hit, 0] < 0).sum() < hit.sum()
    assert torch.equal(clean.before[0, 1:], clean.codes[0, :-1])


@pytest.fixture
def data(tiny_models: Path, tmp_path: Path) -> Path:
    """Codes of a few replies."""
    rows = [
        {"id": str(index), "split": "valid" if index > 6 else "train", "turns": [turn("a large latte", 9 + index, 3)]}
        for index in range(8)
    ]
    save_codes(tmp_path / "codes" / "codes_0.npz", rows)
    return tmp_path / "codes"


def train(data: Path, tiny: Path, output: Path, *more: object) -> S2S:
    where = ["--data_dir", data, "--codec", tiny / "codec", "--s2s", tiny / "s2s", "--output", output]
    run_main(train_talker.main, *where, "--frames", 200, "--corrupt", 0.0, *more)
    return load_s2s(output)


def test_training_learns_to_speak(
    data: Path, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight ways to say a sentence are soon known; the backbone stays what it was."""
    made = train(data, tiny_models, tmp_path / "out", "--steps", 60, "--lr", 0.01)
    losses = [float(line.split("  codes ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()
              if "  codes " in line]  # fmt: skip
    assert losses[-1] < 0.7 * losses[0]
    start = load_s2s(tiny_models / "s2s")
    for name, part in start.state_dict().items():
        if not name.startswith("talker."):
            assert torch.equal(part, made.state_dict()[name]), name
    (reply,) = prepare([turn("a large latte", 9, 3)], Score.of(tokenizer()), made.config.lead_frames)
    batch = collate([reply], 0.0, np.random.default_rng(0))
    with torch.no_grad():
        loss = []
        for model in (made, start):
            hidden, _ = model.talker(batch.symbols, batch.acting, batch.before, model.talker.init_state(1))
            loss.append(agent_cross_entropy(model.talker.logits(hidden[0], batch.codes[0]), batch.codes[0],
                                            model.agent_fsq).mean())  # fmt: skip
    assert loss[0] < 0.8 * loss[1]


def test_training_goes_on_where_it_was(data: Path, tiny_models: Path, tmp_path: Path) -> None:
    """A stopped run continues with the step after its last checkpoint."""
    train(data, tiny_models, tmp_path / "out", "--steps", 3)
    first = load_s2s(tmp_path / "out").talker
    train(data, tiny_models, tmp_path / "out", "--steps", 3)  # used up already
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), load_s2s(tmp_path / "out").talker.parameters(),
                                                 strict=True))  # fmt: skip
    again = train(data, tiny_models, tmp_path / "out", "--steps", 5).talker
    assert not torch.equal(first.codes.weight, again.codes.weight)


def test_phones_of_another_tokenizer_are_refused(data: Path, tiny_models: Path, tmp_path: Path) -> None:
    """The message names both."""
    codec = tmp_path / "codec"
    codec.mkdir()
    pieces = tokenizer()
    pieces.lexicon.table["large"] = "lˈɑɹʤx"
    pieces.save(codec / "tokenizer.json")
    with pytest.raises(ValueError, match="phone symbols"):
        train(data, tmp_path, tmp_path / "out", "--codec", codec, "--s2s", tiny_models / "s2s", "--steps", 1)
