"""A graph that is rewritten for OpenVINO computes what it did, and is made once."""

import sys

import numpy as np
import onnx
import pytest
from onnx import parser
from support.bundles import small_bundle

from mmray.engine import Engine, available_providers, fitting_graph
from mmray.errors import EngineError

# Sums and counts of a record's rows as torch exports them, and the Clip after which OpenVINO 2025.4 dies.
POOLED = """
<ir_version: 10, opset_import: ["": 20]>
pooled (float[N,3] x, int64[N] row, bool[B,2] present) => (float[B,3] sums, float[B] counts)
<int64[1] last = {1}, int64[1] width = {3}, float least = {1.0}>
{
  records = Shape <start = 0, end = 1> (present)
  wide = Concat <axis = 0> (records, width)
  blank = ConstantOfShape (wide)
  none = ConstantOfShape (records)
  index = Unsqueeze (row, last)
  sums = ScatterND <reduction = "add"> (blank, index, x)
  rows = Shape (row)
  each = Expand (least, rows)
  counted = ScatterND <reduction = "add"> (none, index, each)
  counts = Clip (counted, least)
}
"""
PROVIDERS = [name for name in ("cpu", "openvino") if available_providers()[name]]


@pytest.fixture
def graph(tmp_path):
    onnx.save(parser.parse_model(POOLED), tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rows_are_added_as_before(graph, tmp_path, provider):
    fitting = fitting_graph([graph], tmp_path / "cache")
    found = Engine(fitting, provider=provider)
    random = np.random.default_rng(0)
    for row in ([2, 0, 2, 2], [1], []):
        x = random.normal(size=(len(row), 3)).astype(np.float32)
        feeds = {"x": x, "row": np.array(row, np.int64), "present": np.ones((4, 2), bool)}
        outputs = found(feeds)
        sums = np.stack([x[np.array(row) == record].sum(axis=0) for record in range(4)])
        assert np.abs(outputs["sums"] - sums).max() < 1e-6
        assert outputs["counts"].tolist() == [max(1, row.count(record)) for record in range(4)]


def test_no_reduction_by_scatter_nd_is_left(graph, tmp_path):
    nodes = onnx.load(fitting_graph([graph], tmp_path / "cache")).graph.node
    assert "ScatterND" not in {node.op_type for node in nodes}


def test_it_is_made_once(graph, tmp_path):
    first = fitting_graph([graph], tmp_path / "cache")
    made = first.stat()
    assert fitting_graph([graph], tmp_path / "cache") == first
    assert first.stat() == made


def test_a_graph_that_openvino_takes_is_left_as_it_is(tmp_path):
    graph = small_bundle().graph("fp32")
    assert fitting_graph([graph], tmp_path / "cache") == graph
    assert not (tmp_path / "cache").exists()


def test_without_the_package_that_rewrites_it_the_remedy_is_named(graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineError, match="pip install onnx"):
        fitting_graph([graph], tmp_path / "cache")
