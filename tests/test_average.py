from pathlib import Path

import pytest
import torch

from models.checkpoint import read_header
from models.s2s import S2S
from tests.tiny import new_s2s, random_frames, write_checkpoints
from training import average, deepen
from training.train_s2s import load_s2s


def _logits(model: S2S) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(random_frames(model, 2, 6)).text


def test_a_deeper_model_does_the_same(tmp_path: Path) -> None:
    """Layers are added where they were asked for; what comes out is what came out."""
    write_checkpoints(tmp_path)
    plain = load_s2s(tmp_path / "s2s")
    count = plain.config.backbone["num_hidden_layers"]
    deepen.main(["--s2s", str(tmp_path / "s2s"), "--after", "0", str(count - 1), "--output", str(tmp_path / "deeper")])
    deeper = load_s2s(tmp_path / "deeper")
    assert len(deeper.backbone.layers) == count + 2
    torch.testing.assert_close(_logits(deeper), _logits(plain))
    assert not deeper.backbone.layers[1].mlp.down_proj.weight.any()
    with pytest.raises(ValueError, match=rf"layers \[{count}\]: this backbone \(llama\) has {count}"):
        deepen.deepen(plain, [count])


def test_an_average_lies_between(tmp_path: Path) -> None:
    """A quarter of the way; both ends are where they were; what it was made of is told."""
    write_checkpoints(tmp_path)
    torch.manual_seed(1)
    first, second = new_s2s(), new_s2s()
    start, end = first.text_head.weight.clone(), second.text_head.weight.clone()
    torch.testing.assert_close(average.between(first, second, 0.25).text_head.weight, 0.75 * start + 0.25 * end)
    same = [str(tmp_path / "s2s")] * 2
    average.main(["--s2s", *same, "--output", str(tmp_path / "mean")])
    torch.testing.assert_close(_logits(load_s2s(tmp_path / "mean")), _logits(load_s2s(tmp_path / "s2s")))
    assert read_header(tmp_path / "mean", "repartee-s2s")["provenance"]["averaged"] == f"0.5 of the way from {same[0]}"


def test_what_cannot_be_averaged_is_refused(tmp_path: Path) -> None:
    """Other sizes, a share outside, a folder without a model: one line."""
    with pytest.raises(ValueError, match="other sizes"):
        average.between(new_s2s(), deepen.deepen(new_s2s(), [0]), 0.5)
    with pytest.raises(ValueError, match="share 2 is not from 0 to 1"):
        average.between(new_s2s(), new_s2s(), 2.0)
    with pytest.raises(SystemExit, match=r"training\.average: .*nowhere"):
        average.main(["--s2s", str(tmp_path / "nowhere"), str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"training\.deepen: .*nowhere"):
        deepen.main(["--s2s", str(tmp_path / "nowhere"), "--after", "0", "--output", str(tmp_path / "out")])
