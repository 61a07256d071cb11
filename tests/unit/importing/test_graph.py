"""Models beside each other in one graph: whatever their versions, names and subgraphs."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from mmray.errors import ModelError
from mmray.importing.graph import GraphBuilder, to_opset

DOUBLE_IF_LONG = """
<ir_version: 8, opset_import: ["" : {version}, "com.microsoft" : 1]>
g (float[N, 3] x) => (float[N, 3] y) {{
    big = com.microsoft.FusedMatMul <transB = 1> (x, weight)
    rows = Shape (x)
    zero = Constant <value = int64 {{0}}> ()
    count = Gather (rows, zero)
    two = Constant <value = int64 {{2}}> ()
    is_long = Greater (count, two)
    y = If (is_long) <
        then_branch = a () => (float[N, 3] p) {{ p = Add (big, big) }},
        else_branch = b () => (float[N, 3] q) {{ q = Mul (big, factor) }}
    >
}}
"""


def model(version=17, factor=1.0):
    """Twice the rows where there are more than two, else `factor` times; with names that others have too."""
    made = parser.parse_model(DOUBLE_IF_LONG.format(version=version))
    for name, value in (("weight", np.eye(3)), ("factor", np.full(3, factor))):
        made.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return made


def run(graph, output, x):
    graph.node("Identity", output, name="out")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "out")]
    built = graph.build(values[:1], values[1:])
    session = ort.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    return built, session.run(None, {"x": x})[0]


@pytest.mark.parametrize("version", [13, 17, 20, 21, 23])
def test_models_of_any_opset_come_together_at_one(version):
    """Operators of other domains and weights that only a subgraph uses stay what they are."""
    graph = GraphBuilder()
    first = graph.include(to_opset(model(version), "first"), "first", {"x": "x"})["y"]
    second = graph.include(to_opset(model(17, factor=5.0), "second"), "second", {"x": first})["y"]
    built, found = run(graph, second, np.ones((2, 3), np.float32))
    assert (found == 5).all()
    assert [(o.domain, o.version) for o in built.opset_import] == [("", 20), ("com.microsoft", 1)]


def test_doubled_operator_sets_are_named_once():
    """`onnx.compose` leaves doubles, and quantization then fails."""
    doubled = model(20)
    doubled.opset_import.append(helper.make_opsetid("", 20))
    assert [o.domain for o in to_opset(doubled, "it").opset_import] == ["", "com.microsoft"]


def test_two_versions_of_one_operator_set_are_refused():
    other = model(20)
    next(o for o in other.opset_import if o.domain == "com.microsoft").version = 2
    graph = GraphBuilder()
    graph.include(model(20), "first", {"x": "x"})
    with pytest.raises(ModelError, match=r"second: needs version 2 of the operators 'com.microsoft'"):
        graph.include(other, "second", {"x": "x"})


def test_a_graph_that_is_not_valid_is_refused():
    graph = GraphBuilder()
    with pytest.raises(ModelError, match="fused graph: not a valid ONNX graph"):
        run(graph, graph.node("Add", "x", "nowhere"), np.ones((1, 3), np.float32))


def test_local_functions_are_written_out():
    made = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 20, "mine" : 1]>
    g (float[N, 3] x) => (float[N, 3] y) { y = mine.twice (x) }
    <opset_import: ["" : 20], domain: "mine">
    twice (a) => (b) { b = Add (a, a) }
    """)
    inlined = to_opset(made, "it")
    assert not inlined.functions
    graph = GraphBuilder()
    _, found = run(graph, graph.include(inlined, "it", {"x": "x"})["y"], np.ones((2, 3), np.float32))
    assert (found == 2).all()
