"""Gated fusion: what is present decides, absent features are never read, and parts can be compared."""

import pytest
import torch
from torch.nn import functional as F

from mmray.models.fusion import GatedFusion

DIMS = (5, 3, 4)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return GatedFusion(DIMS, classes=6, width=8).eval()


def batch(records=16, seed=1):
    """Features, and all subsets of the modalities twice."""
    random = torch.Generator().manual_seed(seed)
    present = (torch.arange(records)[:, None] >> torch.arange(3)) % 2 == 1
    return torch.randn(records, sum(DIMS), generator=random), present


def absent(present):
    """Columns of the features that do not count."""
    return ~torch.repeat_interleave(present, torch.tensor(DIMS), dim=1)


def test_features_that_are_not_present_are_never_read(head):
    features, present = batch()
    spoilt = features.masked_fill(absent(present), torch.nan)
    assert torch.equal(head(spoilt, present), head(features.masked_fill(absent(present), 0.0), present))


def test_absent_features_leave_gradients_finite():
    features, present = batch()
    head = GatedFusion(DIMS, classes=6, width=8)
    head(features.masked_fill(absent(present), torch.nan), present).sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@torch.no_grad()
def test_a_lone_modality_passes_the_gate_whole(head):
    features, _ = batch()
    alone = torch.tensor([[False, True, False]]).expand(len(features), 3)
    middle = head.project[1](head.norms[1](features[:, 5:8])).tanh()
    torch.testing.assert_close(head(features, alone), head.mlp(middle))


@torch.no_grad()
def test_records_without_anything_are_all_alike(head):
    features, _ = batch()
    logits = head(features, torch.zeros(len(features), 3, dtype=torch.bool))
    assert torch.equal(logits, logits[:1].expand_as(logits))


@torch.no_grad()
def test_the_scale_of_a_modality_s_features_does_not_matter(head):
    features, present = batch()
    torch.testing.assert_close(head(features * 100.0, present), head(features, present), rtol=1e-2, atol=1e-3)


def test_learns_what_no_sum_of_evidence_can():
    """The class is whether two modalities agree: each alone says nothing, and a linear head cannot tell."""
    torch.manual_seed(0)
    signs = torch.randint(0, 2, (256, 2))
    features = torch.cat([F.one_hot(signs[:, 0], 2), F.one_hot(signs[:, 1], 2)], dim=1).float()
    label = (signs[:, 0] == signs[:, 1]).long()
    present = torch.ones(256, 2, dtype=torch.bool)
    head = GatedFusion((2, 2), classes=2, width=16, dropout=0.0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(head(features, present), label).backward()
        optimizer.step()
    assert (head(features, present).argmax(dim=1) == label).all()
