"""First convolutions in another shape give the same sums; pixels are taken as the integers that they are."""

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from support.parsed import constants_of, kernels, nodes_of, parse, run

from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.draft import Draft
from mmray.variants.quantize.int8 import to_static_int8
from mmray.variants.quantize.wide import pixels_of, regrouped, widened, widths

PIXELS = """
pixels (uint8[N,16,16,3] pixels) => (float[N,8] y)
{
  turned = Transpose <perm = [0, 3, 1, 2]> (pixels)
  cast = Cast <to = 1> (turned)
  moved = Sub (cast, offset)
  x = Div (moved, scale)
  conv = Conv <strides = [2, 2], pads = [0, 0, 1, 1]> (x, weight, bias)
  positive = Relu (conv)
  y = ReduceMean <keepdims = 0> (positive, axes)
}
"""


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pixel_model(**changes):
    constants = {
        "offset": np.float32(127),
        "scale": np.float32(128),
        "weight": random(8, 3, 3, 3),
        "bias": random(8, seed=1),
        "axes": np.array([2, 3]),
    }
    return parse(PIXELS, **constants | changes)


def picture(rows=4):
    return {"pixels": np.random.default_rng(2).integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8)}


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 2, 3, 5, 6]),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    left=st.integers(0, 3),
    right=st.integers(0, 3),
    width=st.sampled_from([8, 12, 16, 24, 32]),
    has_bias=st.booleans(),
)
def test_a_wide_convolution_gives_the_same_sums(channels, kernel, stride, left, right, width, has_bias):
    assume(kernel <= width)
    weight = random(4, channels, 2, kernel)
    inputs = ["x", "weight", *(["bias"] if has_bias else [])]
    graph = helper.make_graph(
        [helper.make_node("Conv", inputs, ["y"], strides=[1, stride], pads=[1, left, 0, right])],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", channels, 5, width])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4, "H", "W"])],
        [numpy_helper.from_array(weight, "weight")]
        + ([numpy_helper.from_array(random(4, seed=1), "bias")] if has_bias else []),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    draft = Draft(model)
    wide = widened(draft, draft.originals[0], widths(draft)["x"])
    assume(wide is not None)
    source = regrouped(draft, "x", "places", wide.place)
    names = [source, draft.constant("wide_weight", wide.weight, np.float32)]
    if wide.bias is not None:
        names.append(draft.constant("wide_bias", wide.bias, np.float32))
    draft.node("Conv", names, "wide", **wide.attributes)
    regrouped(draft, "wide", "y", wide.column)
    assert wide.weight.shape[1] % 4 == 0
    x = random(2, channels, 5, width, seed=3)
    np.testing.assert_allclose(run(draft.finish(), x=x), run(model, x=x), atol=1e-4)


def test_what_has_channels_enough_or_no_such_form_is_left_alone():
    enough, one_result_a_row = random(8, 4, 3, 3), random(8, 3, 3, 15)
    for weight in (enough, one_result_a_row):
        model = parse("g (float[N,C,9,15] x) => (float[N,8,H,W] y) { y = Conv (x, weight) }", weight=weight)
        draft = Draft(model)
        assert widened(draft, draft.originals[0], 15) is None


def test_pixels_are_the_integers_of_their_own_activation():
    found = pixels_of(Draft(pixel_model()), "x")
    assert (found.source, found.step, found.zero, found.order) == ("pixels", 1 / 128, 127, (0, 3, 1, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": np.float32(126.5)},  # no whole number stands for zero
        {"offset": np.float32(-1)},  # nor one that a uint8 can be
        {"scale": np.full((3, 1, 1), 58.0, np.float32)},  # one for each channel
        {"scale": np.float32(-128)},
    ],
)
def test_any_other_normalization_is_quantized_by_its_range(changes):
    model = pixel_model(**changes)
    assert pixels_of(Draft(model), "x") is None
    small = to_static_int8(model, collect_ranges(model, [picture()], "minmax"))
    expected = run(model, **picture())
    assert np.abs(run(small, **picture()) - expected).max() < 0.03 * np.abs(expected).max()


def test_pixels_reach_the_kernel_untouched_and_what_is_read_of_them_is_exact(tmp_path):
    model = pixel_model()
    small = to_static_int8(model, collect_ranges(model, [picture()], "minmax"))
    found = kernels(small, tmp_path)
    assert found["QLinearConv"] == 1
    assert not found["Cast"] + found["Sub"] + found["Div"] + found["QuantizeLinear"]
    [conv] = nodes_of(small, "Conv")
    [weights] = [v for name, v in constants_of(small).items() if name.endswith("wide/weight/int")]
    assert weights.shape == (16, 12, 3, 2)
    assert conv.name == "conv_node"
    expected = run(model, **picture())
    # Half a step of the result, and the rounding of the weights.
    assert np.abs(run(small, **picture()) - expected).max() < 0.02 * np.abs(expected).max()


def test_a_wide_convolution_may_have_no_activation_behind_it():
    model = parse(
        PIXELS.replace("Relu", "Neg"),
        **{c.name: numpy_helper.to_array(c) for c in pixel_model().graph.initializer},
    )
    small = to_static_int8(model, collect_ranges(model, [picture()], "minmax"))
    expected = run(model, **picture())
    assert any("wide" in name for name in constants_of(small))
    assert np.abs(run(small, **picture()) - expected).max() < 0.02 * np.abs(expected).max()


def test_a_first_convolution_that_stays_in_float_takes_pixels_as_before():
    model = pixel_model()
    small = to_static_int8(model, collect_ranges(model, [picture()], "minmax"), exclude={"conv_node"})
    np.testing.assert_array_equal(run(small, **picture()), run(model, **picture()))
