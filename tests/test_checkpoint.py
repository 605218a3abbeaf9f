import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from models import checkpoint
from models.artefacts import open_graph, read_config
from models.errors import ArtefactError

KIND = "repartee-test"


@dataclass(frozen=True)
class Config:
    """Settings of the net below."""

    size: int = 3
    levels: tuple[tuple[int, ...], ...] = ((8, 5), (3, 2))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved linear layer."""
    checkpoint.save_model(tmp_path / "net", KIND, torch.nn.Linear(3, 2), Config(), {"step": 7})
    return tmp_path / "net"


def test_round_trip(saved: Path) -> None:
    """Weights, configuration and origin come back; nothing else is left in the directory."""
    header = checkpoint.read_header(saved, KIND)
    assert header["provenance"] == {"step": 7}
    assert Config(**{key: checkpoint.tuplify(value) for key, value in header["config"].items()}) == Config()
    net, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    checkpoint.load_weights(net, saved)
    checkpoint.load_weights(other, saved)
    assert torch.equal(net.weight, other.weight)
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_half_precision_weights_load_into_a_full_model(saved: Path) -> None:
    """What ships in half precision is read back as float32."""
    checkpoint.save_model(saved, KIND, torch.nn.Linear(3, 2).half(), Config(), {}, "half")
    net = torch.nn.Linear(3, 2)
    checkpoint.load_weights(net, saved, "half")
    assert net.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"format": "repartee-other"}, {"version": None}, {"format": None}], ids=str
)
def test_other_versions_and_kinds_are_refused(saved: Path, change: dict[str, object]) -> None:
    """The error names the file."""
    path = saved / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtefactError, match=r"model\.json"):
        checkpoint.read_header(saved, KIND)


@pytest.mark.parametrize("content", ["", "[1]", '{"format":', "\x00"], ids=repr)
def test_damaged_headers_are_refused(saved: Path, content: str) -> None:
    """Not JSON, or not an object."""
    (saved / "model.json").write_text(content)
    with pytest.raises(ArtefactError, match=r"model\.json"):
        checkpoint.read_header(saved, KIND)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """Header or weights that are not there are the same error."""
    with pytest.raises(ArtefactError, match=r"model\.json"):
        checkpoint.read_header(tmp_path, KIND)
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        checkpoint.load_weights(torch.nn.Linear(1, 1), tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_weights_are_refused(saved: Path, keep: int) -> None:
    """A file cut anywhere is named, never loaded in part."""
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        checkpoint.load_weights(torch.nn.Linear(3, 2), saved)


@pytest.mark.parametrize("net", [torch.nn.Linear(4, 2), torch.nn.Linear(3, 2, bias=False), torch.nn.LayerNorm(3)])
def test_weights_that_do_not_fit_are_refused(saved: Path, net: torch.nn.Module) -> None:
    """Other shapes, missing and extra names: loading is strict."""
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        checkpoint.load_weights(net, saved)


def test_json_is_old_or_new_never_half(tmp_path: Path) -> None:
    """A value that cannot be written leaves the old file."""
    path = tmp_path / "a.json"
    checkpoint.write_json(path, {"a": 1})
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        checkpoint.write_json(path, loop)
    assert json.loads(path.read_text()) == {"a": 1}


def test_git_commit_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training works without git."""
    monkeypatch.chdir(tmp_path)
    assert checkpoint.git_commit() == "unknown"
    subprocess.run(["git", "init", "-q"], check=True)
    assert checkpoint.git_commit() == "unknown"


@pytest.mark.parametrize(
    "content", [None, "", "[]", '{"format": "other", "version": 1}', '{"format": "repartee-test", "version": 9}']
)
def test_bad_runtime_configs_are_refused(tmp_path: Path, content: str | None) -> None:
    """Missing, damaged, of another kind or version: the error names config.json."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ArtefactError, match=r"config\.json"):
        read_config(tmp_path, KIND)


@pytest.mark.parametrize("content", [None, b"", b"\x08\x07", b"not a graph" * 100])
def test_bad_graphs_are_refused(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty or garbage: the error names the graph."""
    if content is not None:
        (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"net\.onnx"):
        open_graph(tmp_path / "net.onnx")
