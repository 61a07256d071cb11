"""The student's audio encoder: small, free in its number of frames, and able to tell sounds apart in time."""

import pytest
import torch
from torch.nn import functional as F

from mmray.models.small_sound import SmallSound


def test_is_as_small_as_it_says():
    assert sum(p.numel() for p in SmallSound().parameters()) < 90_000


@torch.no_grad()
@pytest.mark.parametrize(("patches", "frames"), [(0, 96), (1, 96), (3, 96), (2, 144)])
def test_gives_a_row_of_features_for_each_patch(patches, frames):
    model = SmallSound(dim=24).eval()
    found = model(torch.randn(patches, frames, 64).to(torch.float16))
    assert (found.shape, found.dtype) == ((patches, 24), torch.float32)


@torch.no_grad()
def test_folded_norms_change_nothing():
    torch.manual_seed(0)
    model = SmallSound(dim=24)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    patches = torch.randn(2, 96, 64)
    before = model.eval()(patches)
    model.fold_norms()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(patches), before, rtol=1e-4, atol=1e-4)


def test_learns_which_tone_comes_first():
    """A low tone and then a high one, or the other way round, both anywhere in the patch."""
    torch.manual_seed(0)
    label, start = torch.randint(0, 2, (32,)), torch.randint(0, 30, (32,))
    patches = torch.full((32, 96, 64), -6.9)
    for patch, kind, at in zip(patches, label.tolist(), start.tolist(), strict=True):
        patch[at : at + 16, slice(4, 8) if kind else slice(40, 44)] = 0.0
        patch[at + 16 : at + 32, slice(40, 44) if kind else slice(4, 8)] = 0.0
    model = torch.nn.Sequential(SmallSound(dim=16), torch.nn.Linear(16, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(patches), label)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
