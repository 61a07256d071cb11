"""Every file that an ONNX file takes weights from is found, wherever in the graph it is named."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.bundles import small_bundle

from mmray.bundle.weights import Malformed, external_files


def outside(location, name="weights"):
    """A tensor that lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("length", "8"), ("location", location), ("offset", "0")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def saved(path, *, initializers=(), nodes=(), functions=(), sparse=()):
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers), sparse_initializer=list(sparse))
    model = helper.make_model(graph, functions=list(functions))
    model.metadata_props.add(key="location", value="metadata is no tensor")
    path.write_bytes(model.SerializeToString())
    return path


def constant(location):
    return helper.make_node("Constant", [], ["c"], value=outside(location))


def test_a_graph_that_holds_its_weights_names_no_file(tmp_path):
    assert external_files(small_bundle().graph("fp32")) == set()
    assert external_files(saved(tmp_path / "a.onnx")) == set()


def test_files_are_found_in_initializers_attributes_subgraphs_functions_and_sparse_tensors(tmp_path):
    inner = helper.make_graph([constant("in a branch")], "then", [], [], [outside("of a branch")])
    function = helper.make_function(
        "d", "f", [], ["c"], [constant("in a function")], [helper.make_opsetid("", 20)]
    )
    sparse = onnx.SparseTensorProto(values=outside("values"), indices=outside("indices"), dims=[2])
    path = saved(
        tmp_path / "a.onnx",
        initializers=[outside("../a.bin"), outside("b.bin"), outside("ünï.bin")],
        nodes=[constant("in a node"), helper.make_node("If", ["x"], ["y"], then_branch=inner)],
        functions=[function],
        sparse=[sparse],
    )
    assert external_files(path) == {
        "../a.bin",
        "b.bin",
        "ünï.bin",
        "in a node",
        "in a branch",
        "of a branch",
        "in a function",
        "values",
        "indices",
    }


@pytest.mark.parametrize(
    "junk", [b"", b"not a graph", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 12, b"\x0b", b"\x0d\x00"]
)
def test_what_is_no_model_is_said_to_be_none(tmp_path, junk):
    (tmp_path / "a.onnx").write_bytes(junk)
    with pytest.raises(Malformed):
        external_files(tmp_path / "a.onnx")


def test_any_cut_of_a_model_is_read_or_refused_and_never_hangs(tmp_path):
    whole = saved(tmp_path / "a.onnx", initializers=[outside("a.bin")]).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)])
        data[random.integers(len(data))] = random.integers(256)
        (tmp_path / "b.onnx").write_bytes(data)
        try:
            assert isinstance(external_files(tmp_path / "b.onnx"), set)
        except Malformed:
            continue
