"""Bundles whose variants differ in speed, and in nothing else."""

import itertools

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mmray.bundle import NewVariant, Variant, extend_bundle
from mmray.engine import Engine
from support.bundles import SPEC, small_bundle


def slowed(graph, path):
    """The same graph with a product of large matrices in its way, which changes nothing."""
    model = onnx.load(graph)
    nodes = model.graph.node
    for node in nodes:
        node.output[:] = ["scores_before" if name == "scores" else name for name in node.output]
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
            helper.make_node("Add", ["scores_before", "nothing"], ["scores"]),
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


def convolved(graph, path):
    """The same graph with four convolutions of the pixels in its way, which change nothing.

    In int8 they take a third of the time on a CPU with VNNI; without VNNI less or more than in float32.
    """
    model = onnx.load(graph)
    nodes = model.graph.node
    for node in nodes:
        node.output[:] = ["scores_fast" if name == "scores" else name for name in node.output]
    random = np.random.default_rng(0)
    channels = (3, 64, 64, 64, 64)
    nodes.extend(
        [
            helper.make_node("Transpose", ["pixels"], ["deep_turned"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["deep_turned"], ["deep_float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Div", ["deep_float", "deep_white"], ["deep_0"]),
        ]
    )
    constants = {"deep_white": np.float32(255), "deep_none": np.float32(0)}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        weight = random.normal(size=(outputs, inputs, 3, 3)) / np.sqrt(9 * inputs)
        constants[f"deep_weight_{i}"] = weight.astype(np.float32)
        nodes.extend(
            [
                helper.make_node(
                    "Conv", [f"deep_{i}", f"deep_weight_{i}"], [f"deep_conv_{i}"], pads=[1, 1, 1, 1]
                ),
                helper.make_node("Relu", [f"deep_conv_{i}"], [f"deep_{i + 1}"]),
            ]
        )
    nodes.extend(
        [
            helper.make_node("ReduceSum", [f"deep_{len(channels) - 1}"], ["deep_sum"], keepdims=0),
            helper.make_node("Mul", ["deep_sum", "deep_none"], ["deep_nothing"]),
            helper.make_node("Add", ["scores_fast", "deep_nothing"], ["scores"]),
        ]
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    size = SPEC.image.height
    for value in model.graph.input:
        if value.name == "pixels":
            for axis in (1, 2):
                value.type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(model, path)
    return path
