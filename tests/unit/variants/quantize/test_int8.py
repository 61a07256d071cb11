"""int8: integers where they were promised, nowhere else, and scores that stay close and independent."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.parsed import constants_of, interface, kernels, nodes_of, parse, run

from mmray.engine import Engine
from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.int8 import to_dynamic_int8, to_static_int8

FLAVOURS = ("cpu", "tensorrt")


def random(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


CONVOLUTIONS = """
convolutions (float[N,8,12,12] x) => (float[N,4] y)
{
  expanded = Conv (x, expand, expand_bias)
  clipped = Clip (expanded, zero, six)
  deep = Conv <group = 16, pads = [1, 1, 1, 1]> (clipped, depthwise, depthwise_bias)
  positive = Relu (deep)
  projected = Conv (positive, project, project_bias)
  sum = Add (x, projected)
  last = Conv (sum, head, head_bias)
  mean = ReduceMean <keepdims = 0> (last, axes)
  y = MatMul (mean, classes)
}
"""


def convolutions(**changes):
    constants = {
        "expand": random(16, 8, 1, 1, scale=0.5),
        "expand_bias": random(16, seed=1),
        "depthwise": random(16, 1, 3, 3, seed=2),
        "depthwise_bias": random(16, seed=3),
        "project": random(8, 16, 1, 1, seed=4, scale=0.3),
        "project_bias": random(8, seed=5),
        "head": random(32, 8, 1, 1, seed=6),
        "head_bias": random(32, seed=7),
        "classes": random(32, 4, seed=8),
        "zero": np.float32(0),
        "six": np.float32(6),
        "axes": np.array([2, 3]),
    }
    return parse(CONVOLUTIONS, **constants | changes)


PRODUCTS = """
products (int64[B,T] ids, float[B,T,T] mask) => (float[B,4] y)
{
  words = Gather (table, ids)
  query = MatMul (words, query_weight)
  key = MatMul (words, key_weight)
  turned = Transpose <perm = [0, 2, 1]> (key)
  likeness = MatMul (query, turned)
  seen = Add (likeness, mask)
  attention = Softmax (seen)
  attended = MatMul (attention, words)
  first = Gather <axis = 1> (attended, zero)
  y = Gemm <transB = 1> (first, classes, classes_bias)
}
"""


def products(**changes):
    constants = {
        "table": random(4096, 32),
        "query_weight": random(32, 32, seed=1, scale=0.1),
        "key_weight": random(32, 32, seed=2, scale=0.1),
        "classes": random(4, 32, seed=3),
        "classes_bias": random(4, seed=4),
        "zero": np.int64(0),
    }
    return parse(PRODUCTS, **constants | changes)


def pictures(rows=8, seed=0):
    return {"x": random(rows, 8, 12, 12, seed=seed)}


def sentences(rows=8, words=6, seed=0):
    ids = np.random.default_rng(seed).integers(4096, size=(rows, words))
    return {"ids": ids, "mask": np.zeros((rows, words, words), np.float32)}


def static(model, feeds, flavour="cpu", exclude=()):
    return to_static_int8(model, collect_ranges(model, [feeds], "minmax"), flavour, exclude)


def error(model, parent, feeds):
    """Largest difference as a share of the parent's largest output."""
    expected = run(parent, **feeds)
    return np.abs(run(model, **feeds) - expected).max() / np.abs(expected).max()


MAKERS = {
    "cpu": static,
    "tensorrt": lambda model, feeds: static(model, feeds, "tensorrt"),
    "dynamic": lambda model, _: to_dynamic_int8(model),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    ("model", "feeds"),
    [(convolutions(), pictures()), (products(), sentences())],
    ids=["convolutions", "products"],
)
def test_outputs_stay_close_and_the_model_is_left_alone(make, model, feeds):
    before = model.SerializeToString()
    small = make(model, feeds)
    assert model.SerializeToString() == before
    assert interface(small) == interface(model)
    onnx.checker.check_model(small, full_check=True)
    assert error(small, model, feeds) < 0.04


def test_convolutions_and_products_run_in_integers(tmp_path):
    """Every one of them, also the depthwise one; no float kernel of either is left."""
    found = kernels(static(convolutions(), pictures()), tmp_path)
    assert found["QLinearConv"] == 4
    assert found["MatMulIntegerToFloat"] == 1
    assert not found["Conv"] + found["FusedConv"] + found["MatMul"] + found["Clip"] + found["Relu"]


