"""SmallSound: a student's audio encoder, a depthwise-separable CNN that is small enough to learn words.

Blocks as in the DS-CNN for keyword spotting (Zhang et al., 2017, arXiv:1711.07128, section 3.5). Unlike
YAMNet it does not average over frequency: a filter of its own for each channel reads all bands (the global
depthwise convolution of MobileFaceNets, Chen et al., 2018, arXiv:1804.07573), and what follows looks along
time only, since which band sounds is what tells vowels apart.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from mmray.models.encoder import Encoder

#: (time stride, frequency stride, channels by the width) of the separable layers behind the stem.
LAYERS = ((1, 2, 2), (1, 1, 2), (2, 2, 3), (1, 1, 3))
TEMPORAL_LAYERS, TEMPORAL_KERNEL = 2, 9
#: Log-mel values lie between log(0.001) = -6.9 and about 4; speech is about here.
MEAN, DEVIATION = -3.5, 2.5


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU. Padded evenly, so that the graph has no Pad nodes."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
        *,
        padded: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class _Separable(nn.Module):
    """Depthwise convolution, then a pointwise one; skipped over where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.depthwise = _Unit(inputs, inputs, kernel, stride, groups=inputs)
        self.pointwise = _Unit(inputs, outputs)
        self.skip = stride == (1, 1) and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return x + y if self.skip else y


class SmallSound(Encoder):
    """Audio encoder: float log-mel patches [N, frames, mel bins] to float features [N, `dim`].

    72 thousand parameters at the defaults; 3.2 million has YAMNet.

    Args:
        dim: width of the features.
        width: channels of the stem; later layers have two and three times as many.
        mel_bins: of a patch, a multiple of 8. The number of frames is free.
    """

    def __init__(self, dim: int = 128, width: int = 32, mel_bins: int = 64) -> None:
        super().__init__()
        if mel_bins % 8:
            raise ValueError(
                f"SmallSound halves the bands three times: {mel_bins} mel bins; take 40, 64 or 80"
            )
        self.dim = dim
        self.stem = _Unit(1, width, (3, 3), (2, 2))
        layers: list[nn.Module] = []
        channels = width
        for time_stride, band_stride, factor in LAYERS:
            layers.append(_Separable(channels, factor * width, (3, 3), (time_stride, band_stride)))
            channels = factor * width
        self.layers = nn.Sequential(*layers)
        bands = mel_bins // 8
        self.bands = nn.Sequential(
            _Unit(channels, channels, (1, bands), groups=channels, padded=False), _Unit(channels, dim)
        )
        self.temporal = nn.Sequential(
            *(_Separable(dim, dim, (TEMPORAL_KERNEL, 1), (1, 1)) for _ in range(TEMPORAL_LAYERS))
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """The mean over time of the last layer."""
        x = (log_mel[:, None].to(self.stem.conv.weight.dtype) - MEAN) / DEVIATION
        last: Tensor = self.temporal(self.bands(self.layers(self.stem(x))))
        return last.mean(dim=(2, 3))

    def fold_norms(self) -> None:
        """Fold the batch norms, as they are in eval mode, into the convolutions: same features, and int8 too.

        For a model that is trained, before its export: int8 wants a convolution's result, not a norm's.
        """
        for module in self.modules():
            if isinstance(module, _Unit) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv = fuse_conv_bn_eval(module.conv.eval(), module.norm.eval())
                module.norm = nn.Identity()
