"""The talker: from what the text stream says is to be heard in a frame to the agent's codes of it.

The backbone decides what is said and when. How a phone sounds is local and the same whatever is talked about: a small
network that sees a few frames of phones (:mod:`models.score`) and its own codes learns it from far less speech than
attention does (the split into thinker and talker of Xu et al., "Qwen2.5-Omni", arXiv 2503.20215, with the text's own
clock in place of attention). Dilated causal convolutions with gates (van den Oord et al., "WaveNet", 2016), written as
matrix products over their taps, so that LoRA applies to all of it; a frame's code dimensions are chained.
"""

from itertools import cycle, islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.chain import CodeChain
from models.conv import State
from models.quantize import GroupedFSQ
from models.score import N_ACTING, SHOWN, SLOTS

DILATIONS = (1, 2, 4)
TAPS = 3
SYMBOL_DIM, CHAIN_DIM = 32, 192


class GatedTaps(nn.Module):
    """A residual layer over [B, T, D] that sees a frame and two before it, ``dilation`` frames apart."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.dim, self.dilation = dim, dilation
        self.norm = nn.LayerNorm(dim)
        self.taps = nn.Linear(TAPS * dim, 2 * dim)

    def init_state(self, batch: int) -> State:
        """Before the first frame."""
        return [torch.zeros(batch, (TAPS - 1) * self.dilation, self.dim)]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """[B, T, D] -> the same shape, and the new state."""
        steps = x.shape[1]
        seen = torch.cat([state[0], self.norm(x)], dim=1)
        parts = [seen[:, tap * self.dilation : tap * self.dilation + steps] for tap in range(TAPS)]
        return x + F.glu(self.taps(torch.cat(parts, dim=-1))), [seen[:, steps:]]


class Talker(nn.Module):
    """See the module's docstring; streaming state is an argument, as in :mod:`models.conv`.

    Args:
        symbols: how many there are of phones.
        dim: of every layer.
        layers: gated ones.
        fsq: the quantiser of the agent's codes.
    """

    def __init__(self, symbols: int, dim: int, layers: int, fsq: GroupedFSQ) -> None:
        super().__init__()
        self.fsq = fsq
        self.symbols = nn.Embedding(symbols, SYMBOL_DIM)
        self.enter, self.mix = nn.Linear(SHOWN * SLOTS * SYMBOL_DIM, dim), nn.Linear(dim, dim)
        self.acting = nn.Linear(N_ACTING, dim, bias=False)
        self.heard = nn.Sequential(nn.Linear(fsq.dims, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.nothing_heard = nn.Parameter(torch.zeros(dim))
        self.layers = nn.ModuleList(GatedTaps(dim, step) for step in islice(cycle(DILATIONS), layers))
        self.leave = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU())
        self.codes = nn.Linear(2 * dim, sum(map(sum, fsq.groups)))
        self.chain = CodeChain(2 * dim, CHAIN_DIM, fsq)

    def init_state(self, batch: int) -> State:
        """At the beginning of a reply."""
        return [part for layer in self.layers for part in layer.init_state(batch)]  # type: ignore[operator]

    def forward(self, symbols: Tensor, acting: Tensor, before: Tensor, state: State) -> tuple[Tensor, State]:
        """Frames of a reply.

        Args:
            symbols: int64 [B, T, SHOWN * SLOTS], see :func:`models.score.sounding`.
            acting: float [B, T, N_ACTING], likewise.
            before: int64 [B, T, groups], the codes of the frame before; negative: none.
            state: of :meth:`init_state` or of the call before.

        Returns:
            What :meth:`logits` needs of every frame, [B, T, 2 * dim], and the new state.
        """
        shown = F.gelu(self.enter(self.symbols(symbols).flatten(-2)))
        heard = self.heard(self.fsq.dequantize(before.clamp_min(0)))
        x = self.mix(shown) + self.acting(acting) + torch.where(before[..., :1] < 0, self.nothing_heard, heard)
        kept: State = []
        for layer, part in zip(self.layers, state, strict=True):
            x, new = layer(x, [part])
            kept += new
        return self.leave(x), kept

    def logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits [N, sum(levels)] of every dimension, given outputs [N, 2 * dim] and those before it in ``codes``."""
        told: Tensor = self.chain(self.chain.enter(hidden), self.fsq.dequantize(codes))
        return self.codes(hidden) + told  # type: ignore[no-any-return]
