"""The head of a fused model: each modality adds its evidence, weighted by which others are present."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SubsetHead(nn.Module):
    """Logits of records from any subset of modalities.

        logits = bias[s] + sum over m of gain[s, m] * weight_m @ features_m

    where s is the subset of modalities that are present, numbered by the sum of 2^m over its members. The
    weights are shared by all subsets; only a few gains and one bias belong to each. Features of absent
    modalities must be zero.

    This is late fusion. If it is trained by gradient steps, and not in closed form, scale the features of all
    modalities equally first: otherwise (MiniLM's have length 1, EfficientNet-Lite's about 17) those with
    small values learn too slowly.

    Args:
        dims: width of each modality's features, in the order of the columns of `present`.
        classes: number of classes.
    """

    def __init__(self, dims: Sequence[int], classes: int) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.weights = nn.ParameterList(torch.zeros(classes, dim) for dim in dims)
        self.gain = nn.Parameter(torch.ones(2 ** len(dims), len(dims)))
        self.bias = nn.Parameter(torch.zeros(2 ** len(dims), classes))
        self.register_buffer("place", 2 ** torch.arange(len(dims)), persistent=False)
        self.place: Tensor

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Features [B, D], zero where a modality is absent, and `present` bool [B, M], to logits [B, C]."""
        subset = (present.to(torch.int64) * self.place).sum(dim=1)
        gain = F.embedding(subset, self.gain)
        logits = F.embedding(subset, self.bias)
        for m, (part, weight) in enumerate(
            zip(torch.split(features, list(self.dims), dim=1), self.weights, strict=True)
        ):
            logits = logits + gain[:, m, None] * F.linear(part, weight)
        return logits
