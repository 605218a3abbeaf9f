import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.domain.dialogue import Dialogue, DialogueTurn, Status
from models.checkpoint import read_header, save_model
from models.errors import ArtefactError
from models.s2s import S2S
from models.tokenizer import FIRST_PIECE, FIRST_PROSODY, PAD, Tokenizer
from tests.fakes import free_port
from tests.tiny import CODEC, new_s2s, run_main, tokenizer, write_checkpoints
from training import train_s2s
from training.domain import OrderState, load_domain
from training.encode_dataset import EncodedTurn, save_codes
from training.s2s_batches import Batcher
from training.s2s_data import IGNORE
from training.together import new_optimizer
from training.train_s2s import load_s2s, objectives, token_loss, validate
from training.warm_start import start_from
from training.written import draw_dialogue, has_marks, picks_one_of_several, written_dialogues

CONFIG = """s2s:
  window: 128
  backbone: {model_type: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
             num_key_value_heads: 1, head_dim: 16, intermediate_size: 64, vocab_size: 8}
"""


def _dialogue(seed: int) -> list[EncodedTurn]:
    rng = np.random.default_rng(seed)
    pieces = tokenizer()
    return [
        EncodedTurn(
            user=rng.integers(0, 1000, (30, len(CODEC.semantic_levels))).astype(np.uint16),
            speech=(5.0, 18.0),
            user_words=[(pieces.encode("large"), 10.0), (pieces.encode("latte"), 17.0)],
            agent=rng.integers(0, 1000, (10, len(CODEC.agent_levels))).astype(np.uint16),
            agent_words=[(pieces.encode("Sure,"), 0.5), (pieces.encode("latte."), 5.0)],
            agent_text="Sure, latte.",
        )
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec, eight encoded dialogues and a configuration."""
    folder = tmp_path_factory.mktemp("data")
    write_checkpoints(folder)
    splits = ["train"] * 6 + ["valid"] * 2
    conversations = [{"id": f"{i}", "split": split, "turns": _dialogue(i)} for i, split in enumerate(splits)]
    save_codes(folder / "codes" / "codes_0.npz", conversations)
    (folder / "s2s.yaml").write_text(CONFIG)
    return folder


def _train(data: Path, output: Path, *more: object) -> None:
    where = ["--data_dir", data / "codes", "--codec", data / "codec", "--output", output]
    run_main(train_s2s.main, *where, "--config", data / "s2s.yaml", "--minutes", 0, "--frames", 150, *more)


def test_losses_fall_on_a_few_dialogues() -> None:
    """Sixty steps on three dialogues learn their text, transcript, codes and turn ends."""
    model = new_s2s(128).train()
    with torch.no_grad():
        model.text_head.bias.zero_()
    batcher = Batcher([_dialogue(seed) for seed in range(3)], model.config, 200, 0.0, 0)
    optimizer = new_optimizer(model, 3e-3)
    first, _ = objectives(model, batcher.next())
    for _ in range(60):
        losses, scores = objectives(model, batcher.next())
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for name, start in first.items():
        assert losses[name] < 0.7 * start, name
    assert scores["text_acc"] > 0.7


def test_training_resumes_at_its_step(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped after 4 steps and asked for 6, the second run makes two more; asked again, none."""
    _train(data, tmp_path / "out", "--steps", 4)
    header = read_header(tmp_path / "out", "repartee-s2s")
    assert header["provenance"]["step"] == 4
    assert header["provenance"]["commit"]
    weights = load_s2s(tmp_path / "out").text_head.weight
    _train(data, tmp_path / "out", "--steps", 6)
    assert read_header(tmp_path / "out", "repartee-s2s")["provenance"]["step"] == 6
    after = load_s2s(tmp_path / "out").text_head.weight
    assert not torch.equal(weights, after)
    _train(data, tmp_path / "out", "--steps", 6)
    assert torch.equal(load_s2s(tmp_path / "out").text_head.weight, after)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if "valid_text " not in line] == ["0"]
    assert [line.split()[1] for line in lines if "valid_text " in line] == ["4", "6", "6"]


