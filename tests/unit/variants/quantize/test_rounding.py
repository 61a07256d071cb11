"""Weights that fit their inputs: on the grid, closer in what they give, and the graph means the same."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.parsed import constants_of, interface, nodes_of, parse, run

from mmray.errors import EngineError
from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.draft import by_channel
from mmray.variants.quantize.int8 import to_static_int8
from mmray.variants.quantize.moments import collect_moments, grouped
from mmray.variants.quantize.rounding import find_rounding, on_grid
from mmray.variants.quantize.targets import name_of, sites


def random(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


CONVOLUTIONS = """
convolutions (float[N,4,9,9] x) => (float[N,6,1,2] y)
{
  wide = Conv <pads = [1, 1, 1, 1]> (x, full)
  deep = Conv <group = 8, strides = [2, 2], pads = [0, 1, 1, 0]> (wide, depthwise)
  halves = Conv <group = 2, dilations = [2, 1], pads = [1, 0, 0, 0]> (deep, grouped)
  y = Conv <strides = [1, 2]> (halves, pointwise)
}
"""
PRODUCTS = """
products (float[N,T,16] x, float[N,16] other) => (float[N,T,8] y, float[N,5] z)
{
  hidden = MatMul (x, first)
  again = MatMul (x, second)
  y = Add (hidden, again)
  z = Gemm <transB = 1> (other, linear, bias)
}
"""


def convolutions():
    kernels = {
        "full": (8, 4, 3, 3),
        "depthwise": (8, 1, 3, 3),
        "grouped": (6, 4, 3, 2),
        "pointwise": (6, 6, 1, 1),
    }
    return parse(
        CONVOLUTIONS, **{name: random(*shape, seed=i) for i, (name, shape) in enumerate(kernels.items())}
    )


def products():
    weights = {"first": random(16, 8), "second": random(16, 8, seed=1)}
    for weight in weights.values():
        weight[3] /= 20  # meets a large column, as in transformers
    return parse(PRODUCTS, **weights, linear=random(5, 16, seed=2), bias=random(5))


def pictures(rows=16, seed=7):
    """Even, as pictures are: neighbours are nearly alike."""
    return {"x": random(rows, 4, 1, 1, seed=seed) + random(rows, 4, 9, 9, seed=seed + 1, scale=0.1)}


def sentences(rows=16, seed=7):
    x = random(rows, 5, 16, seed=seed)
    x[:, :, 3] *= 40
    return {"x": x, "other": random(rows, 16, seed=seed + 1)}


CASES = pytest.mark.parametrize(
    ("make", "feeds"), [(convolutions, pictures), (products, sentences)], ids=["convolutions", "products"]
)


def names(model):
    return [name_of(site.node) for site in sites(model.graph)]


def fitted_to(model, feeds):
    return find_rounding(model, collect_moments(model, [feeds])).on(model, names(model))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 70), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_rounded_weights_are_those_that_quantizing_finds_again(groups, outputs, inputs, seed):
    """Whoever takes 127ths of a row's largest weight as integers gets them without another error."""
    rows = random(groups, outputs, inputs, seed=seed)
    x = random(groups, 2 * inputs, inputs, seed=seed + 1).astype(np.float64)
    found = on_grid(rows, np.swapaxes(x, 1, 2) @ x)
    for before, after in zip(rows, found, strict=True):
        integers, scale = by_channel(after, axis=0)
        np.testing.assert_allclose(integers * scale[:, None], after, rtol=1e-6)
        np.testing.assert_allclose(np.abs(after).max(axis=1), np.abs(before).max(axis=1), rtol=1e-6)


def test_inputs_that_are_alike_lose_less_than_by_the_nearest_integer():
    rows, shared = random(1, 20, 25), random(2000, 1, seed=1)
    x = (shared + random(2000, 25, seed=2, scale=0.1)).astype(np.float64)[None]
    integers, scale = by_channel(rows[0], axis=0)

    def error(weights):
        return np.square((weights - rows) @ np.swapaxes(x, 1, 2)).mean()

    fitted = on_grid(rows, np.swapaxes(x, 1, 2) @ x)
    assert error(fitted) < 0.1 * error((integers * scale[:, None])[None])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_inputs_or_weights_that_say_nothing_are_taken(value):
    assert not on_grid(np.zeros((2, 3, 4), np.float32), np.full((2, 4, 4), value)).any()
    rows = random(2, 3, 4)
    found = on_grid(rows, np.zeros((2, 4, 4)))
    step = np.abs(rows).max(axis=2, keepdims=True) / 127
    assert (np.abs(found - rows) <= 0.5001 * step).all()


@CASES
def test_moments_are_those_of_the_values_that_a_result_is_made_of(make, feeds):
    """weights @ products @ weights is the sum of the results' squares, in any windows and batches."""
    model, given = make(), feeds()
    halves = [{k: v[:5] for k, v in given.items()}, {k: v[5:] for k, v in given.items()}]
    nothing = {k: v[:0] for k, v in given.items()}
    moments = collect_moments(model, [nothing, *halves])
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(site.node.output[0], TensorProto.FLOAT, None)
        for site in sites(model.graph)
    )
    for site, values in zip(sites(model.graph), run(probe, **given), strict=True):
        rows = grouped(site.node, constants_of(model)[site.node.input[1]])
        bias = constants_of(model)[site.node.input[2]] if len(site.node.input) > 2 else 0
        expected = np.square(values - bias).sum()
        found = moments[site.node.output[0]].products
        np.testing.assert_allclose(np.einsum("goi,gij,goj->", rows, found, rows), expected, rtol=1e-4)


@CASES
def test_the_graph_means_the_same_and_only_named_nodes_are_altered(make, feeds):
    model, given = make(), feeds()
    before = model.SerializeToString()
    found = find_rounding(model, collect_moments(model, [given]))
    whole, none = found.on(model, names(model)), found.on(model, [])
    assert model.SerializeToString() == before == none.SerializeToString()
    assert interface(whole) == interface(model)
    for left, right in zip(_outputs(whole, given), _outputs(model, given), strict=True):
        assert np.abs(left - right).max() < 0.02 * np.abs(right).max()


def test_one_large_column_does_not_round_the_others_away():
    """Two products of the same input share one division."""
    model, given, unseen = products(), sentences(), sentences(seed=50)
    fitted = fitted_to(model, given)
    assert len(nodes_of(fitted, "Mul")) == 2

    def error(prepared):
        small = to_static_int8(prepared, collect_ranges(prepared, [given], "minmax"))
        found, expected = run(small, **unseen)[0], run(model, **unseen)[0]
        return np.abs(found - expected).mean()

    assert error(fitted) < 0.5 * error(model)


def test_no_records_and_what_is_not_finite_are_refused():
    with pytest.raises(EngineError, match="there are no records"):
        collect_moments(products(), [])
    spoilt = sentences()
    spoilt["x"][0, 0, 0] = np.nan
    with pytest.raises(EngineError, match="not finite in x; remove"):
        collect_moments(products(), [spoilt])


def _outputs(model, feeds):
    found = run(model, **feeds)
    return found if isinstance(found, list) else [found]