def test_products_of_two_activations_stay_in_float(tmp_path):
    found = kernels(static(products(), sentences()), tmp_path)
    assert found["MatMulIntegerToFloat"] == 2
    assert found["QGemm"] == 1
    assert found["MatMul"] + found["FusedMatMul"] == 2
    assert not found["Gemm"]


def test_a_gemm_that_is_more_than_a_linear_layer_is_left_alone():
    model = parse("g (float[4,B] x) => (float[B,3] y) { y = Gemm <transA = 1> (x, w) }", w=random(4, 3))
    assert [n.op_type for n in static(model, {"x": random(4, 2)}).graph.node] == ["Gemm"]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_named_nodes_stay_in_float(flavour):
    model = convolutions()
    small = static(model, pictures(), flavour, exclude={"deep_node", "y_node"})
    nodes = {node.name: node for node in small.graph.node}
    makers = {name: node.op_type for node in small.graph.node for name in node.output}
    assert nodes["deep_node"].input[1] == "depthwise"
    assert nodes["y_node"].input[1] == "classes"
    assert makers[nodes["last_node"].input[1]] == "DequantizeLinear"
    every = {name for name in constants_of(small) if name.endswith("/weight/int")}
    assert every == {"expanded/weight/int", "projected/weight/int", "last/weight/int"}
    all_out = static(model, pictures(), flavour, exclude={node.name for node in model.graph.node})
    assert not nodes_of(all_out, "QuantizeLinear", "DequantizeLinear")
    np.testing.assert_array_equal(run(all_out, **pictures()), run(model, **pictures()))


def test_what_has_no_range_stays_in_float():
    model = convolutions()
    ranges = {k: v for k, v in collect_ranges(model, [pictures()]).items() if k != "mean"}
    small = to_static_int8(model, ranges)
    assert [node.input[1] for node in nodes_of(small, "MatMul")] == ["classes"]


def test_large_constants_that_stay_are_stored_as_half():
    """So that a mixed variant remains small; they are computed with in float32."""
    model = products(table=random(4096, 32), query_weight=random(32, 32), key_weight=1e6 * random(32, 32))
    exclude = {node.name for node in model.graph.node}
    model.graph.initializer.append(onnx.numpy_helper.from_array(random(64, 64), "unused"))
    small = to_dynamic_int8(model, exclude)
    stored = constants_of(small)
    assert stored["table/half"].dtype == np.float16
    assert (
        stored["query_weight"].dtype == stored["key_weight"].dtype == np.float32
    )  # too few values to matter
    assert {"table", "unused"}.isdisjoint(stored)
    assert error(small, model, sentences()) < 1e-2
    beyond = to_dynamic_int8(products(table=1e6 * random(4096, 32)), exclude)
    assert constants_of(beyond)["table"].dtype == np.float32


def test_a_table_is_a_quarter_and_only_what_is_looked_up_is_dequantized(tmp_path):
    model = products()
    small = static(model, sentences())
    assert small.ByteSize() < 0.3 * model.ByteSize()
    looked_up = next(n for n in nodes_of(small, "Gather") if n.input[1] == "ids")
    assert constants_of(small)[looked_up.input[0]].dtype == np.int8
    table, ids = constants_of(model)["table"], sentences()["ids"]
    step = np.abs(table).max(axis=0) / 127
    words = onnx.ModelProto()
    words.CopyFrom(small)
    del words.graph.output[:]
    words.graph.output.append(onnx.helper.make_tensor_value_info("words", TensorProto.FLOAT, None))
    found = run(words, **sentences())
    assert (np.abs(found - table[ids]) <= step / 2 * 1.001).all()


def test_a_table_for_tensorrt_has_integers_as_constants_only():
    small = static(products(), sentences(), "tensorrt")
    looked_up = next(n for n in nodes_of(small, "Gather") if n.input[1] == "ids")
    maker = next(n for n in small.graph.node if looked_up.input[0] in n.output)
    assert maker.op_type == "DequantizeLinear"
    assert constants_of(small)[maker.input[0]].dtype == np.int8


def test_a_small_table_is_not_worth_it():
    model = products(table=random(100, 32))
    feeds = {**sentences(), "ids": sentences()["ids"] % 100}
    assert constants_of(static(model, feeds))["table"].dtype == np.float32


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_two_nodes_share_a_zero_point_to_dequantize(flavour):
    small = static(products(), sentences(), flavour)
    zeros = [node.input[2] for node in nodes_of(small, "DequantizeLinear")]
    assert len(zeros) == len(set(zeros)) > 4


