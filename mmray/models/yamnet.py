"""YAMNet: the audio encoder, a MobileNetV1 over log-mel patches.

Architecture: Howard et al., 2017, arXiv:1704.04861; trained on AudioSet by Plakal & Ellis. The published
graph has its batch norms folded into the convolutions, and a batch fixed at 1; here the batch is dynamic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmray.models.encoder import Encoder
from mmray.models.same_padding import pad_same

#: (stride, channels) of the separable layers after the first convolution.
LAYERS = (
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    *((1, 512),) * 5,
    (2, 1024),
    (1, 1024),
)
STEM_CHANNELS = 32


class _Conv(nn.Module):
    """Convolution with bias and SAME padding, then ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(pad_same(x, self.kernel, self.stride)))


class YAMNet(Encoder):
    """Audio encoder: float log-mel patches [N, frames, mel bins] to float features [N, `dim`].

    Args:
        width: factor of all channels; the features are the channels of the last layer (1,024 at width 1).
        layers: how many of the separable layers are kept, from the first.
    """

    def __init__(self, width: float = 1.0, layers: int = len(LAYERS)) -> None:
        super().__init__()
        channels = _scale(STEM_CHANNELS, width)
        self.stem = _Conv(1, channels, kernel=3, stride=2)
        convs: list[_Conv] = []
        for stride, outputs in LAYERS[:layers]:
            scaled = _scale(outputs, width)
            convs.append(_Conv(channels, channels, kernel=3, stride=stride, groups=channels))
            convs.append(_Conv(channels, scaled))
            channels = scaled
        self.dim = channels
        self.convs = nn.Sequential(*convs)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Features before the classifier: the mean over time and frequency of the last layer."""
        x: Tensor = self.convs(self.stem(log_mel[:, None].to(self.stem.conv.weight.dtype)))
        return x.mean(dim=(2, 3))

    def load_convolutions(self, parameters: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Load the (weight, bias) of each convolution, in the order of the graph.

        Raises ValueError when their number or a shape does not fit.
        """
        own = [module.conv for module in self.modules() if isinstance(module, _Conv)]
        if len(own) != len(parameters):
            raise ValueError(f"YAMNet has {len(own)} convolutions, the checkpoint {len(parameters)}")
        with torch.no_grad():
            for index, (conv, (weight, bias)) in enumerate(zip(own, parameters, strict=True)):
                if conv.weight.shape != weight.shape:
                    raise ValueError(
                        f"YAMNet convolution {index}: weight is {tuple(conv.weight.shape)}, "
                        f"the checkpoint's {tuple(weight.shape)}"
                    )
                conv.weight.copy_(weight)
                if conv.bias is not None:
                    conv.bias.copy_(bias)


def _scale(channels: int, width: float) -> int:
    return max(4, int(channels * width))
