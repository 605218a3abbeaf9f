"""Low-rank adapters (Hu et al., "LoRA", arXiv 2106.09685) on the S2S model, by ``peft``: made, saved, merged."""

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers.pytorch_utils import Conv1D

from models.checkpoint import write_json
from models.errors import ArtefactError
from models.prosody import PROSODY_IDS, PROSODY_TOKENS
from models.runtime_lora import ADAPTER_FILE, ADAPTER_FORMAT, ADAPTER_VERSION, fingerprint
from models.s2s import S2S
from models.tokenizer import FIRST_PROSODY, Tokenizer

TARGETS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn",),
}
"""Linear layers of a backbone that get adapters, by its ``model_type``."""

HEADS = ("agent_embed.0", "agent_embed.2", "text_head")
TALKER = "talker."
TABLES = ("text_embed", "transcript_embed", "recent_embed")
WEIGHTS = "adapter_model.safetensors"


class LoraError(ValueError):
    """An adapter cannot be put on a model; the message says why."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What is trained. ``targets`` empty: those of TARGETS for the backbone."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    heads: bool = True  # adapters on the talker and what writes text, too, and rows of the prosody tokens

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise LoraError(f"rank must be at least 1, got {self.rank}")
        if not self.alpha > 0:
            raise LoraError(f"alpha must be above 0, got {self.alpha:g}")
        if not 0.0 <= self.dropout < 1.0:
            raise LoraError(f"dropout must be in [0, 1), got {self.dropout:g}")


def adapt(model: nn.Module, settings: LoraSettings) -> PeftModel:
    """Freeze a model and put adapters on it, in place.

    Args:
        model: an S2S model, or a backbone of ``transformers`` alone.
        settings: see there.

    Raises:
        LoraError: the backbone has no layers of these names.
    """
    backbone = model.backbone if isinstance(model, S2S) else model
    names = settings.targets or TARGETS.get(str(getattr(backbone.config, "model_type", "")), ())
    layers = [name for name, part in model.named_modules() if isinstance(part, nn.Linear | Conv1D)]
    chosen = [name for name in layers if name.rpartition(".")[2] in names and not _outside(model, name)]
    missing = [name for name in names if name not in {layer.rpartition(".")[2] for layer in chosen}]
    if missing or not chosen:
        known = sorted({name.rpartition(".")[2] for name in layers if not _outside(model, name)})
        what = ", ".join(missing) or "that are targets by default"
        raise LoraError(f"the backbone has no layers {what}; it has {', '.join(known)}")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        fan_in_fan_out=isinstance(model.get_submodule(chosen[0]), Conv1D),
        target_modules=chosen,
    )
    if isinstance(model, S2S) and settings.heads:
        rows = list(range(FIRST_PROSODY, FIRST_PROSODY + len(PROSODY_TOKENS)))
        config.target_modules = list(
            dict.fromkeys([*chosen, *(name for name in layers if name in HEADS or name.startswith(TALKER))])
        )
        config.trainable_token_indices = {name: rows for name in TABLES if hasattr(model, name)}
    with _quiet():
        return get_peft_model(model, config)  # type: ignore[arg-type, return-value]


def _outside(model: nn.Module, name: str) -> bool:
    return isinstance(model, S2S) and not name.startswith("backbone.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The libraries warn about each other: Conv1D next to Linear, names that will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def count(model: nn.Module) -> tuple[int, int]:
    """(frozen, trainable) parameters."""
    trainable = sum(part.numel() for part in model.parameters() if part.requires_grad)
    return sum(part.numel() for part in model.parameters()) - trainable, trainable


def model_fingerprint(model: nn.Module) -> str:
    """As :func:`models.runtime_lora.fingerprint_of` the directory that the model was read from."""

    def tensors() -> Iterator[tuple[str, str, bytes]]:
        for name, value in sorted(model.state_dict().items()):
            data = value.detach().cpu().contiguous()
            if data.is_floating_point():
                yield name, "F32", data.float().numpy().astype("<f4").tobytes()
            else:
                yield name, {torch.int64: "I64", torch.bool: "BOOL"}.get(data.dtype, "I32"), data.numpy().tobytes()

    return fingerprint(tensors())


def save_adapter(
    adapted: PeftModel, directory: Path, base: str, tokenizer: Path, more: dict[str, Any], counts: dict[str, int]
) -> None:
    """Write the adapter in peft's format, with its tokenizer and prosody tokens; ``lora.json`` is written last.

    Args:
        adapted: of :func:`adapt`.
        directory: made if missing.
        base: fingerprint of the base.
        tokenizer: the base's ``tokenizer.json``.
        more: further keys of ``lora.json``.
        counts: how often each prosody token was in the training data.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        with _quiet():
            adapted.save_pretrained(temporary, save_embedding_layers=False)
        for name in (WEIGHTS, "adapter_config.json"):
            os.chmod(Path(temporary) / name, 0o644)
            os.replace(Path(temporary) / name, directory / name)
    Tokenizer.load(tokenizer).save(directory / "tokenizer.json")
    write_json(
        directory / "prosody_tokens.json",
        {
            mark: {"id": PROSODY_IDS[mark], "internal_id": FIRST_PROSODY + index, "seen": counts.get(mark, 0)}
            for index, mark in enumerate(PROSODY_TOKENS)
        },
    )
    write_json(directory / ADAPTER_FILE, {"format": ADAPTER_FORMAT, "version": ADAPTER_VERSION, "base": base, **more})


def merge(base: S2S, directory: Path, header: dict[str, Any]) -> S2S:
    """A base with a saved adapter in its weights; the base is used up.

    Raises:
        ArtefactError: the adapter is damaged, or was made for another base or other text pieces.
    """
    if model_fingerprint(base) != header["base"]:
        raise ArtefactError(f"{directory}: made for another base than the one given")
    pieces = len(Tokenizer.load(directory / "tokenizer.json"))
    if pieces != base.config.vocabulary:
        raise ArtefactError(f"{directory}: has {pieces} text pieces, the base {base.config.vocabulary}")
    try:
        with _quiet():
            adapted = PeftModel.from_pretrained(base, str(directory))  # type: ignore[arg-type]
        config = json.loads((directory / "adapter_config.json").read_text("utf8"))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as exc:
        raise ArtefactError(f"{directory}: the adapter cannot be loaded ({exc})") from exc
    if config.get("peft_type") != "LORA":
        raise ArtefactError(f"{directory / 'adapter_config.json'}: not a LoRA adapter")
    return merged(adapted)


def merged(adapted: PeftModel) -> S2S:
    """The model with the adapters in its weights; the adapted model is used up."""
    model = adapted.merge_and_unload()
    assert isinstance(model, S2S)
    return model.eval()
