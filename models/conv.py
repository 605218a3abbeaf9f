"""Causal building blocks whose streaming state is an argument: ``forward(x, state) -> (y, new state)``.

States are flat lists of tensors, so that a whole network's state is a list too and exports to ONNX as named inputs and
outputs. Chunked calls give what one call over everything gives.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = list[Tensor]


class CausalConv1d(nn.Module):
    """Conv1d over [B, T, C] that sees only the past; T must be a multiple of ``stride``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        assert kernel >= stride, f"kernel {kernel} must not be below stride {stride}"
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, groups=groups)
        self.inputs, self.keep = inputs, kernel - stride

    def init_state(self, batch: int) -> State:
        """Silence before the first frame."""
        return [torch.zeros(batch, self.keep, self.inputs)]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[B, T, inputs] -> [B, T / stride, outputs] and the new state."""
        x = torch.cat([state[0], x], dim=1)
        return self.conv(x.transpose(1, 2)).transpose(1, 2), [x[:, x.shape[1] - self.keep :]]


class ConvNeXtBlock(nn.Module):
    """Depthwise causal convolution, layer norm, two pointwise layers, scaled residual (Liu et al., 2201.03545)."""

    def __init__(self, dim: int, hidden: int, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = CausalConv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand, self.project = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.2))

    def init_state(self, batch: int) -> State:
        """Silence before the first frame."""
        return self.depthwise.init_state(batch)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[B, T, D] -> the same shape, and the new state."""
        y, state = self.depthwise(x, state)
        return x + self.scale * self.project(F.gelu(self.expand(self.norm(y)))), state


class CausalGRU(nn.Module):
    """GRU over [B, T, D] with a residual path; state [layers, B, D]."""

    def __init__(self, dim: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.layers = dim, layers
        self.gru = nn.GRU(dim, dim, num_layers=layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def init_state(self, batch: int) -> State:
        """Silence before the first frame."""
        return [torch.zeros(self.layers, batch, self.dim)]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[B, T, D] -> the same shape, and the new state."""
        y, hidden = self.gru(x, state[0])
        return x + y, [hidden]


class Chain(nn.Module):
    """Stateful modules one after the other; the state is the concatenation of theirs."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.sizes = [len(part) for part in self._fresh(1)]

    def _fresh(self, batch: int) -> list[State]:
        blocks: Any = self.blocks
        return [block.init_state(batch) for block in blocks]

    def init_state(self, batch: int) -> State:
        """Silence before the first frame."""
        return [tensor for part in self._fresh(batch) for tensor in part]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What the blocks make of ``x`` one after the other, and the new state."""
        kept: State = []
        start = 0
        for block, size in zip(self.blocks, self.sizes, strict=True):
            x, new = block(x, state[start : start + size])
            kept += new
            start += size
        return x, kept
