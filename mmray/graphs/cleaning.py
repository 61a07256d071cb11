"""A graph made small, private and safe for later passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import onnx

#: Inputs that must not be shared: ONNX Runtime's exact int8 crashes on a zero-point of two nodes, and its
#: quantizer transposes a Gemm's weight in place, once for each.
_OWN = {"DequantizeLinear": 2, "Gemm": 1}


def clean(proto: onnx.ModelProto) -> None:
    """Make a graph small, private and safe for later passes, in place; then check it.

    Raises:
        onnx.checker.ValidationError: the graph is not valid.
    """
    graph = proto.graph
    del graph.value_info[:]  # inferred shapes, which quantization would contradict
    _drop_unused(graph)
    _split_shared(graph)
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]  # the exporter's stack traces, with paths of the building machine
    onnx.checker.check_model(proto, full_check=True)


def needed(
    nodes: Sequence[onnx.NodeProto], wanted: Collection[str], given: Collection[str] = ()
) -> list[onnx.NodeProto]:
    """The nodes that compute the wanted tensors from given ones, in their order."""
    waiting = set(wanted)
    found = []
    for node in reversed(nodes):
        if waiting.intersection(node.output).difference(given):
            found.append(node)
            waiting |= taken_by(node)
    return found[::-1]


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = _used(graph)
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _used(graph: onnx.GraphProto) -> set[str]:
    """Names of the inputs of all nodes, those in subgraphs included, and of the graph's outputs."""
    return {output.name for output in graph.output}.union(*(taken_by(node) for node in graph.node))


def taken_by(node: onnx.NodeProto) -> set[str]:
    """Names of a node's inputs, those of its subgraphs included."""
    inner = [
        graph
        for attribute in node.attribute
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]
    return set(node.input).union(*(_used(graph) for graph in inner))


def _split_shared(graph: onnx.GraphProto) -> None:
    """Give each node its own copy of an input of `_OWN` that several nodes share."""
    initializers = {i.name: i for i in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    for number, node in enumerate(graph.node):
        place = _OWN.get(node.op_type, len(node.input))
        if place < len(node.input) and node.input[place] in initializers and uses[node.input[place]] > 1:
            copy = onnx.TensorProto()
            copy.CopyFrom(initializers[node.input[place]])
            copy.name = f"{node.input[place]}_{number}"
            uses[node.input[place]] -= 1
            node.input[place] = copy.name
            graph.initializer.append(copy)
