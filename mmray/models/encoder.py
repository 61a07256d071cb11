"""What the encoders of all modalities have in common."""

from __future__ import annotations

from torch import nn


class Encoder(nn.Module):
    """Turns the rows of one modality into float features [N, `dim`]."""

    dim: int
