"""The nodes of a graph that can be quantized: those with constant weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper


@dataclass(frozen=True)
class Site:
    """A node with a constant weight, which int8 can quantize."""

    node: onnx.NodeProto
    source: str  # its input activation
    result: str  # its output, after the Relu or Clip that int8 kernels fuse with it


def sites(graph: onnx.GraphProto) -> Iterator[Site]:
    """Each Conv, MatMul and Gemm whose weight is a float32 constant and whose input is not, in order.

    Products of two activations, as in attention, are not included; nor is a Gemm that is not a linear layer.
    """
    constants = {i.name: i for i in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    users |= {output.name: [] for output in graph.output}
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[0] in constants:
            continue
        weight = constants.get(node.input[1])
        if weight is None or weight.data_type != TensorProto.FLOAT or not _is_simple(node, len(weight.dims)):
            continue
        result = node.output[0]
        following = users.get(result, [])
        if len(following) == 1 and following[0].op_type in ("Relu", "Clip"):
            result = following[0].output[0]
        yield Site(node, node.input[0], result)


def name_of(node: onnx.NodeProto) -> str:
    """A node's name or, if it has none, that of its first output."""
    return node.name or node.output[0]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's explicit attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _is_simple(node: onnx.NodeProto, dimensions: int) -> bool:
    """Whether a MatMul has one matrix for all its input, and a Gemm only adds a bias."""
    stated = attributes_of(node)
    plain = stated.get("alpha", 1.0) == stated.get("beta", 1.0) == 1.0 and not stated.get("transA")
    return {"Conv": True, "MatMul": dimensions == 2, "Gemm": plain}[node.op_type]
