import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from models.checkpoint import save_model
from models.errors import ArtefactError
from models.runtime_lora import ADAPTER_FILE, fingerprint_of, read_adapter, with_adapter
from models.s2s import S2S, S2SConfig
from models.tokenizer import FIRST_PROSODY
from tests.tiny import CODEC, GPT2, new_s2s, random_frames, s2s_config, tokenizer
from training.lora import LoraError, LoraSettings, adapt, count, merge, merged, model_fingerprint, save_adapter
from training.train_s2s import load_s2s

GPT2_PARAMETERS = 124_439_808
GPT2_RANK_8 = 294_912


def test_counts_of_gpt2_are_the_known_ones() -> None:
    """Rank 8 on c_attn of a GPT-2 backbone: 294,912 trainable beside 124,439,808; the same inside an S2S model."""
    with torch.device("meta"):
        backbone = AutoModel.from_config(AutoConfig.for_model("gpt2"))
        config = S2SConfig(300, CODEC.semantic_levels, CODEC.agent_levels, backbone={"model_type": "gpt2"})
        whole = S2S(config)
    assert count(backbone) == (0, GPT2_PARAMETERS)
    assert count(adapt(backbone, LoraSettings())) == (GPT2_PARAMETERS, GPT2_RANK_8)
    assert count(adapt(whole, LoraSettings(heads=False)))[1] == GPT2_RANK_8


