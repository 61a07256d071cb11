"""TensorFlow's "SAME" padding, which both convolutional encoders were trained with."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero-pad [N, C, H, W] so that a convolution gives ceil(H / stride) x ceil(W / stride).

    With a stride the odd pixel goes to the bottom and right, where torch would pad evenly. H and W must be
    static: under export the amounts are constants of the graph.
    """
    height, width = int(x.shape[2]), int(x.shape[3])
    over_h = max((-(-height // stride) - 1) * stride + kernel - height, 0)
    over_w = max((-(-width // stride) - 1) * stride + kernel - width, 0)
    if not over_h and not over_w:
        return x
    return F.pad(x, (over_w // 2, over_w - over_w // 2, over_h // 2, over_h - over_h // 2))
