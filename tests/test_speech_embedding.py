from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from models.checkpoint import load_weights, read_header
from models.features import analyse_mel32, new_history
from models.speech_embedding import EMBEDDING_DIM, SpeechEmbedding
from tests.tiny import cuts, run_main, speech_like, stream
from training import convert_speech_embedding
from training.user_features import FRONT_END


@pytest.fixture(scope="module")
def net() -> SpeechEmbedding:
    """The shipped weights."""
    module = SpeechEmbedding().eval()
    load_weights(module, FRONT_END)
    return module


@pytest.fixture(scope="module")
def mel() -> torch.Tensor:
    """[2, 8 * 30, 32] of two sounds."""
    return torch.from_numpy(np.stack([analyse_mel32(speech_like(2.4, seed), new_history()) for seed in (0, 1)]))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(1,), (2, 5, 3)], ids=str)
def test_chunked_equals_whole(net: SpeechEmbedding, mel: torch.Tensor, sizes: tuple[int, ...]) -> None:
    """Frame by frame, or any number of frames at once, gives the same embeddings."""
    whole, _ = net(mel, net.init_state(2))
    assert whole.shape == (2, 30, EMBEDDING_DIM)
    chunked = torch.cat(stream(net, [mel], cuts(240, sizes, 8)), dim=1)
    torch.testing.assert_close(chunked, whole, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_prefix_and_batch(net: SpeechEmbedding, mel: torch.Tensor) -> None:
    """The future has no say, and neither has the other row."""
    whole, _ = net(mel, net.init_state(2))
    prefix, _ = net(mel[1:, :80], net.init_state(1))
    torch.testing.assert_close(prefix, whole[1:, :10], atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_window_is_760_ms(net: SpeechEmbedding, mel: torch.Tensor) -> None:
    """An embedding forgets what lies more than 76 hops back."""
    other = mel.clone()
    other[:, : 240 - 80] = 0.0
    whole, _ = net(mel, net.init_state(2))
    changed, _ = net(other, net.init_state(2))
    torch.testing.assert_close(changed[:, -1], whole[:, -1], atol=1e-3, rtol=1e-4)
    assert not torch.allclose(changed[:, -9], whole[:, -9], atol=1e-1)


def _as_onnx(net: SpeechEmbedding, path: Path) -> None:
    """A graph with the names and layout of the original file: convolutions, then the one batch norm."""
    nodes, values = [], []
    for index, conv in enumerate(net.convs):
        for part in ("weight", "bias"):
            tensor = conv.get_parameter(part).detach().numpy()
            values.append(numpy_helper.from_array(tensor, f"{part}_{index}"))
        nodes.append(helper.make_node("Conv", ["x", f"weight_{index}", f"bias_{index}"], ["x"]))
    facts = {"gain": net.scale.numpy(), "bias": net.shift.numpy(), "mean": np.zeros(24), "var": np.full(24, 1 - 1e-3)}
    values += [numpy_helper.from_array(value.astype(np.float32), name) for name, value in facts.items()]
    nodes.append(helper.make_node("BatchNormalization", ["x", *facts], ["x"]))
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], values)), str(path))


def test_conversion_from_onnx(net: SpeechEmbedding, tmp_path: Path) -> None:
    """The command writes the weights of an ONNX file in the shipped format."""
    _as_onnx(net, tmp_path / "model.onnx")
    run_main(convert_speech_embedding.main, "--onnx", tmp_path / "model.onnx", "--output", tmp_path / "out")
    read_header(tmp_path / "out", convert_speech_embedding.KIND)
    made = SpeechEmbedding()
    load_weights(made, tmp_path / "out")
    torch.testing.assert_close(dict(made.state_dict()), dict(net.state_dict()))
    assert read_header(FRONT_END, convert_speech_embedding.KIND)["config"].keys() == {"source"}


def test_other_graphs_are_refused(tmp_path: Path) -> None:
    """A graph with other layers is named."""
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [])), str(tmp_path / "other.onnx"))
    with pytest.raises(ValueError, match=r"other\.onnx: 0 convolutions"):
        convert_speech_embedding.load_onnx_weights(SpeechEmbedding(), tmp_path / "other.onnx")
