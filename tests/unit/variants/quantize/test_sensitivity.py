"""Sensitivity: blocks are those that a reader of the graph would name, and no more are spared than needed."""

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parsed import parse, run

from mmray.errors import EngineError
from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.half import rehearse_half
from mmray.variants.quantize.int8 import to_static_int8
from mmray.variants.quantize.sensitivity import Sensitivity, blocks, fewest_exclusions, rank

LAYERS = 5
X = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)


def stack(*, outlier=None, gain=None):
    """Linear layers. One may take an activation with an outlier that makes all else small, or a gain."""
    random = np.random.default_rng(0)
    constants, lines = {}, []
    for i in range(LAYERS):
        orthogonal = np.linalg.qr(random.standard_normal((16, 16)))[0]
        if i == outlier:  # the layer before it blows one channel up, it takes it back
            constants[f"net.layers.{i - 1}.weight"][:, 0] *= 1e4
            orthogonal[0] /= 1e4
        if i == gain:
            orthogonal *= 1e6
        if gain is not None and i == gain + 1:
            orthogonal /= 1e6
        constants[f"net.layers.{i}.weight"] = orthogonal
        lines.append(f"x{i + 1} = MatMul (x{i}, W{i})")
    text = f"stack (float[N,16] x0) => (float[N,16] x{LAYERS}) {{ {' '.join(lines)} }}"
    model = parse(text, **{f"W{i}": w.astype(np.float32) for i, w in enumerate(constants.values())})
    rename(model, {f"W{i}": name for i, name in enumerate(constants)})
    return model


def rename(model, names):
    """Give constants names that ONNX's text form has no way to say."""
    for initializer in model.graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def change_from(model):
    expected = run(model, x0=X)

    def change(other):
        found = run(other, x0=X)
        return float(np.abs(found - expected).max()) if np.isfinite(found).all() else math.inf

    return change


def test_every_node_of_a_bundle_is_in_one_block(bundle):
    model = onnx.load(bundle.graph("fp32"))
    found = blocks(model)
    names = [name for nodes in found.values() for name in nodes]
    assert sorted(names) == sorted(node.name for node in model.graph.node)
    assert {"encoders.text.layers.0", "encoders.image.blocks.0", "encoders.audio.convs.0"} <= set(found)