def _disturb(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part in model.parameters():
            if part.requires_grad:
                part.add_(torch.randn(part.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("backbone", [None, GPT2], ids=["llama", "gpt2"])
def test_merging_computes_the_same(backbone: dict | None) -> None:
    """A new adapter changes nothing; a trained one does, and merged into the weights it gives the same logits."""
    model = new_s2s(backbone=backbone) if backbone else new_s2s()
    frames = random_frames(model, 2, 12)
    with torch.no_grad():
        before = model(frames)
        adapted = adapt(model, LoraSettings(rank=4))
        fresh = model(frames)
        torch.testing.assert_close(fresh.text, before.text)
        frozen = {name: part.clone() for name, part in model.named_parameters() if not part.requires_grad}
        _disturb(model)
        trained = model(frames)
        assert all(torch.equal(part, frozen[name]) for name, part in model.named_parameters() if name in frozen)
        one = merged(adapted)
        again = one(frames)
    assert type(one) is S2S
    assert set(dict(one.named_parameters())) == set(
        dict(new_s2s(backbone=backbone or s2s_config().backbone).named_parameters())
    )
    for name in ("text", "transcript"):
        assert (getattr(trained, name) - getattr(before, name)).abs().max() > 0.05
        torch.testing.assert_close(getattr(again, name), getattr(trained, name), rtol=1e-3, atol=1e-3)


def test_of_the_tables_only_prosody_tokens_are_trained() -> None:
    """Words keep their vectors, the seven tokens get new ones."""
    model = new_s2s()
    table = model.text_embed.weight.detach().clone()
    adapted = adapt(model, LoraSettings())
    _disturb(model)
    changed = (merged(adapted).text_embed.weight - table).abs().amax(dim=1) > 0
    assert changed.nonzero().flatten().tolist() == list(range(FIRST_PROSODY, FIRST_PROSODY + 7))


def test_settings_without_sense_are_refused() -> None:
    """Layers that are not there are named beside those that are; so are ranks and shares out of range."""
    with pytest.raises(LoraError, match=r"no layers c_attn; it has down_proj, gate_proj"):
        adapt(new_s2s(), LoraSettings(targets=("c_attn",)))
    with pytest.raises(LoraError, match="rank must be at least 1"):
        LoraSettings(rank=0)
    with pytest.raises(LoraError, match="dropout"):
        LoraSettings(dropout=1.0)
    with pytest.raises(LoraError, match="alpha"):
        LoraSettings(alpha=0.0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base in single precision, ``s2s``, and its tokenizer."""
    model = new_s2s()
    save_model(tmp_path / "s2s", "repartee-s2s", model, model.config, {})
    tokenizer().save(tmp_path / "s2s" / "tokenizer.json")
    return tmp_path / "s2s"


def _save(base: Path, directory: Path) -> torch.Tensor:
    """A trained adapter of the base in ``directory``; what the two compute together."""
    model = load_s2s(base)
    known = model_fingerprint(model)
    adapted = adapt(model, LoraSettings(rank=2))
    _disturb(model)
    save_adapter(adapted, directory, known, base / "tokenizer.json", {"decoder": False}, {"<emph>": 3})
    with torch.no_grad():
        return model.eval()(random_frames(model, 1, 8)).text


def test_an_adapter_is_saved_and_merged_again(base: Path, tmp_path: Path) -> None:
    """Its files are peft's, with tokenizer and prosody tokens; base and files give what was trained."""
    wanted = _save(base, tmp_path / "voice")
    names = {path.name for path in (tmp_path / "voice").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "prosody_tokens.json"} <= names
    tokens = json.loads((tmp_path / "voice" / "prosody_tokens.json").read_text())
    assert tokens["<emph>"] == {"id": 5_000_000, "internal_id": FIRST_PROSODY, "seen": 3}
    assert len(tokens) == 7
    one = merge(load_s2s(base), tmp_path / "voice", read_adapter(tmp_path / "voice"))
    with torch.no_grad():
        torch.testing.assert_close(one(random_frames(one, 1, 8)).text, wanted, rtol=1e-3, atol=1e-3)


def test_a_wrong_base_is_refused(base: Path, tmp_path: Path) -> None:
    """Another base with the same sizes, a damaged adapter, and a directory that is none."""
    _save(base, tmp_path / "voice")
    other = load_s2s(base)
    with torch.no_grad():
        other.text_head.weight[0, 0] += 1.0
    header = read_adapter(tmp_path / "voice")
    with pytest.raises(ArtefactError, match="made for another base"):
        merge(other, tmp_path / "voice", header)
    (tmp_path / "voice" / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtefactError, match="the adapter cannot be loaded"):
        merge(load_s2s(base), tmp_path / "voice", header)
    with pytest.raises(ArtefactError, match=r"lora\.json: not found"):
        read_adapter(tmp_path)
    (tmp_path / ADAPTER_FILE).write_text('{"format": "repartee-lora", "version": 9}')
    with pytest.raises(ArtefactError, match="version 9"):
        read_adapter(tmp_path)


def test_a_base_is_known_before_and_after_export(base: Path, tmp_path: Path) -> None:
    """Weights in single and in half precision have one fingerprint, on disk and in memory; others have another."""
    model = load_s2s(base)
    known = fingerprint_of(base)
    assert model_fingerprint(model) == known
    half = load_s2s(base).half()
    save_model(tmp_path / "half", "repartee-s2s", half, model.config, {})
    assert fingerprint_of(tmp_path / "half") == known
    with torch.no_grad():
        model.mode_embed.weight[0, 0] += 1.0
    assert model_fingerprint(model) != known
    path = tmp_path / "half" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtefactError, match="ends too early"):
        fingerprint_of(tmp_path / "half")
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        fingerprint_of(tmp_path / "none")


def test_the_runtime_takes_the_merged_models(base: Path, tmp_path: Path) -> None:
    """The adapter's directories instead of the base's; without its graphs, or for another base, an error says so."""
    _save(base, tmp_path / "voice")
    with pytest.raises(ArtefactError, match=r"s2s: not found; make it with training\.train_lora --merge"):
        with_adapter(tmp_path / "codec", base, tmp_path / "voice")
    (tmp_path / "voice" / "s2s").mkdir()
    (tmp_path / "voice" / "s2s" / "config.json").write_text("{}")
    assert with_adapter(tmp_path / "codec", base, tmp_path / "voice") == (
        tmp_path / "codec",
        tmp_path / "voice" / "s2s",
    )
    shutil.copytree(base, tmp_path / "other")
    model = load_s2s(base)
    with torch.no_grad():
        model.text_head.bias[0] = np.pi
    save_model(tmp_path / "other", "repartee-s2s", model, model.config, {})
    with pytest.raises(ArtefactError, match=r"voice: made for another base than .*other"):
        with_adapter(tmp_path / "codec", tmp_path / "other", tmp_path / "voice")
