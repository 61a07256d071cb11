"""SmallSound: a student's audio encoder, a small convolutional network along time that can learn words.

As in TC-ResNet for keyword spotting (Choi et al., 2019, arXiv:1904.03814, section 2) the mel bands are
channels, and residual layers look along time; their convolutions are separable, as in MatchboxNet (Majumdar &
Ginsburg, 2020, arXiv:2004.08531). YAMNet averages over frequency, but frequency bands distinguish
vowels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from mmray.models.encoder import Encoder

KERNEL = 9  # places in time that a filter sees
STRIDES = (2, 2, 1, 1, 1)  # of the layers: frames of 10 ms become places of 40 ms
#: Log-mel values lie between log(0.001) = -6.9 and about 4; those of speech are about here.
MEAN, DEVIATION = -3.0, 3.0


class _Unit(nn.Module):
    """Convolution along time, batch norm and, unless linear, ReLU. Even padding: the graph has no Pad."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        # With time along rows: with one column ONNX Runtime took 4.9 times as long.
        shape, strides, padding = (1, kernel), (1, stride), (0, kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, shape, strides, padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.act: nn.Module = nn.Identity() if linear else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class _Separable(nn.Module):
    """Depthwise convolution, then a pointwise one; with a skip connection if shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = _Unit(inputs, inputs, kernel, stride, groups=inputs, linear=True)
        self.pointwise = _Unit(inputs, outputs)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return x + y if self.skip else y


class SmallSound(Encoder):
    """Audio encoder: float log-mel patches [N, frames, mel bins] to float features [N, `dim`].

    81 thousand parameters at the defaults; YAMNet has 3.2 million.

    Args:
        dim: channels of all layers, and so the width of the features.
        mel_bins: of a patch. The number of frames is free.
    """

    def __init__(self, dim: int = 128, mel_bins: int = 64) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(
            *(_Separable(dim if i else mel_bins, dim, KERNEL, stride) for i, stride in enumerate(STRIDES))
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """The mean over time of the last layer."""
        bands = log_mel.transpose(1, 2)[:, :, None].to(next(self.parameters()).dtype)
        last: Tensor = self.layers((bands - MEAN) / DEVIATION)
        return last.mean(dim=(2, 3))

    def fold_norms(self) -> None:
        """Fold the batch norms, as they are in eval mode, into the convolutions: the same features, faster.

        For a model that is trained, before its export: int8 takes a convolution's result, not a norm's.
        """
        for module in self.modules():
            if isinstance(module, _Unit) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv = fuse_conv_bn_eval(module.conv.eval(), module.norm.eval())
                module.norm = nn.Identity()
