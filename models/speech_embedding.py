"""Google's ``speech_embedding`` front end as a streaming torch module.

Lin et al., "Training keyword spotters with limited and synthesized speech data", arXiv 2002.01322; weights Apache-2.0,
converted from the ONNX file of the openwakeword package
by :mod:`training.convert_speech_embedding`. A stack of valid convolutions over time, so one embedding of
a 760 ms window comes out every 8 mel hops; with the last two hops of each time convolution kept as state nothing is
computed twice, at a tenth of the cost of the windowed graph and with the same numbers. What goes into the last pooling
(two time steps of 40 ms, two bands) comes out beside each embedding: it costs nothing and tells short words apart.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# (kind, out channels, kernel) of each convolution; "P" entries are max pools (time, frequency)
_PLAN: tuple[tuple[str, int, int], ...] = (
    ("in", 24, 3), ("f", 24, 3), ("t", 24, 3), ("P", 2, 2),
    ("f", 48, 3), ("t", 48, 3), ("f", 48, 3), ("t", 48, 3), ("P", 1, 2),
    ("f", 72, 3), ("t", 72, 3), ("f", 72, 3), ("t", 72, 3), ("P", 2, 2),
    ("f", 96, 3), ("t", 96, 3), ("f", 96, 3), ("t", 96, 3), ("P", 1, 2),
    ("f", 96, 3), ("t", 96, 3), ("f", 96, 3), ("t", 96, 3), ("P", 2, 2),
    ("out", 96, 3),
)  # fmt: skip
_TAPPED = max(index for index, (kind, _, _) in enumerate(_PLAN) if kind == "P")
WINDOW_DIM, TAPPED_DIM = 96, 96 * 2 * 2
EMBEDDING_DIM = WINDOW_DIM + TAPPED_DIM


class SpeechEmbedding(nn.Module):
    """mel32 [B, 8 T, 32] -> embeddings [B, T, EMBEDDING_DIM]; state is one [B, C, 2, F] tensor a time convolution."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        channels, width = 1, 32
        self.state_shapes: list[tuple[int, int, int]] = []
        for kind, size, kernel in _PLAN:
            if kind == "P":
                width = width // kernel
                continue
            shape = {"in": (3, 3), "f": (1, 3), "t": (3, 1), "out": (3, 1)}[kind]
            if kind != "f":
                self.state_shapes.append((channels, 2, width))
            self.convs.append(nn.Conv2d(channels, size, shape, padding=(0, 1 if kind in ("in", "f") else 0)))
            channels = size
        # the first layer applies ReLU then an affine (its batch norm could not be folded)
        self.register_buffer("scale", torch.ones(24))
        self.register_buffer("shift", torch.zeros(24))

    def init_state(self, batch: int) -> list[Tensor]:
        """Silence before the first frame."""
        return [torch.zeros(batch, *shape) for shape in self.state_shapes]

    def forward(self, mel: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See the class; returns the embeddings and the new state."""
        x = mel.unsqueeze(1)  # [B, 1, 8 T, 32]
        conv = iter(self.convs)
        past = iter(state)
        kept: list[Tensor] = []
        tapped = x
        for index, (kind, size, kernel) in enumerate(_PLAN):
            if index == _TAPPED:
                tapped = x.transpose(1, 2).reshape(x.shape[0], -1, TAPPED_DIM)  # [B, 2 T, 96, 2] -> [B, T, 384]
            if kind == "P":
                x = F.max_pool2d(x, (size, kernel))
                continue
            if kind != "f":
                x = torch.cat([next(past), x], dim=2)
                kept.append(x[:, :, -2:])
            x = next(conv)(x)
            if kind == "in":
                x = F.relu(x) * self.scale[:, None, None] + self.shift[:, None, None]
            if kind != "out":
                x = torch.clamp_min(F.leaky_relu(x, 0.2), -0.4)
        return torch.cat([x.squeeze(3).transpose(1, 2), tapped], dim=2), kept
