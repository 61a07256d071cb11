"""Builds a graph from nodes and constants by name, and from whole models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, inliner, numpy_helper, version_converter

from mmray.errors import ModelError
from mmray.graphs import OPSET, clean
from mmray.importing.load import one_line

_NO_ADAPTER = re.compile(r"No Adapter \w+ Version \$?\d+ for (\w+)")
_MOST_INLINED = 20  # kinds of operators
_IR_VERSION = 10  # the version that belongs to the opset; ONNX Runtime refuses unknown versions


class GraphBuilder:
    """Collects nodes; `build` gives the model."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._domains = {"": OPSET}  # version of each operator set
        self._names: set[str] = set()

    def constant(self, value: npt.ArrayLike, kind: npt.DTypeLike, name: str = "constant") -> str:
        """Name of a constant."""
        unique = self._unique(name)
        self._constants.append(numpy_helper.from_array(np.asarray(value, kind), unique))
        return unique

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:  # noqa: ANN401  (onnx's own)
        """Add a node of one output; returns the output's name: `name` if that is free."""
        output = self._unique(name or op.lower())
        self._nodes.append(helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def include(self, model: onnx.ModelProto, prefix: str, inputs: Mapping[str, str]) -> dict[str, str]:
        """Add a model, all its names under a prefix.

        Args:
            model: at `OPSET`, see `to_opset`.
            prefix: unique to this model.
            inputs: for each of the model's inputs, which tensor feeds it.

        Returns:
            Name of each of the model's outputs in this graph.

        Raises:
            ModelError: it needs another version of an operator set than a model that was added before.
        """
        for operators in model.opset_import:
            version = self._domains.setdefault(operators.domain, operators.version)
            if version != operators.version:
                raise ModelError(
                    f"{prefix}: needs version {operators.version} of the operators {operators.domain!r}, "
                    f"another graph version {version}; export both with the same version"
                )
        own = onnx.GraphProto()
        own.CopyFrom(model.graph)
        _rename(own, f"{prefix}/")
        self._nodes += [
            helper.make_node("Identity", [source], [f"{prefix}/{name}"], name=f"{prefix}/{name}/input")
            for name, source in inputs.items()
        ]
        self._nodes += own.node
        self._constants += own.initializer
        return {output.name: f"{prefix}/{output.name}" for output in model.graph.output}

    def build(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The model, clean and checked."""
        graph = helper.make_graph(self._nodes, "fused", inputs, outputs, self._constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._domains.items()]
        return cleaned(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION), "fused graph")

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique)
        return unique


def _rename(graph: onnx.GraphProto, prefix: str) -> None:
    """Put the prefix before every name, in subgraphs too.

    `onnx.compose.add_prefix` (1.23) skips outer weights that a subgraph uses.
    """
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = prefix + value.name
    for i, node in enumerate(graph.node):
        node.name = prefix + (node.name or f"{node.op_type.lower()}_{i}")
        node.input[:] = [name and prefix + name for name in node.input]
        node.output[:] = [name and prefix + name for name in node.output]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(inner, prefix)


def cleaned(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The same model, cleaned for later passes and checked.

    Raises:
        ModelError: it is not valid.
    """
    try:
        clean(model)
    except Exception as e:  # the checker's and the shape inference's errors share no base
        raise ModelError(f"{where}: not a valid ONNX graph: {one_line(e)}") from e
    return model


def to_opset(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model at `OPSET`, without local functions and with each operator set named once.

    Raises:
        ModelError: an operator has no equal at that version.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    # Compose may leave duplicates, and "ai.onnx" is another name of "".
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, v) for domain, v in versions.items())
    if versions.get("") == OPSET:
        return model
    if "" not in versions:  # a model of only other operators, such as ai.onnx.ml
        model.opset_import.append(helper.make_opsetid("", OPSET))
        return model
    for _ in range(_MOST_INLINED):
        try:
            return version_converter.convert_version(model, OPSET)
        except Exception as e:  # the converter's C++ errors share no base
            new = _NO_ADAPTER.search(str(e))
            what = f"{new[1]} has no equal there" if new else one_line(e)
            before = model.ByteSize()
            if new:  # many operators are defined by older ones
                model = inliner.inline_selected_functions(model, [("", new[1])], inline_schema_functions=True)
            if model.ByteSize() == before:
                break
    raise ModelError(
        f"{where}: cannot be converted from opset {versions['']} to {OPSET}: {what}; export it at {OPSET} "
        f"(torch.onnx.export: opset_version={OPSET})"
    )
