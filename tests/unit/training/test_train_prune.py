"""Structured pruning: narrower layers that fit each other, the same features outside, a graph that agrees."""

import copy
import json

import pytest
import torch
from support.compressing import batch_of, model_of, tensors
from torch.nn import functional as F

from mmray.errors import ConfigError
from mmray.graphs import check_parity, export_graph
from mmray.training.prune import Pruner, widths_of, with_widths

MODALITIES = ("image", "text", "audio")
HALF = dict.fromkeys(MODALITIES, 0.5)


@pytest.fixture(scope="module")
def spec():
    return model_of(*MODALITIES)[1]


def losses(model, spec):
    batch = tensors(batch_of(spec))
    yield F.cross_entropy(model(**batch)[0], torch.arange(6) % 4)


def pruned(spec, steps=1, done=1, share=HALF):
    model, _ = model_of(*MODALITIES)
    pruner = Pruner(model, share, steps, tensors(batch_of(spec)))
    for _ in range(done):
        pruner.step(losses(model, spec))
    return model


@pytest.fixture(scope="module")
def half(spec):
    return pruned(spec)


def test_inner_widths_are_halved_and_features_keep_theirs(half):
    widths = {name.removeprefix("encoders."): width for name, width in widths_of(half).items()}
    assert widths["image.blocks.2.expand.conv"] == (8, 32)  # of 64
    assert widths["image.blocks.2.depthwise.conv"] == (32, 32)
    assert widths["image.blocks.2.project.conv"] == (32, 8)
    assert widths["image.head.conv"][1] == 32
    assert widths["text.layers.0.widen"] == (32, 32)  # of 64
    assert widths["text.layers.0.query"] == widths["text.layers.0.value"] == (32, 16)  # two heads of four
    assert widths["text.layers.0.narrow"][1] == 32
    assert widths["audio.convs.3.conv"] == (16, 32)  # of 32 and 64
    assert widths["audio.convs.5.conv"][1] == 64
    assert half.encoders["text"].layers[0].heads == 2


def test_channels_stay_in_sixteens(half):
    """ONNX Runtime's integer kernels are slower with more channels, if they are not."""
    inner = [w for name, (_, w) in widths_of(half).items() if "project" not in name and "stem" not in name]
    assert all(width % 16 == 0 for width in inner)


@pytest.mark.long
def test_a_pruned_model_exports_and_its_graph_agrees(half, spec, tmp_path):
    export_graph(copy.deepcopy(half), spec, tmp_path / "graph.onnx")
    assert check_parity(half, tmp_path / "graph.onnx", {"all": batch_of(spec)}) < 1e-4


def test_a_model_is_made_again_from_widths_and_weights(half, spec):
    """Through JSON and a state of tensors alone: that is all that a checkpoint needs."""
    again, _ = model_of(*MODALITIES, seed=1)
    with_widths(again, json.loads(json.dumps(widths_of(half))))
    again.load_state_dict(half.state_dict())
    batch = tensors(batch_of(spec))
    for found, expected in zip(again(**batch), half(**batch), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_steps_lead_to_the_widths_of_one_and_are_resumed(half, spec):
    first = pruned(spec, steps=2)
    assert widths_of(first)["encoders.image.blocks.2.expand.conv"][1] == 48
    resumed, _ = model_of(*MODALITIES)
    pruner = Pruner(resumed, HALF, 2, tensors(batch_of(spec)))
    with_widths(resumed, widths_of(first))
    resumed.load_state_dict(first.state_dict())
    pruner.done = 1
    pruner.step(losses(resumed, spec))
    assert widths_of(resumed) == widths_of(half)


def test_what_asks_for_no_gradient_does_not_ask_for_it_afterwards(spec):
    model, _ = model_of(*MODALITIES)
    model.encoders["text"].requires_grad_(False)
    model.encoders["image"].train()
    Pruner(model, HALF, 1, tensors(batch_of(spec))).step(losses(model, spec))
    assert not any(p.requires_grad for p in model.encoders["text"].parameters())
    assert all(p.requires_grad for p in model.encoders["image"].parameters())
    assert all(p.grad is None for p in model.parameters())
    assert model.encoders["image"].stem.norm.training
    assert not model.encoders["audio"].training


@pytest.mark.parametrize(
    ("share", "says"), [({"image": 1.0}, "below 1"), ({"audio": 0.5}, "no such encoder")]
)
def test_what_cannot_be_pruned_is_named(share, says):
    model, spec = model_of("image")
    with pytest.raises(ConfigError, match=says):
        Pruner(model, share, 1, tensors(batch_of(spec)))


def test_there_is_no_step_beyond_the_last(spec):
    with pytest.raises(ConfigError, match="all 1 steps"):
        pruned(spec, done=2)


def test_widths_of_another_model_are_refused(half):
    with pytest.raises(ConfigError, match="audio"):
        with_widths(model_of("image", "text")[0], widths_of(half))
