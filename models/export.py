"""ONNX graphs of the models: one frame in, one frame out, all state as named inputs and outputs."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from models.codec import AcousticEncoder, Decoder, SemanticEncoder
from models.conv import State
from models.features import HOPS_PER_FRAME, N_MEL, N_MEL_LOW
from models.s2s import N_RECENT, S2S, FrameInput
from models.score import N_ACTING, SHOWN, SLOTS
from models.talker import Talker

OPSET = 18
SMALL = 1024  # weights that stay as they are


class _Semantic(nn.Module):
    def __init__(self, net: SemanticEncoder) -> None:
        super().__init__()
        self.net = net

    def forward(self, mel32: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        codes, new = self.net(mel32, list(state))
        return (codes, *new)


class _Acoustic(nn.Module):
    def __init__(self, net: AcousticEncoder) -> None:
        super().__init__()
        self.net = net

    def forward(self, mel64: Tensor, pitch: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        codes, new = self.net(mel64, pitch, list(state))
        return (codes, *new)


class _Decoder(nn.Module):
    def __init__(self, net: Decoder) -> None:
        super().__init__()
        self.net = net

    def forward(self, codes: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        out, new = self.net(codes, list(state))
        gain = torch.exp(out.log_harmonic)
        real, imaginary = gain * torch.cos(out.angle), gain * torch.sin(out.angle)
        return (out.octave, out.voicing, real, imaginary, torch.exp(out.log_noise), *new)


class _Step(nn.Module):
    def __init__(self, net: S2S) -> None:
        super().__init__()
        self.net = net

    def forward(self, mode: Tensor, user: Tensor, text: Tensor, transcript: Tensor, agent: Tensor, position: Tensor,
                mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:  # fmt: skip
        layers = self.net.cache_shape[0]
        recent = past[2 * layers] if self.net.config.recent_dim else None
        frame = FrameInput(mode, user, text, transcript, agent, recent)
        out, new_keys, new_values = self.net.step(frame, past[:layers], past[layers : 2 * layers], mask, position)
        return out.text, out.transcript, out.turn, new_keys, new_values


class _Talk(nn.Module):
    def __init__(self, net: Talker) -> None:
        super().__init__()
        self.net = net

    def forward(self, symbols: Tensor, acting: Tensor, before: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        hidden, new = self.net(symbols, acting, before, list(state))
        return (self.net.codes(hidden), self.net.chain.enter(hidden), *new)


def _write(net: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], outputs: Sequence[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), tuple(inputs), str(path), input_names=list(names), output_names=list(outputs),
            opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    graph = onnx.load(path)
    _forget_origin(graph)
    _store_half(graph.graph)
    onnx.save(graph, path)


def _store_half(graph: onnx.GraphProto) -> None:
    """Keep weights in half precision where that loses nothing, cast when the graph is opened: half the file size."""
    casts = []
    for weights in graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype != np.float32 or values.size < SMALL or not np.array_equal(values.astype(np.float16), values):
            continue
        casts.append(onnx.helper.make_node("Cast", [f"{weights.name}_half"], [weights.name], to=TensorProto.FLOAT))
        weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{weights.name}_half"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _forget_origin(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes about where a graph came from: stack traces with the paths of this machine."""
    for parts in (model.graph.node, model.graph.input, model.graph.output, model.graph.value_info, [model.graph]):
        for part in parts:
            part.ClearField("metadata_props")


def _with_state(state: State, names: Sequence[str], outputs: Sequence[str]) -> tuple[list[str], list[str]]:
    count = range(len(state))
    return [*names, *(f"state_{i}" for i in count)], [*outputs, *(f"new_state_{i}" for i in count)]


def export_semantic(net: SemanticEncoder, path: Path) -> None:
    """mel32 [1, 8, 32] -> codes int64 [1, 1, n]."""
    state = net.init_state(1)
    names, outputs = _with_state(state, ["mel32"], ["codes"])
    _write(_Semantic(net), [torch.zeros(1, HOPS_PER_FRAME, N_MEL_LOW), *state], names, outputs, path)


def export_acoustic(net: AcousticEncoder, path: Path) -> None:
    """mel64 [1, 8, 64] and pitch [1, 8, 3] -> codes int64 [1, 1, m]."""
    state = net.init_state(1)
    names, outputs = _with_state(state, ["mel64", "pitch"], ["codes"])
    inputs = [torch.zeros(1, HOPS_PER_FRAME, N_MEL), torch.zeros(1, HOPS_PER_FRAME, 3), *state]
    _write(_Acoustic(net), inputs, names, outputs, path)


def export_decoder(net: Decoder, path: Path) -> None:
    """Codes int64 [1, 1, m] -> octave, voicing [1, 8]; harmonic real, imaginary and noise [1, 8, N_BINS]."""
    state = net.init_state(1)
    outputs = ["octave", "voicing", "harmonic_real", "harmonic_imaginary", "noise"]
    names, outputs = _with_state(state, ["codes"], outputs)
    codes = torch.zeros(1, 1, len(net.fsq.groups), dtype=torch.int64)
    _write(_Decoder(net), [codes, *state], names, outputs, path)


def export_step(net: S2S, path: Path) -> None:
    """One S2S step; keys_i, values_i: a layer's whole window; new_keys, new_values: this frame's of all layers."""
    layers, heads, size = net.cache_shape
    window = net.config.window

    def integers(*shape: int) -> Tensor:
        return torch.zeros(1, 1, *shape, dtype=torch.int64)

    inputs = [
        integers(), integers(len(net.config.user_levels)), integers(), integers(),
        integers(len(net.config.agent_levels)), integers(),
        torch.zeros(1, 1, 1, window + 1), *(torch.zeros(1, heads, window, size) for _ in range(2 * layers)),
    ]  # fmt: skip
    names = ["mode", "user", "text", "transcript", "agent", "position", "mask"]
    names += [f"{part}_{layer}" for part in ("keys", "values") for layer in range(layers)]
    if net.config.recent_dim:
        inputs, names = [*inputs, integers(N_RECENT)], [*names, "recent"]
    outputs = ["text_logits", "transcript_logits", "turn_logits", "new_keys", "new_values"]
    _write(_Step(net), inputs, names, outputs, path)


def export_talker(net: Talker, path: Path) -> None:
    """One frame of a reply -> logits [1, 1, sum(levels)] without what the chain adds, and its state."""
    state = net.init_state(1)
    names, outputs = _with_state(state, ["symbols", "acting", "before"], ["agent_logits", "chain"])
    symbols = torch.zeros(1, 1, SHOWN * SLOTS, dtype=torch.int64)
    before = torch.zeros(1, 1, len(net.fsq.groups), dtype=torch.int64)
    _write(_Talk(net), [symbols, torch.zeros(1, 1, N_ACTING), before, *state], names, outputs, path)
