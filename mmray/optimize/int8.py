"""A float32 graph in int8: activations by ranges from calibration, or each of their rows by its own range.

Weights and tables of embeddings have a symmetric scale for each output channel (Krishnamoorthi, Quantizing
deep convolutional networks for efficient inference, 2018). The graph is rewritten here because
onnxruntime.quantization dequantizes a whole table for each batch, renames nodes, and where it is dynamic
takes one scale for a whole batch, so that a record's scores depend on its neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from mmray.optimize.calibrate import Ranges
from mmray.optimize.draft import Draft, add_lookup, by_channel
from mmray.optimize.sites import attributes_of, name_of, sites

Flavour = Literal["cpu", "tensorrt"]

_LEAST_STEP = 1e-12  # of an activation that is always zero
_BIAS_TOP = 2.0**30  # of an int32 bias, which leaves room for the products


def to_static_int8(
    model: onnx.ModelProto, ranges: Ranges, flavour: Flavour = "cpu", exclude: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with its convolutions and matrix products between QuantizeLinear and DequantizeLinear.

    Products of two activations stay in float, and so does what takes an activation that `ranges` lacks.

    Args:
        model: in float32; it is not altered.
        ranges: from `collect_ranges` of the same model.
        flavour: "cpu" has activations as uint8, with a zero point, and a convolution's bias and result as
            integers, as the kernels of ONNX Runtime want them; "tensorrt" has activations as int8, symmetric,
            and biases and results in float.
        exclude: names of nodes that stay in float.

    Returns:
        A checked model of the same inputs and outputs.
    """
    draft = Draft(model)
    chosen = {
        site.node.output[0]: site
        for site in sites(draft.graph)
        if name_of(site.node) not in exclude and site.source in ranges
    }
    activations = _Activations(draft, ranges, flavour)
    # Integer convolutions give integers; whoever takes their result takes those.
    results = {
        site.result
        for site in chosen.values()
        if flavour == "cpu" and site.node.op_type == "Conv" and site.result in ranges
    }
    for node in draft.originals:
        site = chosen.get(node.output[0])
        for i, name in enumerate(node.input):
            if name in results or (site and i == 0):
                node.input[i] = activations.through_int8(name)
        if site:
            _add_weighted(draft, node, activations.step(site.source), whole_bias=flavour == "cpu")
        elif name_of(node) in exclude or not add_lookup(draft, node, before=flavour == "tensorrt"):
            draft.add(node)
    return draft.finish()