def test_training_starts_from_a_checkpoint(data: Path, tmp_path: Path) -> None:
    """``--init`` keeps the model's weights, and its sizes where ``--config`` gives no others."""
    _train(data, tmp_path / "out", "--steps", 1, "--init", data / "s2s", "--lr", 1e-9)
    made, start = load_s2s(tmp_path / "out"), load_s2s(data / "s2s")
    assert made.config == replace(start.config, window=128, backbone=made.config.backbone)
    assert made.config.window != start.config.window
    torch.testing.assert_close(made.text_head.weight, start.text_head.weight)


def test_two_workers_make_one_model(data: Path, tmp_path: Path) -> None:
    """Two processes that average gradients write one checkpoint and one resumable state."""
    _train(data, tmp_path / "out", "--steps", 2, "--workers", 2, "--port", free_port())
    assert read_header(tmp_path / "out", "repartee-s2s")["provenance"]["step"] == 2
    assert (tmp_path / "out" / "run" / "trainer.pt").exists()
    assert not (tmp_path / "out" / "run_1" / "trainer.pt").exists()


def test_pad_counts_less_and_free_targets_nothing() -> None:
    """The weighted mean of the cross-entropies; accuracy is that of what is no PAD."""
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 1] = 5.0
    target = torch.tensor([[1, PAD, IGNORE]])
    one, pad = torch.nn.functional.cross_entropy(logits[0, :2], target[0, :2], reduction="none")
    loss, accuracy = token_loss(torch.nn.Identity(), logits, target, 0.3)
    assert loss.item() == pytest.approx(((one + 0.3 * pad) / 1.3).item())
    assert accuracy == 1.0
    assert token_loss(torch.nn.Identity(), logits, torch.full((1, 3), IGNORE))[0] == 0.0


def test_training_starts_from_other_sizes_and_pieces(tmp_path: Path) -> None:
    """What a smaller model knew is kept: rows of pieces move to where the pieces now are."""
    old = new_s2s(128)
    save_model(tmp_path, "repartee-s2s", old, old.config, {})
    tokenizer().save(tmp_path / "tokenizer.json")
    pieces = Tokenizer.train(["a large latte with soy milk", "Sure, a large latte. Anything else?", "hot water hot"])
    config = replace(old.config, vocabulary=len(pieces), user_levels=old.config.user_levels * 2)
    new = S2S(config)
    partial = start_from(new, pieces, tmp_path)
    assert "text_head.weight" in partial
    assert "user_embed.0.weight" in partial
    assert "turn_head.weight" not in partial
    for word in ("latte", "soy", "."):
        (now,), (before,) = pieces.encode(word), tokenizer().encode(word)
        torch.testing.assert_close(new.text_head.weight[now], old.text_head.weight[before])
        torch.testing.assert_close(new.transcript_embed.weight[now], old.transcript_embed.weight[before])
    (hot,) = pieces.encode("hot")
    assert not any(torch.equal(new.text_head.weight[hot], row) for row in old.text_head.weight)
    torch.testing.assert_close(
        new.get_parameter("user_embed.0.weight")[:, :8], old.get_parameter("user_embed.0.weight")
    )


