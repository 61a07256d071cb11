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


@torch.no_grad()
def test_a_shallower_one_inherits_the_first_blocks_of_each_stage():
    torch.manual_seed(0)
    parent, student = EfficientNetLite(width=0.25, features=24), EfficientNetLite(0.25, 0.5, features=24)
    student.inherit(parent)
    assert (parent.repeats, student.repeats) == ([1, 2, 2, 3, 3, 4, 1], [1, 1, 1, 2, 2, 2, 1])
    # With the parent's other blocks taken out, both are the same.
    kept = [0, 1, 3, 5, 6, 8, 9, 11, 12, 15]
    parent.blocks = torch.nn.Sequential(*(parent.blocks[i] for i in kept))
    pixels = torch.randint(0, 256, (2, 64, 48, 3), dtype=torch.uint8)
    assert torch.equal(student.eval()(pixels), parent.eval()(pixels))


def test_a_head_of_another_width_is_not_inherited():
    parent, student = EfficientNetLite(width=0.25, features=24), EfficientNetLite(width=0.25, features=16)
    before = student.head.conv.weight.clone()
    student.inherit(parent)
    assert torch.equal(student.head.conv.weight, before)
    assert torch.equal(student.stem.conv.weight, parent.stem.conv.weight)


@pytest.mark.parametrize(
    ("parent", "error", "message"),
    [
        ({"width": 0.25, "depth": 0.5}, ValueError, r"blocks, these \[1, 2, 2, 3, 3, 4, 1\]"),
        ({"width": 0.5}, RuntimeError, "size mismatch"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused(parent, error, message):
    with pytest.raises(error, match=message):
        EfficientNetLite(width=0.25).inherit(EfficientNetLite(**parent))


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
