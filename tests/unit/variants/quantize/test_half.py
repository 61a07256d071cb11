"""float16: half the bytes, a valid graph, and a rehearsal that shows on a CPU what it would do elsewhere."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, shape_inference
from support.parsed import constants_of, interface, nodes_of, parse, run

from mmray.engine import Engine
from mmray.variants.quantize.half import rehearse_half, to_half

BOTH = {"half": to_half, "rehearsal": rehearse_half}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def types(model):
    """Element type of every tensor."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {i.name: i.data_type for i in graph.initializer}


CHAIN = """
chain (float[N,4] x) => (float[N,4] y)
{
  a = MatMul (x, w)
  b = Mul (a, c)
  d = Mul (b, c)
  e = Div (d, c)
  y = Div (e, c)
}
"""


def chain(factor):
    return parse(CHAIN, w=np.eye(4, dtype=np.float32), c=np.float32(factor))


@pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)
def test_a_bundle_gives_nearly_the_same(make, bundle, tmp_path):
    model = onnx.load(bundle.graph("fp32"))
    before = model.SerializeToString()
    half = make(model)
    assert model.SerializeToString() == before
    assert interface(half) == interface(model)
    onnx.save(half, tmp_path / "half.onnx")
    inputs, outputs = bundle.golden()
    scores = Engine(tmp_path / "half.onnx", provider="cpu")(inputs)["scores"]
    np.testing.assert_allclose(scores, outputs["scores"], atol=5e-3)
    late = after_pooling(half)
    kinds = {True: set(), False: set()}
    for name, array in constants_of(half).items():
        if array.size > 100:
            kinds[name in late].add(array.dtype)
    assert kinds == {True: {np.dtype(np.float32)}, False: {np.dtype(np.float16)}}  # the head, the encoders


def after_pooling(model):
    """Names of all that the nodes behind a sum over the rows of a record take and give."""
    behind, taken = set(), set()
    for node in model.graph.node:
        sums = any(a.name == "reduction" and a.s != b"none" for a in node.attribute)
        if sums or not behind.isdisjoint(node.input):
            behind.update(node.output)
            taken.update(node.input)
    return behind | taken


def test_bytes_are_halved():
    model = parse("g (float[N,256] x) => (float[N,256] y) { y = MatMul (x, w) }", w=random(256, 256))
    assert to_half(model).ByteSize() < 0.51 * model.ByteSize()


def test_casts_stand_only_where_types_meet(bundle):
    """No tensor is cast to the same type twice, and none is cast back."""
    half = to_half(onnx.load(bundle.graph("fp32")))
    casts = nodes_of(half, "Cast")
    wanted = [(node.input[0], node.attribute[0].i) for node in casts]
    assert len(wanted) == len(set(wanted))
    made = {node.output[0]: node for node in casts}
    kinds = types(half)
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    for node in casts:
        if node.input[0] in made:
            path = [kinds[made[node.input[0]].input[0]], kinds[node.input[0]], kinds[node.output[0]]]
            assert not set(path) <= floats


@pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)
def test_with_all_nodes_kept_nothing_changes(make, bundle):
    model = onnx.load(bundle.graph("fp32"))
    assert make(model, {node.name for node in model.graph.node}) == model


def test_kept_nodes_compute_in_float32():
    model = chain(3)
    half = to_half(model, keep={"b_node", "d_node"})
    kinds = types(half)
    for node in half.graph.node:
        taken = {kinds[name] for name in (*node.input, *node.output)}
        if node.op_type != "Cast":
            assert taken == {TensorProto.FLOAT if node.name in ("b_node", "d_node") else TensorProto.FLOAT16}
    assert len(nodes_of(half, "Cast")) == 4  # x, in front of b, behind d, y
    np.testing.assert_allclose(run(half, x=random(3, 4)), random(3, 4), rtol=2e-3)


def test_a_mask_of_minus_infinity_is_finite_and_a_guard_against_zero_is_not_zero():
    model = parse(
        """g (float[N,4] x, float[N,4] absent) => (float[N,4] y) {
             penalty = Mul (absent, lowest)
             seen = Add (x, penalty)
             scores = Softmax (seen)
             norm = ReduceL2 <keepdims = 1> (x, last)
             safe = Max (norm, tiny)
             unit = Div (x, safe)
             y = Add (scores, unit)
        }""",
        lowest=np.float32(np.finfo(np.float32).min),
        tiny=np.float32(1e-12),
        last=np.array([1]),
    )
    x = np.vstack([np.zeros((1, 4)), random(1, 4)]).astype(np.float32)
    absent = np.array([[0, 0, 1, 1]] * 2, np.float32)
    expected = run(model, x=x, absent=absent)
    for make in BOTH.values():
        np.testing.assert_allclose(run(make(model), x=x, absent=absent), expected, atol=2e-3)


@pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)
def test_an_infinite_constant_stays_infinite(make):
    model = parse("g (float[N] x) => (float[N] y) { y = Min (x, top) }", top=np.float32(np.inf))
    assert run(make(model), x=np.ones(2, np.float32)).tolist() == [1, 1]
    assert np.isinf([a for a in constants_of(make(model)).values() if a.dtype == np.float16]).all()


