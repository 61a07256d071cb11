"""A float32 graph in float16: half the bytes, and on accelerators twice the speed.

The converters of ONNX Runtime make invalid graphs here. This one keeps at most two forms of a tensor, one of
each type, and adds a cast only if a node needs the form that does not exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from mmray.graphs import clean
from mmray.variants.quantize.targets import name_of

_LEAST = 2.0**-24  # smallest magnitude of a float16 that is not zero

_TYPE_IS_STATED = {"Cast", "Constant", "ConstantOfShape"}  # output type is given by an attribute
_TAKES_ANY = {"Cast", "Shape", "Size"}  # and gives the same, or more exact values, for float32


def to_half(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with weights and activations in float16.

    A constant beyond float16's range becomes the largest number, not infinity, because infinity times zero in
    a mask is NaN. One that is too small becomes the smallest, not zero, because it may be a divisor.

    Args:
        model: in float32; it is not altered.
        keep: names of nodes that stay in float32. So do nodes without a float16 form, the pooling of a
            record's rows, and the head behind it.

    Returns:
        A checked model. Its inputs and outputs keep their types.
    """
    return _Draft(model).rewritten(keep)


def rehearse_half(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A float32 graph that gives on a CPU what `to_half` gives on an accelerator.

    ONNX Runtime's CPU provider runs a float16 graph in float32 throughout, so it neither rounds nor overflows
    there and cannot show what an accelerator does. Here every result is rounded to float16, and
    sums are exact up to that, as they are in the kernels of accelerators.

    Args:
        model: in float32; it is not altered.
        keep: as for `to_half`.
    """
    return _Rehearsal(model).rewritten(keep)


@dataclass(frozen=True)
class _Value:
    """An input or output of a node."""

    name: str
    kind: int  # its type; TensorProto.UNDEFINED if shape inference does not know it
    parameter: str  # values of the same one have the same type
    choices: frozenset[str]  # allowed types

    @property
    def is_free(self) -> bool:
        """Whether it is float32 and could have another float type."""
        return self.kind == TensorProto.FLOAT and self.choices != {"tensor(float)"}


def _has_half(node: onnx.NodeProto, inputs: Sequence[_Value], outputs: Sequence[_Value]) -> bool:
    """Whether a node can run in float16."""
    if node.domain or list(_subgraphs(node)):
        return False
    taken = {value.parameter for value in inputs if value.is_free}
    given = {value.parameter for value in outputs if value.is_free}
    if not given <= taken and node.op_type not in _TYPE_IS_STATED:
        return False
    values = (*inputs, *outputs)
    return all(
        value.kind != TensorProto.UNDEFINED and ("tensor(float16)" in value.choices or not value.is_free)
        for value in values
    )


def _adds_up(node: onnx.NodeProto) -> bool:
    """Whether a node is a Scatter that adds: ONNX Runtime (1.31) has no float16 kernel for it on CPUs."""
    return any(a.name == "reduction" and a.s != b"none" for a in node.attribute)


class _Draft:
    """A copy of a model to which its nodes are added in order, each in one of the two types.

    The float32 form of a tensor keeps its name.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        self._version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._types = _types(model)
        self._constants = {i.name: i for i in self._graph.initializer}
        self._originals = list(self._graph.node)
        self._nodes: list[onnx.NodeProto] = []
        self._halves: dict[str, str] = {}  # names of float16 forms
        # Tensors that exist under their own names, in their own types.
        self._wholes = {*self._constants, *(i.name for i in self._graph.input)}

    def _values(self, node: onnx.NodeProto) -> tuple[list[_Value], list[_Value]]:
        """A node's existing inputs and outputs; nothing for an operator that is not ONNX's."""
        if node.domain not in ("", "ai.onnx"):
            return [], []
        schema = onnx.defs.get_schema(node.op_type, self._version)
        choices = {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints}

        def of(names: Sequence[str], formals: Sequence[onnx.defs.OpSchema.FormalParameter]) -> list[_Value]:
            found = []
            for i, name in enumerate(names):
                parameter = formals[min(i, len(formals) - 1)].type_str  # the last may be variadic
                kind = self._types.get(name, TensorProto.UNDEFINED)
                found.append(_Value(name, kind, parameter, choices.get(parameter, frozenset({parameter}))))
            return [value for value in found if value.name]

        return of(node.input, schema.inputs), of(node.output, schema.outputs)

    def rewritten(self, keep: Collection[str]) -> onnx.ModelProto:
        """The model, checked."""
        pooled: set[str] = set()  # results of sums over rows of a record: pooling and head stay in float32
        for node in self._originals:
            inputs, outputs = self._values(node)
            if _adds_up(node) or not pooled.isdisjoint(node.input):
                pooled.update(node.output)
                self._add_whole(node)
            elif name_of(node) in keep or not _has_half(node, inputs, outputs):
                self._add_whole(node)
            else:
                node.input[:] = self._forms(node, inputs)
                self._add_half(node, [value.name for value in outputs if value.is_free])
        for output in self._graph.output:
            self._whole(output.name)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        clean(self._model)
        return self._model

    def _forms(self, node: onnx.NodeProto, inputs: Sequence[_Value]) -> list[str]:
        """Names of the inputs of a node in float16."""
        forms = {}
        for value in inputs:
            whole_will_do = node.op_type in _TAKES_ANY and value.name in self._wholes
            take = self._whole if whole_will_do or not value.is_free else self._half
            forms[value.name] = take(value.name)
        return [forms.get(name, name) for name in node.input]

    def _add_half(self, node: onnx.NodeProto, halves: Collection[str]) -> None:
        """Add a node some of whose outputs become float16."""
        if self._is_cast_back(node):
            self._halves[node.output[0]] = node.input[0]
            return
        self._halves |= {name: f"{name}/half" for name in halves}
        node.output[:] = [self._halves[name] if name in halves else name for name in node.output]
        if halves:
            _state_type(node, TensorProto.FLOAT16)
        self._nodes.append(node)

    def _add_whole(self, node: onnx.NodeProto) -> None:
        """Add a node in float32."""
        for name in (*node.input, *(name for inner in _subgraphs(node) for name in _taken(inner))):
            self._whole(name)
        self._wholes.update(node.output)
        self._nodes.append(node)

    def _is_cast_back(self, node: onnx.NodeProto) -> bool:
        """Whether it casts a float16 to float32; then no other node is needed."""
        kinds = [self._types.get(name) for name in (*node.input, *node.output)]
        return node.op_type == "Cast" and kinds == [TensorProto.FLOAT16, TensorProto.FLOAT]

    def _whole(self, name: str) -> str:
        """Make sure that a tensor has a form of its own type; returns its name."""
        if name in self._halves and name not in self._wholes:
            self._cast(self._halves[name], name, TensorProto.FLOAT)
            self._wholes.add(name)
        return name

    def _half(self, name: str) -> str:
        """Make sure that a float32 tensor has a float16 form; returns the name of that."""
        if name not in self._halves:
            half = self._halves[name] = f"{name}/half"
            if name in self._constants:
                self._graph.initializer.append(_as_half(self._constants[name], half))
            else:
                self._cast(name, half, TensorProto.FLOAT16)
        return self._halves[name]

    def _cast(self, source: str, target: str, kind: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=kind))


