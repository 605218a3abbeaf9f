"""Toy models with random weights, and sound to feed them: what tests of streaming and of the engine share."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.checkpoint import load_weights, save_model
from models.codec import Codec, CodecConfig
from models.lexicon import Lexicon
from models.s2s import N_RECENT, S2S, FrameInput, S2SConfig
from models.score import Score
from models.tokenizer import EOS, Tokenizer
from training import export
from training.user_features import FRONT_END

CODEC = CodecConfig(
    semantic_levels=((8, 5, 5, 5),) * 2,
    acoustic_levels=((8, 5, 5, 5),) * 2,
    semantic_dim=16,
    encoder_dim=16,
    decoder_dim=16,
    context_dim=16,
)
WINDOW = 48
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 65536,
    "vocab_size": 8,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 256,
    "vocab_size": 8,
}


def tokenizer() -> Tokenizer:
    phones = {
        "a": "ɐ", "large": "lˈɑɹʤ", "latte": "lˈɑtˌA", "with": "wɪð", "soy": "sˈY", "milk": "mˈɪlk", "sure": "ʃˈʊɹ",
        "anything": "ˈɛniθˌɪŋ", "else": "ˈɛls",
    }  # fmt: skip
    texts = ["a large latte with soy milk", "Sure, a large latte. Anything else?"]
    return Tokenizer.train(texts, lexicon=Lexicon(phones))


def s2s_config(window: int = WINDOW, backbone: dict[str, Any] = LLAMA, notes: bool = False) -> S2SConfig:
    levels = CODEC.semantic_levels, CODEC.agent_levels
    return S2SConfig(len(tokenizer()), *levels, window=window, backbone=backbone, notes=notes, recent_dim=8,
                     symbols=len(Score.of(tokenizer()).symbols), talker_dim=24, talker_layers=4)  # fmt: skip


def new_s2s(window: int = WINDOW, backbone: dict[str, Any] = LLAMA, notes: bool = False) -> S2S:
    """A random model that listens to all its inputs and its past, and never ends a reply by itself."""
    torch.manual_seed(11)
    model = S2S(s2s_config(window, backbone, notes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name or name.startswith("no_"):
                parameter.mul_(4.0)
            elif name.startswith("backbone") and parameter.dim() > 1:
                parameter.mul_(8.0)
        model.text_head.bias[EOS] = -1e4
    return model


def random_frames(model: S2S, batch: int, steps: int, seed: int = 0) -> FrameInput:
    """Any input the model may get, replies that have no audio yet included."""
    draw = torch.Generator().manual_seed(seed)
    config = model.config

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, (batch, steps, *shape), generator=draw)

    agent = integers(0, 1000, len(config.agent_levels))
    agent[:, ::3] = -1
    return FrameInput(
        integers(0, 2),
        integers(0, 1000, len(config.user_levels)),
        integers(0, config.vocabulary),
        integers(0, config.vocabulary),
        agent,
        integers(0, config.vocabulary, N_RECENT) if config.recent_dim else None,
    )


def new_codec() -> Codec:
    """A random codec, but for the shipped front end, that makes use of its codes."""
    torch.manual_seed(5)
    codec = Codec(CODEC).eval()
    load_weights(codec.semantic.front, FRONT_END)
    with torch.no_grad():
        codec.semantic.std.fill_(10.0)
        for layer in (codec.semantic.leave, codec.acoustic.leave, codec.acoustic.prosody[-1]):
            assert isinstance(layer, torch.nn.Linear)
            layer.weight.mul_(8.0)
    return codec


def write_checkpoints(folder: Path) -> None:
    """``codec`` and ``s2s`` directories as the trainers leave them."""
    codec = new_codec()
    for name, net in (("semantic", codec.semantic), ("acoustic", codec.acoustic), ("decoder", codec.decoder)):
        save_model(folder / "codec", "repartee-codec", net, CODEC, {"made": "by tests"}, name)
    tokenizer().save(folder / "codec" / "tokenizer.json")
    model = new_s2s()
    save_model(folder / "s2s", "repartee-s2s", model, model.config, {"made": "by tests"})


def run_main(main: Any, *arguments: object) -> None:
    """Call a command's ``main`` with a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["training/command.py", *map(str, arguments)])
        main()


def export_tiny(folder: Path) -> None:
    """Checkpoints below ``folder`` and what :mod:`training.export` makes of them in ``folder/models``."""
    write_checkpoints(folder)
    arguments = ["--codec", folder / "codec", "--s2s", folder / "s2s", "--output", folder / "models"]
    run_main(export.main, *arguments)


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Tones with a moving pitch, noise and silence, float32 at 24 kHz, cut to whole frames."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 24_000) // 1920 * 1920) / 24_000
    pitch = 130 + 50 * np.sin(2 * np.pi * (0.7 + 0.1 * seed) * time)
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / 24_000)
    loud = np.clip(np.sin(2 * np.pi * 1.1 * time + seed), 0, 1)
    return ((0.4 * tone**5 + 0.03 * rng.standard_normal(len(time))) * loud).astype(np.float32)


def cuts(total: int, sizes: Sequence[int], unit: int = 1) -> list[slice]:
    """Slices of ``sizes`` units, in turn, until ``total`` is covered."""
    slices, start, index = [], 0, 0
    while start < total:
        stop = min(start + sizes[index % len(sizes)] * unit, total)
        slices.append(slice(start, stop))
        start, index = stop, index + 1
    return slices


def stream(module: Any, parts: Sequence[Tensor], slices: Sequence[slice], method: str = "forward") -> Any:
    """Call a stateful module slice by slice over the time axis; the outputs in order."""
    state = module.init_state(parts[0].shape[0])
    outputs = []
    for piece in slices:
        output, state = getattr(module, method)(*(part[:, piece] for part in parts), state)
        outputs.append(output)
    return outputs