def test_written_dialogues_come_from_the_domain(tmp_path: Path) -> None:
    """Training on them alone needs no codes; every word of theirs is a word of the domain."""
    domain = Path("configs/domains/coffee.yaml")
    write_checkpoints(tmp_path)
    flags = ["--codec", tmp_path / "codec", "--domain", domain, "--frames", 200, "--minutes", 0]
    run_main(train_s2s.main, *flags, "--written_share", 1, "--steps", 2, "--output", tmp_path / "out")
    assert read_header(tmp_path / "out", "repartee-s2s")["provenance"]["step"] == 2
    pieces = Tokenizer.train(load_domain(domain).words())
    turns = written_dialogues(domain, pieces)(np.random.default_rng(1))
    assert all(len(ids) == 1 for user, _, _ in turns for ids in user)
    assert all(ids for _, agent, _ in turns for ids in agent)
    tokens = range(FIRST_PROSODY, FIRST_PIECE)
    assert not any(token in tokens for _, agent, _ in turns for ids in agent for token in ids)
    marked = written_dialogues(domain, pieces, marked=True)(np.random.default_rng(1))
    assert any(token in tokens for _, agent, _ in marked for ids in agent for token in ids)
    plain = [[[token for token in ids if token not in tokens] for ids in agent] for _, agent, _ in marked]
    assert plain == [agent for _, agent, _ in turns]


def test_most_written_dialogues_pick_an_item_of_several() -> None:
    """A removal or a change among several items does, an order on top of others and a placed one do not."""
    domain = load_domain("configs/domains/coffee.yaml")
    latte, mocha = {"coffeeDrink": "latte"}, {"coffeeDrink": "mocha"}

    def dialogue(*states: tuple[dict[str, str], ...], status: Status = "open") -> Dialogue:
        return [DialogueTurn("", "", {}, "", OrderState(items, status)) for items in states]

    assert picks_one_of_several(dialogue((latte, mocha), (mocha,)))
    assert picks_one_of_several(dialogue((latte, mocha), ({**latte, "size": "large"}, mocha)))
    assert not picks_one_of_several(dialogue((latte,), (latte, mocha), (latte, mocha), ()))
    assert not picks_one_of_several(dialogue((latte,), ({**latte, "size": "large"},)))
    assert not picks_one_of_several(dialogue((latte, mocha), (latte,), status="placed"))
    rng = random.Random(1)
    assert 0.5 < np.mean([picks_one_of_several(draw_dialogue(domain, rng)) for _ in range(200)]) < 0.8


def test_replies_with_tokens_are_noticed() -> None:
    """Text to be said may hold tokens without the replies having any."""
    turn = _dialogue(0)[0]
    marked = replace(turn, agent_words=[(tokenizer().encode("<emph>latte"), 0.0)])
    said = replace(marked, user=turn.user[:0])
    assert not has_marks([[turn], [said]])
    assert has_marks([[turn, marked]])


def test_no_validation_set_is_no_error() -> None:
    """It once ended a small data set's training with an empty queue, after the last step."""
    model = new_s2s(128)
    assert validate(model, [], model.config, 200) == {}
    assert set(validate(model, [_dialogue(0)], model.config, 200)) >= {
        "valid_text",
        "valid_transcript",
        "valid_text_acc",
    }


@pytest.mark.parametrize("problem", ["no codes", "window", "notes"])
def test_unusable_data_is_named(data: Path, tmp_path: Path, problem: str) -> None:
    """No encoded data, none that fits the context, none with the notes asked for: a sentence that says where."""
    folder = tmp_path / "data"
    folder.mkdir()
    if problem == "window":
        save_codes(folder / "codes_0.npz", [{"id": "0", "split": "train", "turns": _dialogue(0) * 9}])
    where = ["--data_dir", folder, "--codec", data / "codec", "--output", tmp_path / "out", "--steps", 1]
    if problem == "notes":
        save_codes(folder / "codes_0.npz", [{"id": "0", "split": "train", "turns": _dialogue(0)}])
        where += ["--domain", Path("configs/domains/coffee.yaml")]
    with pytest.raises(ValueError, match=str(folder)):
        run_main(train_s2s.main, *where, "--config", data / "s2s.yaml")


def test_bad_checkpoints_are_named(data: Path, tmp_path: Path) -> None:
    """A missing one, and weights that do not fit their configuration."""
    with pytest.raises(ArtefactError, match=r"model\.json"):
        load_s2s(tmp_path)
    config = new_s2s(128).config
    save_model(tmp_path, "repartee-s2s", torch.nn.Linear(1, 1), config, {})
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        load_s2s(tmp_path)
