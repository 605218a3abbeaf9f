import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.domain.source_map import DomainError
from models import export as graphs
from models.checkpoint import load_weights, save_model
from models.errors import ArtefactError
from models.s2s import S2S
from tests.tiny import CODEC, new_codec, new_s2s, run_main, s2s_config, tokenizer, write_checkpoints
from training import export
from training.train_s2s import load_s2s


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the trainers leave, not exported."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoints(folder)
    return folder


def test_export_holds_all_that_the_runtime_needs(tiny_models: Path) -> None:
    """Graphs, tokenizer, configuration and the weights they were made from, and parity figures within bounds."""
    models = tiny_models / "models"
    names = {str(path.relative_to(models)) for path in models.rglob("*") if path.is_file()}
    graphs = {"codec/semantic_encoder.onnx", "codec/acoustic_encoder.onnx", "codec/decoder.onnx", "s2s/step.onnx"}
    assert graphs | {"codec/config.json", "s2s/config.json", "s2s/model.safetensors", "s2s/tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".part", ".data"))]
    parity = json.loads((models / "codec" / "config.json").read_text())["parity"]
    assert parity["semantic"] > 0.97
    assert parity["audio"] < export.AUDIO_PARITY
    assert json.loads((models / "s2s" / "config.json").read_text())["parity"] < export.PARITY


def test_graphs_do_not_say_where_they_were_made(tiny_models: Path) -> None:
    """The exporter notes stack traces with the source's folder."""
    folder = str(Path(graphs.__file__).parent).encode()
    for path in (tiny_models / "models").rglob("*.onnx"):
        assert folder not in path.read_bytes(), path.name


def test_exported_weights_are_the_trained_ones(tiny_models: Path) -> None:
    """The half-precision weights beside the graph load again and are the trained ones, rounded."""
    trained, shipped = load_s2s(tiny_models / "s2s"), load_s2s(tiny_models / "models" / "s2s")
    for (name, one), other in zip(trained.named_parameters(), shipped.parameters(), strict=True):
        assert torch.equal(one.half().float(), other), name


def test_saving_half_precision_leaves_the_model_alone(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """half() and float() on the model itself rounded its rotary frequencies, which are not among its weights."""
    seen: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(graphs, "export_step", lambda model, path: seen.append(dict(model.named_buffers())))
    monkeypatch.setattr(export, "check_step", lambda model, path: 0.0)
    export.export_s2s(load_s2s(checkpoints / "s2s"), {}, checkpoints / "codec", tmp_path / "s2s", {}, [0])
    expected = dict(new_s2s().named_buffers())
    assert any(name.endswith("inv_freq") for name in expected)
    for name, buffer in expected.items():
        assert torch.equal(seen[0][name], buffer), name


class _Other(S2S):
    """A model whose step differs from what was exported."""

    def heads(self, hidden: torch.Tensor) -> Any:
        return super().heads(hidden * 1.01)


def test_a_graph_of_other_weights_is_refused(tiny_models: Path) -> None:
    """One per cent on the last layer's input is found."""
    model = _Other(s2s_config()).eval()
    load_weights(model, tiny_models / "models" / "s2s")
    with pytest.raises(export.ParityError, match="logits"):
        export.check_step(model, tiny_models / "models" / "s2s" / "step.onnx")


@pytest.mark.parametrize("part", ["semantic", "acoustic", "decoder"])
def test_codec_graphs_of_other_weights_are_refused(tiny_models: Path, part: str) -> None:
    """Each of the three graphs is compared."""
    codec = new_codec()
    for name in ("semantic", "acoustic", "decoder"):
        load_weights(getattr(codec, name), tiny_models / "models" / "codec", name)
    with torch.no_grad():
        for parameter in getattr(codec, part).parameters():
            parameter.add_(0.02 * torch.randn_like(parameter) * parameter.abs().mean().clamp_min(1.0))
    with pytest.raises(export.ParityError):
        export.check_codec(codec.semantic, codec.acoustic, codec.decoder, tiny_models / "models" / "codec")


def test_check_refuses_what_is_not_a_number() -> None:
    """NaN is never within a tolerance."""
    with pytest.raises(export.ParityError, match="audio"):
        export.check("audio", np.array([np.nan]), np.array([0.0]))


def test_a_refused_export_leaves_nothing(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the S2S graph disagrees, neither model appears, and an older export stays whole."""

    def disagree(*_: object) -> float:
        raise export.ParityError("text logits: torch and ONNX differ")

    monkeypatch.setattr(export, "check_step", disagree)
    monkeypatch.setattr(export, "check_codec", lambda *_: {})
    for name in ("export_semantic", "export_acoustic", "export_decoder", "export_step"):
        monkeypatch.setattr(graphs, name, lambda *_: None)
    old = tmp_path / "models" / "codec" / "config.json"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    arguments = ["--codec", checkpoints / "codec", "--s2s", checkpoints / "s2s", "--output", tmp_path / "models"]
    with pytest.raises(export.ParityError):
        run_main(export.main, *arguments)
    assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == [old]
    assert old.read_text() == "old"


def test_the_domain_travels_with_the_model(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path
) -> None:
    """The domain file ends up beside the S2S model as it is; a wrong one is refused before anything is written."""
    monkeypatch.setattr(export, "check_step", lambda *_: 0.0)
    monkeypatch.setattr(export, "check_codec", lambda *_: {})
    for name in ("export_semantic", "export_acoustic", "export_decoder", "export_step"):
        monkeypatch.setattr(graphs, name, lambda *_: None)
    domain = repo_root / "configs" / "domains" / "coffee.yaml"
    arguments = ["--codec", checkpoints / "codec", "--s2s", checkpoints / "s2s", "--output", tmp_path / "models"]
    run_main(export.main, *arguments, "--domain", domain)
    assert (tmp_path / "models" / "s2s" / "domain.yaml").read_bytes() == domain.read_bytes()
    run_main(export.main, *arguments)
    assert not (tmp_path / "models" / "s2s" / "domain.yaml").exists()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 7\n")
    arguments[-1] = tmp_path / "others"
    with pytest.raises(DomainError, match=r"wrong\.yaml:\d+"):
        run_main(export.main, *arguments, "--domain", wrong)
    assert not (tmp_path / "others").exists()


@pytest.mark.parametrize("other", ["vocabulary", "levels"])
def test_models_of_different_codecs_are_refused(checkpoints: Path, tmp_path: Path, other: str) -> None:
    """Both directories once got the S2S model's alphabet, so that a foreign codec passed the runtime's check."""
    values = {"vocabulary": len(tokenizer()), "user_levels": CODEC.semantic_levels, "agent_levels": CODEC.agent_levels}
    values |= {"vocabulary": 300} if other == "vocabulary" else {"user_levels": ((8, 5, 5, 5), (8, 5, 5, 4))}
    config = type(s2s_config())(**values, backbone=s2s_config().backbone)  # type: ignore[arg-type]
    save_model(tmp_path / "s2s", "repartee-s2s", S2S(config), config, {})
    arguments = ["--codec", checkpoints / "codec", "--s2s", tmp_path / "s2s", "--output", tmp_path / "models"]
    with pytest.raises(ArtefactError, match="another codec"):
        run_main(export.main, *arguments)


def test_provenance_names_no_folder_of_this_machine() -> None:
    """Absolute paths keep their last two parts; relative ones, numbers and switches stay."""
    made = export.portable(
        {"command": "x --audio a=/home/me/data/audio:0.5 --out runs/a/b/c", "step": 3, "dirs": "['/a/b/c/d']",
         "talker": {"data_dir": "/home/me/data/codes"}}
    )  # fmt: skip
    assert made == {"command": "x --audio a=data/audio:0.5 --out runs/a/b/c", "step": 3, "dirs": "['c/d']",
                    "talker": {"data_dir": "data/codes"}}  # fmt: skip