class _Rehearsal(_Draft):
    """A draft whose float16 forms are float32 tensors, rounded to values of float16."""

    def _add_half(self, node: onnx.NodeProto, halves: Collection[str]) -> None:
        node.output[:] = [f"{name}/exact" if name in halves else name for name in node.output]
        if halves:
            _state_type(node, TensorProto.FLOAT)
        self._nodes.append(node)
        for name in halves:
            self._cast(f"{name}/exact", f"{name}/half", TensorProto.FLOAT16)
            self._cast(f"{name}/half", name, TensorProto.FLOAT)
            self._halves[name] = name
        self._wholes.update(halves)

    def _half(self, name: str) -> str:
        if name not in self._halves:
            half = super()._half(name)
            self._halves[name] = f"{name}/rounded"
            self._cast(half, self._halves[name], TensorProto.FLOAT)
        return self._halves[name]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, if known."""
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {i.name: i.data_type for i in graph.initializer}


def _state_type(node: onnx.NodeProto, kind: int) -> None:
    """Set the attribute for the output type to this type, with values of float16."""
    if node.op_type == "Cast":
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("to", kind))
    if node.op_type in ("Constant", "ConstantOfShape"):
        stated = [helper.get_attribute_value(a) for a in node.attribute] or [np.zeros(1, np.float32)]
        value = numpy_helper.to_array(stated[0]) if isinstance(stated[0], TensorProto) else stated[0]
        half = numpy_helper.to_array(_as_half(numpy_helper.from_array(np.asarray(value, np.float32)), ""))
        tensor = numpy_helper.from_array(half.astype(helper.tensor_dtype_to_np_dtype(kind)))
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", tensor))


def _as_half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """A float32 tensor as float16; finite values stay finite, nonzero values nonzero."""
    values = numpy_helper.to_array(tensor)
    top = np.finfo(np.float16).max
    near = np.where(np.isfinite(values), values.clip(-top, top), values)
    lifted = np.where((near != 0) & (np.abs(near) < _LEAST), np.copysign(_LEAST, near), near)
    return numpy_helper.from_array(lifted.astype(np.float16), name)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs


def _taken(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the inputs of a subgraph's nodes, its own tensors and outer ones."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in _subgraphs(node):
            yield from _taken(inner)