def test_a_transformer_layer_is_one_block_although_its_weights_have_no_name(bundle):
    """The exporter calls transposed weights val_12; the biases behind them tell where they belong."""
    model = onnx.load(bundle.graph("fp32"))
    constants = {i.name for i in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    layer = [nodes[name] for name in blocks(model)["encoders.text.layers.0"]]
    products = [node for node in layer if node.op_type == "MatMul"]
    assert sum(node.input[1] in constants for node in products) == 6
    assert sum(node.input[1] not in constants for node in products) == 2
    assert {"Softmax", "Gelu"} <= {node.op_type for node in layer}


def test_blocks_that_are_too_much_are_divided_by_their_next_number():
    """Stages of many blocks each, as in ConvNeXt or Swin."""
    count = 30
    steps = " ".join(f"x{i + 1} = MatMul (x{i}, W{i})" for i in range(count))
    model = parse(
        f"deep (float[N,2] x0) => (float[N,2] x{count}) {{ {steps} }}",
        **{f"W{i}": np.eye(2, dtype=np.float32) for i in range(count)},
    )
    rename(
        model, {f"W{i}": f"stages.{i // 15}.blocks.{i % 15 // 3}.linear.{i % 3}.weight" for i in range(count)}
    )
    assert list(blocks(model)) == [f"stages.{i}.blocks.{j}" for i in range(2) for j in range(5)]


def test_without_any_names_a_dozen_in_a_row_are_a_block():
    count = 30
    steps = " ".join(f"x{i + 1} = MatMul (x{i}, W)" for i in range(count))
    model = parse(
        f"deep (float[N,2] x0) => (float[N,2] x{count}) {{ {steps} }}", W=np.eye(2, dtype=np.float32)
    )
    for node in model.graph.node:
        node.name = ""
    found = blocks(model)
    assert [len(nodes) for nodes in found.values()] == [12, 12, 6]
    assert [name for nodes in found.values() for name in nodes] == [f"x{i + 1}" for i in range(count)]


def test_the_layer_behind_an_outlier_ranks_first():
    model = stack(outlier=3)
    ranges = collect_ranges(model, [{"x0": X}], "minmax")

    def quantize(keep):
        return to_static_int8(model, ranges, exclude=keep)

    ranked = rank(model, quantize, change_from(model))
    assert {sensitivity.block for sensitivity in ranked} == {f"net.layers.{i}" for i in range(LAYERS)}
    assert ranked[0].block == "net.layers.3"
    assert ranked[0].change > 10 * ranked[1].change
    bound = 3 * sum(sensitivity.change for sensitivity in ranked[1:])
    found = fewest_exclusions(ranked, quantize, lambda tried: change_from(model)(tried) < bound)
    assert found.kept == ("net.layers.3",)
    assert change_from(model)(found.model) < bound


def test_layers_that_overflow_float16_rank_first():
    """The one whose result is too large, and the one that takes it."""
    model = stack(gain=1)

    def quantize(keep):
        return rehearse_half(model, keep)

    ranked = rank(model, quantize, change_from(model))
    assert [s.block for s in ranked if math.isinf(s.change)] == ["net.layers.1", "net.layers.2"]
    assert {s.block for s in ranked[:2]} == {"net.layers.1", "net.layers.2"}
    found = fewest_exclusions(ranked, quantize, lambda tried: math.isfinite(change_from(model)(tried)))
    assert found.kept == ("net.layers.1", "net.layers.2")


def test_what_nothing_is_changed_by_is_not_run():
    """Shapes and indices have no lower precision; trying them would only cost time."""
    model = stack()
    tried = []
    ranges = collect_ranges(model, [{"x0": X}])

    def change(other):
        tried.append(other)
        return 1.0

    groups = {"all": [node.name for node in model.graph.node], "none": ["no such node"]}
    ranked = rank(model, lambda keep: to_static_int8(model, ranges, exclude=keep), change, groups)
    assert [(s.block, s.change) for s in ranked] == [("all", 1.0), ("none", 0.0)]
    assert len(tried) == 1


def test_a_change_that_is_no_number_is_the_worst():
    changes = {"a": 1.0, "b": math.nan, "c": 2.0}
    ranked = rank(
        onnx.ModelProto(),
        spared,
        lambda model: changes[({*"abc"} - set(model.doc_string)).pop()],
        dict(zip("abc", "abc", strict=True)),
    )
    assert [s.block for s in ranked] == ["b", "c", "a"]
    assert ranked[0].change == math.inf


def spared(keep):
    """A model that says which nodes it spares."""
    return onnx.ModelProto(doc_string="".join(sorted(keep)))


@given(blocks=st.integers(1, 26), needed=st.integers(0, 26))
def test_as_few_as_needed_are_spared(blocks, needed):
    """Whatever the number; and the graph is judged at every step, but not at many."""
    names = "abcdefghijklmnopqrstuvwxyz"[:blocks]
    ranked = [Sensitivity(name, (name,), 1.0) for name in names]
    judged = []

    def passes(model):
        judged.append(model.doc_string)
        return len(model.doc_string) >= needed

    if needed < blocks:
        found = fewest_exclusions(ranked, spared, passes)
        assert found.kept == tuple(names[:needed])
        assert found.model.doc_string == names[:needed]
        assert found.model.doc_string in judged
    elif needed:
        with pytest.raises(EngineError, match=f"{blocks - 1} of {blocks} blocks in float"):
            fewest_exclusions(ranked, spared, passes)
    assert len(judged) == len(set(judged)) <= 2 + 2 * math.log2(blocks + 1)


def test_blocks_that_change_nothing_are_never_spared():
    ranked = [Sensitivity("a", ("a",), 1.0), Sensitivity("b", ("b",), 0.0)]
    with pytest.raises(EngineError, match="0 of 1 blocks"):
        fewest_exclusions(ranked, spared, lambda _: False)