def to_dynamic_int8(model: onnx.ModelProto, exclude: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with its matrix products in integers, each row of an activation by its own largest magnitude.

    It needs no calibration. One scale a row (a token), as in ZeroQuant (Yao et al., 2022), is more exact than
    DynamicQuantizeLinear's one for the tensor, and a record's scores do not depend on its batch. Convolutions
    stay in float: their integer kernels know no scale for each channel.

    Args:
        model: in float32; it is not altered.
        exclude: names of nodes that stay in float.

    Returns:
        A checked model of the same inputs and outputs.
    """
    draft = Draft(model)
    chosen = {
        site.node.output[0]
        for site in sites(draft.graph)
        if name_of(site.node) not in exclude and site.node.op_type != "Conv"
    }
    rows = _Rows(draft)
    for node in draft.originals:
        if node.output[0] in chosen:
            rows.multiply(node)
        elif name_of(node) in exclude or not add_lookup(draft, node):
            draft.add(node)
    return draft.finish()


class _Activations:
    """QuantizeLinear and DequantizeLinear of activations, by their ranges."""

    def __init__(self, draft: Draft, ranges: Ranges, flavour: Flavour) -> None:
        self._draft, self._ranges, self._flavour = draft, ranges, flavour
        self._users: Counter[str] = Counter()

    def step(self, name: str) -> float:
        """What one step of an activation's integers stands for."""
        low, high = self._ranges[name]
        return max((high - low) / 255 if self._flavour == "cpu" else max(-low, high) / 127, _LEAST_STEP)

    def through_int8(self, name: str) -> str:
        """Name of an activation as it is after rounding, another one for each call."""
        step = self.step(name)
        zero = round(-self._ranges[name][0] / step) if self._flavour == "cpu" else 0
        scale = [
            self._draft.constant(f"{name}/scale", step, np.float32),
            self._draft.constant(f"{name}/zero", zero, np.uint8 if self._flavour == "cpu" else np.int8),
        ]
        if not self._users[name]:
            self._draft.node("QuantizeLinear", [name, *scale], f"{name}/int")
        self._users[name] += 1
        rounded = f"{name}/rounded_{self._users[name]}"
        return self._draft.node("DequantizeLinear", [f"{name}/int", *scale], rounded)


def _add_weighted(draft: Draft, node: onnx.NodeProto, step: float, *, whole_bias: bool) -> None:
    """Add a Conv, MatMul or Gemm with an int8 weight; `step` is that of its activations.

    Its bias becomes int32 in units of step * weight's scale: here, or else in ONNX Runtime (1.31), which lets
    it overflow. So where that unit is too small for the bias, the weight's scale is raised.
    """
    weight, name = draft.array(node.input[1]), node.output[0]
    axis = 0 if node.op_type == "Conv" or attributes_of(node).get("transB") else 1
    least: npt.ArrayLike = 0.0
    bias = draft.array(node.input[2]) if len(node.input) > 2 and draft.is_float(node.input[2]) else None
    if bias is not None and bias.shape == (weight.shape[axis],):
        least = np.abs(bias) / (step * _BIAS_TOP)
    integers, scale = by_channel(weight, axis, least)
    if whole_bias and bias is not None and bias.shape == scale.shape:
        unit = np.float32(step) * scale
        whole = draft.integers(f"{name}/bias", np.rint(bias / unit).astype(np.int32), unit)
        node.input[2] = draft.node("DequantizeLinear", whole, f"{name}/bias", axis=0)
    small = draft.integers(f"{name}/weight", integers, scale)
    node.input[1] = draft.node("DequantizeLinear", small, f"{name}/weight", axis=axis)
    draft.add(node)


class _Rows:
    """Matrix products of activations whose rows have each a scale of its own."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._known: set[str] = set()

    def multiply(self, node: onnx.NodeProto) -> None:
        """Add a MatMul or Gemm as a product of uint8 activations, whose zero is 128, and int8 weights."""
        draft, name = self._draft, node.output[0]
        values, step = self._in_integers(node.input[0])
        matrix = draft.array(node.input[1])
        weight, scale = by_channel(matrix.T if attributes_of(node).get("transB") else matrix, axis=1)
        inputs = [
            values,
            draft.constant(f"{name}/weight/int", weight, np.int8),
            draft.constant("rows/128", 128, np.uint8),
        ]
        draft.node("MatMulInteger", inputs, f"{name}/sum")
        draft.node("Cast", [f"{name}/sum"], f"{name}/float", to=TensorProto.FLOAT)
        # Not by the product of both scales: ONNX Runtime (1.31) fuses that form into a kernel that takes the
        # first row's scale for all, and agreement falls from 1.00 to .78.
        columns = draft.constant(f"{name}/weight/scale", scale, np.float32)
        draft.node("Mul", [f"{name}/float", columns], f"{name}/columns")
        if len(node.input) < 3:
            draft.node("Mul", [f"{name}/columns", step], name)
        else:
            draft.node("Mul", [f"{name}/columns", step], f"{name}/product")
            draft.node("Add", [f"{name}/product", node.input[2]], name)

    def _in_integers(self, name: str) -> tuple[str, str]:
        """Names of an activation's integers, and of what one step of them stands for in each row."""
        integers, step = f"{name}/int", f"{name}/step"
        if name in self._known:
            return integers, step
        self._known.add(name)
        draft = self._draft
        first, second, last = (draft.constant(f"rows/at_{i}", [i], np.int64) for i in (0, 1, -1))
        draft.node("Abs", [name], f"{name}/magnitude")
        draft.node("ReduceMax", [f"{name}/magnitude", last], f"{name}/reduced", keepdims=1)
        # ReduceMax (1.31) leaves the width as it was where there are no rows.
        draft.node("Slice", [f"{name}/reduced", first, second, last], f"{name}/largest")
        draft.node(
            "Max",
            [f"{name}/largest", draft.constant("rows/least", 127 * _LEAST_STEP, np.float32)],
            f"{name}/top",
        )
        draft.node("Div", [f"{name}/top", draft.constant("rows/127", 127, np.float32)], step)
        draft.node("Div", [name, step], f"{name}/steps")
        draft.node("Round", [f"{name}/steps"], f"{name}/whole")
        draft.node("Add", [f"{name}/whole", draft.constant("rows/zero", 128, np.float32)], f"{name}/moved")
        draft.node("Cast", [f"{name}/moved"], integers, to=TensorProto.UINT8)
        return integers, step
