"""The image encoder: the published Lite0, from pixels as they travel."""

import pytest
import torch

from mmray.models.efficientnet_lite import EfficientNetLite
from mmray.models.pretrained import EFFICIENTNET_LITE0
from mmray.models.same_padding import pad_same


def pattern():
    """uint8 [1, 224, 224, 3] of stripes that differ along both axes and between the channels."""
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    return torch.stack([y * 3 + x * 5, y + x * 2, y * 7], dim=-1).remainder(256).to(torch.uint8)[None]


@torch.no_grad()
def test_gives_the_features_of_the_reference_code(weights):
    """The numbers are those of efficientnet-lite-pytorch 0.1.0 (extract_features, mean) on this pattern."""
    model = EfficientNetLite().eval()
    model.load_checkpoint(torch.load(weights(EFFICIENTNET_LITE0), weights_only=True))
    features = model(pattern())[0]
    assert features.shape == (1280,)
    assert features.norm().item() == pytest.approx(16.753113, rel=1e-5)
    assert features.mean().item() == pytest.approx(0.10301267, rel=1e-5)
    assert features[2].item() == pytest.approx(0.01640934, rel=1e-3)


@torch.no_grad()
def test_folded_norms_change_nothing():
    torch.manual_seed(0)
    model = EfficientNetLite(width=0.25, depth=0.3, features=24)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.uniform_(0.5, 2.0)
            module.bias.normal_()
    pixels = torch.randint(0, 256, (2, 64, 48, 3), dtype=torch.uint8)
    before = model.eval()(pixels)
    model.fold_norms()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(pixels), before, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_another_size_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        EfficientNetLite(features=64).load_checkpoint(
            {"_conv_head.weight": torch.zeros(1280, 320, 1, 1), "_fc.weight": torch.zeros(1)}
        )


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(224, 3, 2), (224, 5, 2), (7, 3, 2), (7, 5, 1), (8, 1, 1)]
)
def test_same_padding_gives_the_ceiling_of_size_over_stride(size, kernel, stride):
    padded = pad_same(torch.ones(1, 1, size, size + 1), kernel, stride)
    outputs = [(length - kernel) // stride + 1 for length in padded.shape[2:]]
    assert outputs == [-(-size // stride), -(-(size + 1) // stride)]
    assert padded.sum() == size * (size + 1)


def test_same_padding_puts_the_odd_pixel_last():
    padded = pad_same(torch.ones(1, 1, 4, 4), kernel=3, stride=2)
    assert padded.shape[2:] == (5, 5)
    assert padded[0, 0, 0, 0] == 1
    assert padded[0, 0, 4, 4] == 0
