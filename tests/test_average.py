from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoint import read_header
from models.codec import SemanticEncoder
from models.s2s import S2S
from tests.tiny import CODEC, new_s2s, random_frames, write_checkpoints
from training import average, deepen, widen
from training.encoders import CodecEncoders, load_codec_config, load_semantic, save_codec
from training.export import check_alphabet
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


def test_a_wider_codec_is_heard_the_same(tmp_path: Path) -> None:
    """Its first codes are the old ones and the model does not listen to the others yet; both are of one alphabet."""
    write_checkpoints(tmp_path)
    source = ["--codec", str(tmp_path / "codec"), "--s2s", str(tmp_path / "s2s")]
    widen.main([*source, "--codes", "2", "--output", str(tmp_path / "wide")])
    heard = np.random.default_rng(0).standard_normal((9, 96)).astype(np.float32)
    old, new = (CodecEncoders(tmp_path / where).semantic(heard) for where in ("codec", "wide/codec"))
    assert new.shape == (9, old.shape[1] + 2)
    np.testing.assert_array_equal(new[:, : old.shape[1]], old)
    narrow, wide = load_s2s(tmp_path / "s2s"), load_s2s(tmp_path / "wide")
    check_alphabet(tmp_path / "wide" / "codec", tmp_path / "wide", wide.config)
    frames = random_frames(wide, 2, 6)
    fewer = replace(frames, user=frames.user[..., : old.shape[1]])
    with torch.no_grad():
        torch.testing.assert_close(wide.eval()(frames).text, narrow.eval()(fewer).text)
    with pytest.raises(SystemExit, match=r"training\.widen: 0 codes more"):
        widen.main([*source, "--codes", "0", "--output", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"training\.widen: .*trained for another codec"):
        widen.main([source[0], str(tmp_path / "wide" / "codec"), *source[2:], "--codes", "1", "--output", "none"])


def test_codecs_are_averaged_too(tmp_path: Path) -> None:
    """The semantic encoder lies where the model lies; one codec of other sizes is refused."""
    write_checkpoints(tmp_path)
    first, second, both = (tmp_path / name for name in ("codec", "tuned", "both"))
    torch.manual_seed(2)
    encoder = load_semantic(first)
    start = encoder.leave.weight.detach().clone()
    with torch.no_grad():
        encoder.leave.weight += 1.0
    save_codec(second, first, encoder, load_codec_config(first), {})
    same = ["--s2s", *[str(tmp_path / "s2s")] * 2, "--output", str(both)]
    average.main([*same, "--codec", str(first), str(second), "--share", "0.25"])
    torch.testing.assert_close(load_semantic(both / "codec").leave.weight.detach(), start + 0.25)
    told = read_header(both / "codec", "repartee-codec", "semantic")["provenance"]
    assert told["averaged"] == f"0.25 of the way from {first}"
    source = ["--codec", str(first), "--s2s", str(tmp_path / "s2s")]
    widen.main([*source, "--codes", "1", "--output", str(tmp_path / "wide")])
    with pytest.raises(SystemExit, match="other sizes"):
        average.main([*same, "--codec", str(first), str(tmp_path / "wide" / "codec")])


@torch.no_grad()
def test_what_is_new_is_not_averaged_with_noise() -> None:
    """Codes nobody listens to are taken as they were trained; the rest stays."""
    torch.manual_seed(4)
    first, second = SemanticEncoder(CODEC), SemanticEncoder(CODEC)
    model = new_s2s()
    model.get_parameter("user_embed.0.weight")[:, 4:] = 0.0
    old = first.leave.weight[:4].clone()
    average.share_what_is_new(model, first, second)
    torch.testing.assert_close(first.leave.weight, torch.cat([old, second.leave.weight[4:]]))
    torch.testing.assert_close(first.leave.bias[4:], second.leave.bias[4:])


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
