"""Time and memory are those of the graph, not of whoever asks."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmray.errors import EngineError
from mmray.variants.measure import measure


def write_product(path, width):
    """One matrix product of `width` squared weights."""
    weights = numpy_helper.from_array(np.ones((width, width), np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["scores"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", width])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.long
def test_the_memory_is_the_graphs_own(tmp_path):
    """A process that starts another hands its own peak on in Linux's ru_maxrss."""
    ballast = np.ones(100 << 20, np.uint8)
    graphs = {
        "small": write_product(tmp_path / "s.onnx", 64),
        "large": write_product(tmp_path / "l.onnx", 2048),
    }
    batches = {"batch_1": {"x": np.ones((1, 64), np.float32)}}
    small = measure({"small": graphs["small"]}, batches, rounds=1)["small"]
    large = measure({"large": graphs["large"]}, {"batch_1": {"x": np.ones((1, 2048), np.float32)}}, rounds=1)[
        "large"
    ]
    assert 30e6 < small.peak_bytes < large.peak_bytes - 2048**2 * 4
    assert ballast.sum() == len(ballast)
    assert small.seconds.keys() == {"batch_1"}
    assert 0 < small.seconds["batch_1"] < large.seconds["batch_1"]


def test_a_graph_that_does_not_run_is_named(tmp_path):
    graph = write_product(tmp_path / "s.onnx", 64)
    with pytest.raises(EngineError, match=r"s\.onnx: does not run in its own process: .*dimensions"):
        measure({"small": graph}, {"batch_1": {"x": np.ones((1, 63), np.float32)}}, rounds=1)