def test_the_rehearsal_overflows_as_float16_does():
    ones = np.ones((2, 4), np.float32)
    assert np.isinf(run(rehearse_half(chain(300)), x=ones)).all()
    spared = rehearse_half(chain(300), keep={"d_node", "e_node"})
    np.testing.assert_allclose(run(spared, x=ones), ones, rtol=2e-3)
    assert np.isfinite(run(rehearse_half(chain(200)), x=ones)).all()


def test_the_rehearsal_rounds_as_float16_does():
    x = random(5, 4)
    steps = (x.astype(np.float16) @ np.eye(4, dtype=np.float16)).astype(np.float16)
    c = np.float16(0.1)
    for operation in (np.multiply, np.multiply, np.divide, np.divide):
        steps = operation(steps, c, dtype=np.float16)
    np.testing.assert_array_equal(run(rehearse_half(chain(0.1)), x=x), steps.astype(np.float32))


def test_the_rehearsal_computes_in_float32():
    """Otherwise ONNX Runtime would compute it in float32 without rounding."""
    made = rehearse_half(chain(2))
    kinds = types(made)
    for node in made.graph.node:
        if node.op_type != "Cast":
            assert {kinds[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}


@pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)
def test_what_knows_no_float16_stays_in_float32(make):
    """Range has no such form; a Resize takes its scales in float32 whatever the picture is."""
    model = parse(
        """g (float[1,1,4,4] x, float n) => (float[1,1,8,8] y, float[M] z) {
             bright = Mul (x, two)
             large = Resize <mode = "nearest"> (bright, , scales)
             y = Add (large, two)
             numbers = Range (zero, n, one)
             z = Mul (numbers, two)
        }""",
        two=np.float32(2),
        zero=np.float32(0),
        one=np.float32(1),
        scales=np.array([1, 1, 2, 2], np.float32),
    )
    made = make(model)
    x, n = random(1, 1, 4, 4), np.array(3, np.float32)
    for found, expected in zip(run(made, x=x, n=n), run(model, x=x, n=n), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)
def test_sums_by_record_stay_exact(make):
    """float16 counts to 2048 only, and ONNX Runtime has no such kernel on a CPU."""
    model = parse(
        """g (float[N] x, int64[N,1] rows) => (float[2] y) {
             values = Mul (x, one)
             y = ScatterND <reduction = "add"> (blank, rows, values)
        }""",
        one=np.float32(1),
        blank=np.zeros(2, np.float32),
    )
    many = 3001
    assert run(make(model), x=np.ones(many, np.float32), rows=np.zeros((many, 1), np.int64)).tolist() == [
        many,
        0,
    ]


@pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)
def test_constants_of_nodes_and_shapes_count_too(make):
    model = parse(
        """g (float[N] x, int64[1] size, int32[N] ids) => (float[N] y, int64[1] shape) {
             blank = ConstantOfShape (size)
             full = ConstantOfShape <value = float[1] {-3e38}> (size)
             half = Constant <value_float = 0.5> ()
             wide = Cast <to = 1> (ids)
             a = Add (x, blank)
             b = Max (a, full)
             c = Mul (b, half)
             y = Add (c, wide)
             shape = Shape (c)
        }"""
    )
    given = {"x": random(4), "size": np.array([4]), "ids": np.arange(4, dtype=np.int32)}
    made = make(model)
    for found, expected in zip(run(made, **given), run(model, **given), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3)
    kinds = types(made)
    computed = {
        kinds[node.output[0]] for node in nodes_of(made, "Add", "Max", "Mul", "Constant", "ConstantOfShape")
    }
    assert computed == {TensorProto.FLOAT16 if make is to_half else TensorProto.FLOAT}


@pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)
def test_a_subgraph_gets_float32_from_around_it(make):
    model = parse(
        """g (float[N] x, bool flag) => (float[N] y) {
             a = Mul (x, two)
             b = If (flag) <
               then_branch = then () => (float[N] t) { t = Add (a, two) },
               else_branch = other () => (float[N] o) { o = Identity (a) }
             >
             y = Mul (b, two)
        }""",
        two=np.float32(2),
    )
    made = make(model)
    for flag in (True, False):
        x = random(3)
        expected = run(model, x=x, flag=np.array(flag))
        np.testing.assert_allclose(run(made, x=x, flag=np.array(flag)), expected, rtol=2e-3)


def test_an_input_in_float16_is_taken_as_it_is():
    """Log-mels travel as float16; casting them up and down again would be a waste."""
    model = parse(
        "g (float16[N] x) => (float[N] y) { wide = Cast <to = 1> (x)  y = Mul (wide, two) }",
        two=np.float32(2),
    )
    half = to_half(model)
    assert [node.op_type for node in half.graph.node] == ["Mul", "Cast"]
    x = random(3).astype(np.float16)
    np.testing.assert_array_equal(run(half, x=x), run(model, x=x))
    np.testing.assert_array_equal(run(rehearse_half(model), x=x), run(model, x=x))


def test_an_output_that_is_taken_further_is_made_once():
    model = parse(
        "g (float[N] x) => (float[N] y, float[N] z) { y = Mul (x, two)  z = Add (y, two) }", two=np.float32(2)
    )
    half = to_half(model)
    assert interface(half) == interface(model)
    assert len(nodes_of(half, "Mul")) == 1
    assert len(nodes_of(half, "Cast")) == 3
