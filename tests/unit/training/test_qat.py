"""Training for int8: the model rounds as its int8 graph does, learns, and is the plain one afterwards."""

import copy

import numpy as np
import pytest
import torch
from support.compressing import batch_of, model_of, tensors
from support.parsed import kernels, run
from torch import nn
from torch.nn import functional as F

from mmray.errors import ConfigError, EngineError
from mmray.models.encoder import Encoder
from mmray.models.fused import FusedModel
from mmray.models.head import SubsetHead
from mmray.training.qat import prepare, strip, to_int8


@pytest.fixture(scope="module")
def plain():
    model, spec = model_of("image", "text")
    model.encoders["image"].fold_norms()
    return model, spec


@pytest.fixture(scope="module")
def prepared(plain):
    model, spec = copy.deepcopy(plain[0]), plain[1]
    prepare(model, spec, [batch_of(spec, seed=seed) for seed in range(3)])
    return model


@pytest.fixture(scope="module")
def trained(prepared, plain):
    """The prepared model after two steps, and its int8 graph."""
    model, spec = copy.deepcopy(prepared), plain[1]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for seed in range(2):
        loss = F.cross_entropy(model(**tensors(batch_of(spec, seed=seed)))[0], torch.arange(6) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, to_int8(model, spec)


def test_a_trained_model_gives_what_its_int8_graph_gives(trained, plain):
    """Far closer than the float model, and mostly to the last digit: a value between two integers may go
    either way."""
    model, graph = trained
    batch = batch_of(plain[1], seed=9)
    fake = [tensor.detach().numpy() for tensor in model(**tensors(batch))]
    stripped = copy.deepcopy(model)
    strip(stripped)
    floats = [tensor.detach().numpy() for tensor in stripped(**tensors(batch))]
    for found, expected, unrounded in zip(run(graph, **batch), fake, floats, strict=True):
        step = np.ptp(expected) / 255
        assert np.abs(found - expected).max() <= 2 * step
        assert np.abs(found - expected).mean() < 0.1 * np.abs(found - unrounded).mean()


def test_its_graph_has_integer_kernels_as_without_such_training(trained, tmp_path):
    found = kernels(trained[1], tmp_path)
    assert not found["Conv"] + found["FusedConv"] + found["NhwcFusedConv"]
    assert found["QLinearConv"] + found["NhwcQLinearConv"] + found["com.microsoft.QLinearConv"] == 10
    assert found["MatMulIntegerToFloat"] == 6


def test_gradients_reach_every_weight(prepared, plain):
    model = copy.deepcopy(prepared)
    model(**tensors(batch_of(plain[1])))[0].pow(2).sum().backward()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)}
    dead = [n for n, m in layers.items() if m.weight.grad is None or not m.weight.grad.abs().sum()]
    assert not dead
    assert all(m.bias.grad is not None for m in layers.values() if getattr(m, "bias", None) is not None)


def test_stripping_gives_back_the_plain_model(prepared, plain):
    model = copy.deepcopy(prepared)
    strip(model)
    batch = tensors(batch_of(plain[1]))
    assert [type(m) for m in model.modules()] == [type(m) for m in plain[0].modules()]
    assert model.state_dict().keys() == plain[0].state_dict().keys()
    for found, expected in zip(model(**batch), plain[0](**batch), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_copy_rounds_by_itself(prepared, plain):
    """Who keeps the best model so far copies it; neither stripping it nor its ranges touch the other."""
    batch = tensors(batch_of(plain[1]))
    before = prepared(**batch)[0]
    copied = copy.deepcopy(prepared)
    for rounder in copied.rounders.children():
        rounder.step *= 8
    assert not torch.equal(copied(**batch)[0], before)
    strip(copied)
    torch.testing.assert_close(prepared(**batch)[0], before, rtol=0, atol=0)


def test_a_prepared_model_resumes_from_its_state(prepared, trained):
    """The state holds the ranges, so that a resume needs no records of its own to find the same."""
    again = copy.deepcopy(prepared)
    again.load_state_dict(trained[0].state_dict())
    names = [name for name in again.state_dict() if name.startswith("rounders.")]
    assert len(names) == 2 * len(list(again.rounders.children()))


class _Tight(Encoder):
    """One unit."""

    dim = 8

    def __init__(self):
        super().__init__()
        self.unit = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())

    def forward(self, pixels):
        return self.unit(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255).mean(dim=(2, 3))


def test_ranges_of_another_graph_are_refused():
    _, spec = model_of("image")
    model = FusedModel({"image": _Tight()}, SubsetHead([8], 4))
    prepare(model, spec, [batch_of(spec)])
    model.rounders["elsewhere"] = copy.deepcopy(next(model.rounders.children()))
    with pytest.raises(EngineError, match="elsewhere"):
        to_int8(model, spec)


class _Loose(Encoder):
    """Two convolutions with activations of their own in one module: which ends where cannot be told."""

    dim = 8

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, pixels):
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
        return self.second(self.first(x).relu()).relu().mean(dim=(2, 3))


def test_a_convolution_outside_a_unit_is_named():
    _, spec = model_of("image")
    model = FusedModel({"image": _Loose()}, SubsetHead([8], 4))
    with pytest.raises(ConfigError, match=r"encoders\.image\.first"):
        prepare(model, spec, [batch_of(spec)])
