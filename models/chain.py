"""Makes the quantiser dimensions of a frame agree with each other.

A frame's codes are all said at once, but they are not independent: 80 ms may begin anywhere in a phone, and what is
true of one dimension then depends on what was said in the others. So each dimension is also told the ones before it,
through one small network shared by all (autoregression inside a frame by masks: Germain et al., "MADE", 2015; it does
what the depth transformer of Défossez et al., "Moshi", 2024, does, at the cost of a matrix product).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.quantize import GroupedFSQ


class CodeChain(nn.Module):
    """Corrections of the logits of D dimensions by the values of those before; none before training.

    Args:
        hidden: size of the backbone's output.
        inner: size of the state that every dimension starts from.
        fsq: the quantiser.
    """

    before: Tensor

    def __init__(self, hidden: int, inner: int, fsq: GroupedFSQ) -> None:
        super().__init__()
        dims = fsq.dims
        self.enter = nn.Linear(hidden, inner)
        self.told = nn.Parameter(torch.randn(dims, dims, inner) * dims**-0.5)  # [from, to, inner]
        self.leave = nn.Parameter(torch.zeros(sum(map(sum, fsq.groups)), inner))
        self.register_buffer("before", torch.ones(dims, dims).triu(1)[..., None], persistent=False)
        self._levels = [level for group in fsq.groups for level in group]

    def forward(self, state: Tensor, values: Tensor) -> Tensor:
        """Corrections [N, sum(levels)] from states [N, inner] and the frame's true values [N, D] in -1 to 1."""
        told = values @ (self.told * self.before).flatten(1)  # [N, D * inner]
        inner = F.silu(state[:, None] + told.view(len(state), -1, state.shape[-1]))  # [N, D, inner]
        parts = torch.split(self.leave, self._levels)
        return torch.cat([inner[:, dim] @ part.T for dim, part in enumerate(parts)], dim=-1)
