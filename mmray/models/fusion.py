"""Intermediate fusion: a gate weighs the projected features of the modalities that are present."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Added to the gates of absent modalities: as in mmray.models.minilm, finite and within float16.
MASKED = -1e4


class GatedFusion(nn.Module):
    """Logits of records from any subset of modalities, by a gated sum of hidden features.

        h_m = tanh(W_m norm_m(x_m) + b_m),  g = softmax over the present m of (G [h_1 … h_M, present] + c)_m
        logits = MLP(sum over the present m of g_m * h_m)

    A gated multimodal unit (Arevalo et al., 2017, arXiv:1702.01992, section 3.1). Two changes: gates are
    normalized over the present modalities, unit by unit, so that a single modality passes unchanged; and the
    gate gets the flags of present modalities. Features that are not present are never used, not even NaN.

    Args:
        dims: width of each modality's features, in the order of the columns of `present`.
        classes: number of classes.
        width: of the hidden features.
        dropout: share of the hidden features, and of the MLP's, that training drops.
    """

    def __init__(self, dims: Sequence[int], classes: int, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.dims, self.width = tuple(dims), width
        # Features come in any scale: MiniLM's are of length 1, EfficientNet-Lite's of about 17.
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in dims)
        self.gate = nn.Linear(len(dims) * (width + 1), len(dims) * width)
        self.mlp = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, classes),
        )

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Features float [B, D] and `present` bool [B, M] to logits float [B, C]."""
        middle = []
        for m, part in enumerate(torch.split(features, list(self.dims), dim=1)):
            there = present[:, m, None]
            # Once before the product, whose gradient would be NaN, and once behind its bias.
            read = torch.where(there, part, 0.0)
            middle.append(torch.where(there, self.project[m](self.norms[m](read)).tanh(), 0.0))
        seen = torch.cat([*middle, present.to(features.dtype)], dim=1)
        raw = self.gate(seen).view(-1, len(self.dims), self.width)
        gates = torch.where(present[:, :, None], raw, MASKED).softmax(dim=1)
        logits: Tensor = self.mlp((gates * torch.stack(middle, dim=1)).sum(dim=1))
        return logits