def test_what_tensorrt_asks_for():
    """Symmetric int8, activations and weights alike; biases and results in float; a pair for each node."""
    small = static(convolutions(), pictures(), "tensorrt")
    constants = constants_of(small)
    pairs = nodes_of(small, "QuantizeLinear", "DequantizeLinear")
    assert len(nodes_of(small, "QuantizeLinear")) == 5
    for node in pairs:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
    users = [
        sum(node.output[0] in other.input for other in small.graph.node)
        for node in nodes_of(small, "DequantizeLinear")
    ]
    assert set(users) == {1}
    for node in nodes_of(small, "Conv"):
        assert constants[node.input[2]].dtype == np.float32
        followers = [other.op_type for other in small.graph.node if node.output[0] in other.input]
        assert followers != ["QuantizeLinear"] or node.output[0] == "sum"
    assert small.opset_import[0].version <= 20


def test_a_channel_without_weights_keeps_its_bias():
    """Its scale would be too small for an int32 bias; zero weights must not divide by zero either."""
    expand = random(16, 8, 1, 1)
    expand[0], expand[1] = 0, 1e-12
    model = convolutions(expand=expand, expand_bias=np.linspace(-3, 5, 16, dtype=np.float32))
    small = static(model, pictures())
    assert error(small, model, pictures()) < 0.04
    assert constants_of(small)["expanded/bias/int"].dtype == np.int32
    assert error(static(model, pictures(), "tensorrt"), model, pictures()) < 0.04


def test_an_activation_that_is_always_zero_does_no_harm():
    model = convolutions(expand=np.zeros((16, 8, 1, 1), np.float32), expand_bias=np.full(16, -1, np.float32))
    for flavour in FLAVOURS:
        assert error(static(model, pictures(), flavour), model, pictures()) < 0.04


def test_dynamic_scores_do_not_depend_on_the_batch():
    """Neither on a neighbour with huge activations, nor on one that is not finite."""
    model = products(
        table=np.vstack([random(4094, 32), np.full((1, 32), 1e6), np.full((1, 32), np.nan)]).astype(
            np.float32
        )
    )
    small = to_dynamic_int8(model, exclude={"words_node"})
    given = sentences(rows=4)
    given["ids"] %= 4094
    alone = run(small, ids=given["ids"][:1], mask=given["mask"][:1])
    for neighbour in (4094, 4095):
        given["ids"][1:] = neighbour
        np.testing.assert_array_equal(run(small, **given)[0], alone[0])


def test_dynamic_rows_have_each_a_scale_of_its_own():
    """Rows a million times apart are as exact as each other, which one scale for all could not be."""
    model = parse("g (float[N,64] x) => (float[N,16] y) { y = MatMul (x, w) }", w=random(64, 16))
    x = random(5, 64, seed=1) * np.array([[1e-3], [1], [1e3], [1e-3], [10]], np.float32)
    found, expected = run(to_dynamic_int8(model), x=x), x @ random(64, 16)
    off = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert off.max() < 0.02


def test_dynamic_products_are_integers_and_convolutions_are_not(tmp_path):
    found = kernels(to_dynamic_int8(products()), tmp_path)
    assert found["MatMulInteger"] == 3
    assert kernels(to_dynamic_int8(convolutions()), tmp_path)["MatMulInteger"] == 1
    assert len(nodes_of(to_dynamic_int8(convolutions()), "Conv")) == 4


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_whole_bundle_works_with_any_modality_missing(make, bundle, tmp_path):
    model = onnx.load(bundle.graph("fp32"))
    inputs, outputs = bundle.golden()
    path = tmp_path / "int8.onnx"
    onnx.save(make(model, inputs), path)
    engine = Engine(path, provider="cpu")
    assert np.abs(engine(inputs)["scores"] - outputs["scores"]).max() < 0.2
    rows = {
        "pixels": "pixels_row",
        "input_ids": "text_row",
        "attention_mask": "text_row",
        "log_mel": "log_mel_row",
    }
    for column, names in enumerate((("pixels",), ("input_ids", "attention_mask"), ("log_mel",))):
        feeds = dict(inputs)
        feeds["present"] = feeds["present"].copy()
        feeds["present"][:, column] = False
        for name in names:
            feeds[name], feeds[rows[name]] = inputs[name][:0], inputs[rows[name]][:0]
        expected = Engine(bundle.graph("fp32"), provider="cpu")(feeds)["scores"]
        assert np.abs(engine(feeds)["scores"] - expected).max() < 0.2
