"""Unstructured pruning: the smallest weights are zero, and zero they stay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compressing import batch_of, model_of, tensors
from torch import nn

from mmray.training.sparse import Sparsity


def weights_of(model):
    layers = (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return torch.cat([layer.weight.detach().flatten() for layer in layers])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=6, max_size=6), st.sampled_from([0.0, 0.3, 0.5, 0.99]))
def test_none_that_is_gone_was_larger_than_one_that_stayed(values, share):
    layer = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Conv2d(1, 2, 1, bias=False))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor(values[:4], dtype=torch.float32).view(2, 2))
        layer[1].weight.copy_(torch.tensor(values[4:], dtype=torch.float32).view(2, 1, 1, 1))
    before = weights_of(layer).clone()
    Sparsity(layer, share)
    changed = before != weights_of(layer)
    assert (weights_of(layer) == 0).sum() >= int(share * 6)
    assert changed.sum() <= int(share * 6)
    if changed.any():
        assert before[changed].abs().max() <= before[~changed & (before != 0)].abs().min()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_zeros_hold_through_an_optimizer(kind):
    model, spec = model_of("text")
    sparsity, optimizer = Sparsity(model, 0.5), kind(model.parameters(), lr=0.1)
    sparsity.hold(optimizer)
    zero, before = weights_of(model) == 0, weights_of(model).clone()
    for _ in range(2):
        model(**tensors(batch_of(spec)))[0].pow(2).sum().backward()
        optimizer.step()
    after = weights_of(model)
    assert zero.float().mean() == pytest.approx(0.5, abs=1e-3)
    assert (after[zero] == 0).all()
    assert (after[~zero] != before[~zero]).any()


def test_zeros_are_found_again():
    """After a resume, and by a larger share: those that were there are among them."""
    model, _ = model_of("text")
    Sparsity(model, 0.3)
    zero = weights_of(model) == 0
    Sparsity(model, 0.3)
    assert torch.equal(weights_of(model) == 0, zero)
    Sparsity(model, 0.6)
    assert (weights_of(model)[zero] == 0).all()
    assert (weights_of(model) == 0).float().mean() == pytest.approx(0.6, abs=1e-3)
