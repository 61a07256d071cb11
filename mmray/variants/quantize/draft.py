"""Rewrites a graph node by node, and helpers of its int8 forms: constants, weights, tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmray.graphs import clean, needed, taken_by
from mmray.variants.quantize.targets import attributes_of

_TABLE_VALUES = 1 << 16  # values of a table that is worth storing as int8
_HALF_VALUES = 1 << 12  # values of a constant that is worth storing as float16
_LEAST_SCALE = 1e-30  # of a channel whose weights are all zero


class Draft:
    """A copy of a model to which its nodes, or replacements, are added in order.

    The name of each new node and tensor begins with that of an existing tensor.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self.graph = self._model.graph
        self.originals = list(self.graph.node)
        self.opset = next(o.version for o in model.opset_import if not o.domain)
        self._constants = {i.name: i for i in self.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []

    def is_float(self, name: str) -> bool:
        """Whether a name is that of a float32 constant."""
        return name in self._constants and self._constants[name].data_type == TensorProto.FLOAT

    def array(self, name: str) -> npt.NDArray[Any]:
        """Value of a constant."""
        return numpy_helper.to_array(self._constants[name])

    def constant(self, name: str, value: npt.ArrayLike, kind: npt.DTypeLike) -> str:
        """Add a constant, unless there is one of that name; returns the name."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(value, kind), name)
            self.graph.initializer.append(self._constants[name])
        return name

    def integers(self, name: str, values: npt.NDArray[Any], scale: npt.NDArray[np.float32]) -> list[str]:
        """Add integers, their scales and zero points; returns the inputs of a DequantizeLinear."""
        return [
            self.constant(f"{name}/int", values, values.dtype),
            self.constant(f"{name}/scale", scale, np.float32),
            self.constant(f"{name}/zero", np.zeros(scale.shape), values.dtype),
        ]

    def add(self, node: onnx.NodeProto) -> None:
        """Add a node unchanged."""
        self._nodes.append(node)

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401  (onnx's own)
        """Add a node with the name of its one output; returns the name."""
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def finish(self) -> onnx.ModelProto:
        """The model, checked, without unused nodes.

        Large float32 constants are stored as float16 and cast, which ONNX Runtime does once when it loads the
        graph: half the bytes at the same speed.
        """
        outputs = {output.name for output in self.graph.output}
        kept = needed(self._nodes, outputs)
        used = outputs.union(*map(taken_by, kept))
        casts = []
        for constant in self.graph.initializer:
            if constant.name in used and self._fits_half(constant.name):
                name, half = constant.name, f"{constant.name}/half"
                constant.CopyFrom(numpy_helper.from_array(self.array(name).astype(np.float16), half))
                casts.append(helper.make_node("Cast", [half], [name], name=name, to=TensorProto.FLOAT))
        del self.graph.node[:]
        self.graph.node.extend([*casts, *kept])
        clean(self._model)
        return self._model

    def _fits_half(self, name: str) -> bool:
        if not self.is_float(name) or np.prod(self._constants[name].dims) < _HALF_VALUES:
            return False
        return bool(np.abs(self.array(name)).max() <= np.finfo(np.float16).max)


def by_channel(
    weight: npt.NDArray[np.float32], axis: int, least: npt.ArrayLike = 0.0
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """A weight as integers of ±127, and the scale of each channel along an axis, at least `least`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    top = np.abs(weight).max(axis=others) / 127
    scale = np.maximum(np.maximum(top, least), _LEAST_SCALE).astype(np.float32)
    return np.rint(weight / np.expand_dims(scale, others)).clip(-127, 127).astype(np.int8), scale


def table_of(draft: Draft, node: onnx.NodeProto) -> str | None:
    """Name of the large float32 table that a node looks rows up in, if it is such a Gather."""
    if node.op_type != "Gather" or attributes_of(node).get("axis") or not draft.is_float(node.input[0]):
        return None
    table = draft.array(node.input[0])
    return node.input[0] if table.ndim == 2 and table.size >= _TABLE_VALUES else None


def add_lookup(draft: Draft, node: onnx.NodeProto, *, before: bool = False) -> bool:
    """Add a Gather from a large float32 table as one from an int8 table, if it is such a Gather.

    Only the looked-up rows are dequantized; with `before`, the whole table, for engines that support
        integers only as constants.
    """
    if not (table := table_of(draft, node)):
        return False
    integers, *scale = draft.integers(f"{table}/table", *by_channel(draft.array(table), axis=1))
    found = node.output[0]
    if before:
        whole = draft.node("DequantizeLinear", [integers, *scale], f"{found}/table", axis=1)
        draft.node("Gather", [whole, node.input[1]], found)
    else:
        rows = draft.node("Gather", [integers, node.input[1]], f"{found}/rows")
        draft.node("DequantizeLinear", [rows, *scale], found, axis=-1)
    return True
