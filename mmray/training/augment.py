"""Augmentation: records altered at random, so that a model does not memorize them.

Pixels: mirrored, turned, scaled, moved; brightness, contrast, colours. Log-mel: moved and stretched in time
and in pitch, louder or softer, noise, bands of time and frequency blanked (Park et al. 2019, "SpecAugment").
Text is not altered.
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
_WHITE = 255.0  # fills the border of a moved picture: the value that preprocessing pads with
_LOUDER = 1.0  # of the natural logarithm
_STRETCH, _BAND_STRETCH = 0.15, 0.1  # of the logarithm: speed, and length of the vocal tract
_MOVED_FRAMES, _MOVED_BANDS = 15.0, 2.0
_NOISE = 4.0  # above the softest value, at most
_FRAMES, _BANDS = 20, 10  # blanked at most


def augment(feeds: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The batch with altered pixels and log-mels; all randomness comes from the generator.

    Args:
        feeds: tensors as `mmray.batching.pack` makes them.
        generator: of the random numbers, on the tensors' device.

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
    n, device = len(pixels), generator.device
    x = pixels.permute(0, 3, 1, 2).float()

    def spread(width: float, *shape: int) -> Tensor:
        return (2 * torch.rand(n, *shape, generator=generator, device=device) - 1) * width

    angle, scale = spread(_TURN), spread(_SCALE).exp()
    mirrored = torch.where(torch.rand(n, generator=generator, device=device) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    moved = torch.stack([torch.stack([cos * mirrored, -sin], 1), torch.stack([sin * mirrored, cos], 1)], 1)
    affine = torch.cat([moved, spread(_SHIFT, 2)[:, :, None]], 2)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    x = _WHITE - F.grid_sample(_WHITE - x, grid, align_corners=False)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (1 + spread(_CONTRAST, 1, 1, 1))
    x = (x - 128) * (1 + spread(_CONTRAST, 1, 1, 1)) + 128 + spread(_LIGHT, 3, 1, 1)
    # Channels last: convolutions are 1.6 times as fast in that layout.
    return x.clamp(0, 255).permute(0, 2, 3, 1).contiguous()


def _log_mel(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """[N, F, K] → the same shape and dtype."""
    n, frames, bands = log_mel.shape
    device = generator.device
    silence = log_mel.float().amin()

    def spread(width: float) -> Tensor:
        return (2 * torch.rand(n, 1, generator=generator, device=device) - 1) * width

    x = _stretched(log_mel.float(), spread(_STRETCH).exp(), spread(_MOVED_FRAMES), 1, silence)
    x = _stretched(x, spread(_BAND_STRETCH).exp(), spread(_MOVED_BANDS), 2, silence)
    x = x + spread(_LOUDER)[:, :, None]
    noise = silence + _NOISE * torch.rand(n, 1, 1, generator=generator, device=device)
    x = torch.logaddexp(x, noise + 0.5 * torch.randn(x.shape, generator=generator, device=device))
    for length, most, axis in ((frames, _FRAMES, 1), (bands, _BANDS, 2), (bands, _BANDS, 2)):
        width = torch.rand(n, 1, generator=generator, device=device) * min(most, math.ceil(length / 4))
        start = torch.rand(n, 1, generator=generator, device=device) * length
        place = torch.arange(length, device=x.device)[None]
        blank = (place >= start) & (place < start + width)
        mean = x.mean(dim=(1, 2), keepdim=True)
        x = torch.where(blank[:, :, None] if axis == 1 else blank[:, None], mean, x)
    return x.to(log_mel.dtype)


def _stretched(x: Tensor, factor: Tensor, moved: Tensor, axis: int, outside: Tensor) -> Tensor:
    """[N, F, K] resampled along an axis by linear interpolation; factor and shift [N, 1]."""
    length = x.shape[axis]
    place = torch.arange(length, device=x.device)[None] * factor + moved
    low = place.floor()
    share = (place - low)[:, :, None] if axis == 1 else (place - low)[:, None]
    index = low.long().clamp(0, length - 1)
    after = (index + 1).clamp(max=length - 1)
    is_out = (place < 0) | (place > length - 1)
    shape = list(x.shape)

    def read(at: Tensor) -> Tensor:
        return x.gather(axis, (at[:, :, None] if axis == 1 else at[:, None]).expand(shape))

    value = read(index) * (1 - share) + read(after) * share
    return torch.where(is_out[:, :, None] if axis == 1 else is_out[:, None], outside, value)
