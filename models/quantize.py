"""Grouped finite scalar quantisation (Mentzer et al., FSQ, arXiv 2309.15505): no codebook, so nothing can collapse.

Each latent dimension is squashed to [0, L - 1], rounded with a straight-through gradient, and mapped to [-1, 1]. A code
is the mixed-radix number of its dimensions' levels.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn


class GroupedFSQ(nn.Module):
    """Quantise [B, T, sum(len(levels))] into one integer code a group.

    Args:
        groups: the levels of every group, e.g. ``[(8, 5, 5, 5), (8, 5, 5, 5)]`` for two 1000-entry codes.
    """

    levels: Tensor
    radix: Tensor

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        assert groups and all(min(group) >= 2 for group in groups), f"every level must be at least 2, got {groups}"
        self.groups = [tuple(group) for group in groups]
        self.dims = sum(len(group) for group in groups)
        self.sizes = [prod(group) for group in groups]
        flat = [level for group in groups for level in group]
        radix = [prod(group[:index]) for group in groups for index in range(len(group))]
        self.register_buffer("levels", torch.tensor(flat), persistent=False)
        self.register_buffer("radix", torch.tensor(radix), persistent=False)

    def forward(self, z: Tensor, hard: Tensor | bool = True) -> Tensor:
        """Latents [..., dims] -> values in [-1, 1] of that shape; where ``hard`` is false only the squashing acts."""
        top = (self.levels - 1).to(z.dtype)
        soft = torch.sigmoid(z) * top
        rounded = soft + (torch.round(soft) - soft).detach()
        mixed = rounded if hard is True else torch.where(torch.as_tensor(hard, device=z.device), rounded, soft)
        return mixed * 2.0 / top - 1.0

    def indices(self, z: Tensor) -> Tensor:
        """Latents [..., dims] -> level of every dimension, int64 [..., dims]."""
        return torch.round(torch.sigmoid(z) * (self.levels - 1)).long()

    def to_codes(self, indices: Tensor) -> Tensor:
        """Levels [..., dims] -> codes, int64 [..., groups]."""
        parts = torch.split(indices * self.radix, [len(group) for group in self.groups], dim=-1)
        return torch.stack([part.sum(-1) for part in parts], dim=-1)

    def to_indices(self, codes: Tensor) -> Tensor:
        """Codes [..., groups] -> levels, int64 [..., dims]."""
        repeat = torch.tensor([len(group) for group in self.groups], device=codes.device)
        return torch.repeat_interleave(codes, repeat, dim=-1) // self.radix % self.levels

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [..., groups] -> values in [-1, 1], float32 [..., dims]."""
        return self.to_indices(codes).float() * 2.0 / (self.levels - 1) - 1.0
