"""Bundles whose variants differ in speed, and in nothing else."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mmray.bundle import NewVariant, Variant, extend_bundle
from mmray.engine import Engine
from support.bundles import small_bundle


def slowed(graph, path):
    """The same graph with a product of large matrices in its way, which changes nothing."""
    model = onnx.load(graph)
    nodes = model.graph.node
    for node in nodes:
        node.output[:] = ["scores_fast" if name == "scores" else name for name in node.output]
    big = np.full((1000, 1000), 1e-4, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(big, "big"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "slow_zero"))
    nodes.extend(
        [
            helper.make_node("Cast", ["present"], ["count_each"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["count_each"], ["count"], keepdims=0),
            helper.make_node("Add", ["big", "count"], ["big_0"]),
            *(helper.make_node("MatMul", [f"big_{i}", "big"], [f"big_{i + 1}"]) for i in range(4)),
            helper.make_node("ReduceMean", ["big_4"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "slow_zero"], ["nothing"]),
            helper.make_node("Add", ["scores_fast", "nothing"], ["scores"]),
        ]
    )
    onnx.save(model, path)
    return path


def extended(folder, parent, name, *, graph=None, passed=True, **entry):
    """A bundle with the plain graph, or another, as a variant."""
    graph = graph or small_bundle().graph("fp32")
    variant = Variant(file="variants/quick.onnx", parent="fp32", **entry)
    outputs = Engine(graph, provider="cpu")(parent.golden()[0])
    card = {"variants": {"fp32": {}, "quick": {"passed": passed, "reason": "for a test"}}}
    return extend_bundle(
        folder / name, parent, {"quick": NewVariant(variant, graph, outputs)}, scorecard=card, origin={}
    )
