"""EfficientNet-Lite: the image encoder. It normalizes by itself, so it takes uint8 pixels.

Lite variants are EfficientNet without squeeze-excitation and with ReLU6 for swish; stem and head keep their
width under scaling (Tan & Le, 2019, arXiv:1905.11946, and its "lite" release). The default is Lite0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from mmray.models.encoder import Encoder
from mmray.models.same_padding import pad_same

#: (repeats, kernel, stride, expansion, channels) of the stages of B0 and Lite0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
NORM_EPS = 1e-3  # TensorFlow's; torch's default of 1e-5 shifts the features


class _Unit(nn.Module):
    """Convolution with SAME padding, batch norm and, unless linear, ReLU6."""

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
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=NORM_EPS)
        self.kernel, self.stride = kernel, stride
        self.act: nn.Module = nn.Identity() if linear else nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(pad_same(x, self.kernel, self.stride))))
        return out


class _Block(nn.Module):
    """Inverted residual: expand, depthwise, project; with a skip connection if shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand: nn.Module = _Unit(inputs, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = _Unit(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _Unit(hidden, outputs, linear=True)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


class EfficientNetLite(Encoder):
    """Image encoder: uint8 pixels [N, H, W, 3] (RGB) to float features [N, `dim`].

    Args:
        width: factor of the stages' channels, rounded to multiples of 8.
        depth: factor of the repeats of all stages but the first and the last.
        features: channels of the last convolution, which the average pool turns into the features.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0, features: int = 1280) -> None:
        super().__init__()
        self.dim = features
        self.stem = _Unit(3, STEM_CHANNELS, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        self.repeats: list[int] = []  # blocks of each stage
        channels = STEM_CHANNELS
        for stage, (repeats, kernel, stride, expansion, outputs) in enumerate(STAGES):
            scaled = _round_channels(outputs * width)
            if 0 < stage < len(STAGES) - 1:
                repeats = max(1, math.ceil(repeats * depth))
            self.repeats.append(repeats)
            for repeat in range(repeats):
                blocks.append(_Block(channels, scaled, kernel, stride if repeat == 0 else 1, expansion))
                channels = scaled
        self.blocks = nn.Sequential(*blocks)
        self.head = _Unit(channels, features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features before the classifier: the spatial mean of the last convolution."""
        # (x - 127) / 128 is this checkpoint's normalization, not ImageNet's mean and deviation.
        x = (pixels.permute(0, 3, 1, 2).to(self.stem.conv.weight.dtype) - 127.0) / 128.0
        last: Tensor = self.head(self.blocks(self.stem(x)))
        return last.mean(dim=(2, 3))

    def fold_norms(self) -> None:
        """Fold the batch norms, as they are in eval mode, into the convolutions: same features, 1.5 x faster.

        For frozen encoders only; afterwards no checkpoint can be loaded.
        """
        for module in self.modules():
            if isinstance(module, _Unit) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv = fuse_conv_bn_eval(module.conv.eval(), module.norm.eval())
                module.norm = nn.Identity()

    def inherit(self, parent: EfficientNetLite) -> None:
        """Start from the weights of a deeper one: the first blocks of each stage, stem and head.

        DistilBERT starts from a part of its teacher's layers in the same way (Sanh et al., 2019,
        arXiv:1910.01108, section 3). The head keeps its own weights if `features` differ. Call it before
        `fold_norms` of either, or after that of both.

        Raises:
            ValueError: the parent has fewer blocks in a stage.
            RuntimeError: its channels differ, or the norms of one of the two are folded.
        """
        if any(own > its for own, its in zip(self.repeats, parent.repeats, strict=True)):
            raise ValueError(f"the parent's stages have {parent.repeats} blocks, these {self.repeats}")
        self.stem.load_state_dict(parent.stem.state_dict())
        first = own = 0
        for wanted, there in zip(self.repeats, parent.repeats, strict=True):
            for repeat in range(wanted):
                self.blocks[own].load_state_dict(parent.blocks[first + repeat].state_dict())
                own += 1
            first += there
        if self.dim == parent.dim:
            self.head.load_state_dict(parent.head.state_dict())

    def load_checkpoint(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of the `efficientnet-lite0` checkpoint of EfficientNet-PyTorch's naming.

        The ImageNet classifier is left out. Raises RuntimeError when names or shapes do not fit.
        """
        self.load_state_dict(
            {_own_name(name): value for name, value in state.items() if not name.startswith("_fc.")}
        )


def _round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, never more than a tenth below (the rule of the reference code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def _own_name(name: str) -> str:
    """Name in this module of a tensor of the checkpoint."""
    for pattern, own in (
        (r"_conv_stem\.", "stem.conv."),
        (r"_conv_head\.", "head.conv."),
        (r"_bn0\.", "stem.norm."),
        (r"_bn1\.", "head.norm."),
        (r"_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
        (r"_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
        (r"_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.conv."),
        (r"_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
        (r"_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
        (r"_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
    ):
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", own, name)
    return name
