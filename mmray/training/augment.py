"""Records altered at random, so that a model does not learn them by heart.

Pixels: mirrored, turned, scaled, moved; brightness, contrast, colours. Log-mel: louder or softer, bands of
time and frequency blanked (Park et al. 2019, "SpecAugment"). Text stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

_TURN = 0.25  # radians, either way
_SCALE = 0.2  # of the logarithm
_SHIFT = 0.1  # of the picture's half
_LIGHT = 30.0  # of 255, each channel by itself: tint and brightness
_CONTRAST = 0.3
_WHITE = 255.0  # what moves into the picture: the ground that preprocessing pads with
_LOUDER = 1.0  # of the natural logarithm
_FRAMES, _BANDS = 16, 8  # that are blanked at most


def augment(feeds: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The batch with other pixels and log-mels; what is random comes from the generator alone.

    Args:
        feeds: tensors as `mmray.batching.pack` makes them.
        generator: of the random numbers.

    Returns:
        The same names; `pixels` becomes float32 of 0 to 255.
    """
    changed = dict(feeds)
    if "pixels" in feeds and len(feeds["pixels"]):
        changed["pixels"] = _pixels(feeds["pixels"], generator)
    if "log_mel" in feeds and len(feeds["log_mel"]):
        changed["log_mel"] = _log_mel(feeds["log_mel"], generator)
    return changed


def _pixels(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [N, H, W, 3] → float32 of the same shape."""
    n = len(pixels)
    x = pixels.permute(0, 3, 1, 2).float()

    def spread(width: float, *shape: int) -> Tensor:
        return (2 * torch.rand(n, *shape, generator=generator) - 1) * width

    angle, scale = spread(_TURN), spread(_SCALE).exp()
    mirrored = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    moved = torch.stack([torch.stack([cos * mirrored, -sin], 1), torch.stack([sin * mirrored, cos], 1)], 1)
    affine = torch.cat([moved, spread(_SHIFT, 2)[:, :, None]], 2)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    x = _WHITE - F.grid_sample(_WHITE - x, grid, align_corners=False)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (1 + spread(_CONTRAST, 1, 1, 1))
    x = (x - 128) * (1 + spread(_CONTRAST, 1, 1, 1)) + 128 + spread(_LIGHT, 3, 1, 1)
    return x.clamp(0, 255).permute(0, 2, 3, 1)


def _log_mel(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """[N, F, K] → the same shape and dtype."""
    n, frames, bands = log_mel.shape
    low = log_mel.float().amin(dim=(1, 2), keepdim=True)
    x = log_mel.float() + (2 * torch.rand(n, 1, 1, generator=generator) - 1) * _LOUDER
    for length, most, axis in ((frames, _FRAMES, 1), (bands, _BANDS, 2)):
        width = torch.rand(n, 1, generator=generator) * min(most, math.ceil(length / 3))
        start = torch.rand(n, 1, generator=generator) * length
        place = torch.arange(length)[None]
        blank = (place >= start) & (place < start + width)
        x = torch.where(blank[:, :, None] if axis == 1 else blank[:, None], low, x)
    return x.to(log_mel.dtype)
