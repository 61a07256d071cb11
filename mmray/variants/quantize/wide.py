"""First convolutions for integer kernels: pixels are used as integers directly, and columns become channels.

ONNX Runtime's fast int8 convolution (1.31) needs channels in multiples of four. With one or three it copies
every window first and is slower than float32. So several columns of the picture become channels of one place,
and a place of the result contains several of its columns (space-to-depth along one axis; Ying et al., Image
classification at supercomputer scale, 2018, section 3.2). The sums only gain zeros, and neither side has to
be copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from mmray.variants.quantize.draft import Draft
from mmray.variants.quantize.targets import attributes_of

_FOUR = 4  # channels that an integer kernel processes at once
_MOST_COLUMNS = 32  # of one place
_MOST_WORK = 4.0  # maximum factor of products, zeros included, in a wide convolution
_LARGE = 1 << 10  # values of a constant from which shapes do not depend


@dataclass(frozen=True)
class Pixels:
    """An activation that is `step` * (pixels - `zero`): its integers exist already."""

    source: str  # graph input, uint8
    step: float
    zero: int
    order: tuple[int, ...]  # of the source's axes


@dataclass(frozen=True)
class Wide:
    """A convolution over places of several columns each."""

    weight: npt.NDArray[np.float32]  # [outputs * O, columns * C, KH, KW]
    bias: npt.NDArray[np.float32] | None  # [outputs * O]
    attributes: dict[str, Any]
    place: tuple[int, int]  # places in a row of the input, and channels of each
    column: tuple[int, int]  # columns in a row of the result, and channels of each


def pixels_of(draft: Draft, name: str) -> Pixels | None:
    """The pixels, if an activation is a linear function of them with one scale and one integer offset."""
    makers = {node.output[0]: node for node in draft.originals}
    inputs = {value.name: value.type.tensor_type for value in draft.graph.input}
    scale, offset, order = 1.0, 0.0, list(range(4))
    while node := makers.get(name):
        values = [i for i in node.input if not draft.is_float(i)]
        if node.op_type == "Transpose":
            perm = attributes_of(node)["perm"]
            if len(perm) != len(order):
                return None
            order = [perm[i] for i in order]
        elif node.op_type in ("Mul", "Add", "Sub", "Div") and len(values) == 1:
            constant = draft.array(next(i for i in node.input if i not in values))
            if constant.size != 1 or (node.op_type in ("Sub", "Div") and values[0] != node.input[0]):
                return None
            number = float(constant.item())
            if node.op_type in ("Add", "Sub"):
                offset += scale * (number if node.op_type == "Add" else -number)
            else:
                scale = scale * number if node.op_type == "Mul" else scale / number
        elif node.op_type != "Cast":
            return None
        [name] = values
    zero = -offset / scale
    if name not in inputs or inputs[name].elem_type != TensorProto.UINT8 or scale <= 0:
        return None
    if (
        len(inputs[name].shape.dim) != len(order)
        or not 0 <= round(zero) <= 255
        or abs(zero - round(zero)) > 1e-3
    ):
        return None
    return Pixels(name, scale, round(zero), tuple(order))


def widened(draft: Draft, node: onnx.NodeProto, width: int) -> Wide | None:
    """The same convolution with enough columns in a place to fill an integer kernel.

    Args:
        draft: that has the weights.
        node: a Conv.
        width: of its input.

    Returns:
        None if it has enough channels, or no such form.
    """
    weight, stated = draft.array(node.input[1]), attributes_of(node)
    if weight.ndim != 4 or weight.shape[1] % _FOUR == 0 or stated.get("group", 1) != 1:
        return None
    if stated.get("auto_pad", b"NOTSET") != b"NOTSET" or any(d != 1 for d in stated.get("dilations", ())):
        return None
    outputs, channels, height, kernel = weight.shape
    down, step = stated.get("strides", (1, 1))
    top, left, bottom, right = stated.get("pads", (0, 0, 0, 0))
    result = (width + left + right - kernel) // step + 1
    for columns in range(step, _MOST_COLUMNS + 1, step):
        together = columns // step
        if columns * channels % _FOUR or width % columns or result % together:
            continue
        first = -left // columns  # place of the first column that a place's results use
        last = ((together - 1) * step - left + kernel - 1) // columns
        if columns * (last - first + 1) > _MOST_WORK * kernel:
            continue
        wide = np.zeros((together * outputs, columns * channels, height, last - first + 1), np.float32)
        for i in range(together):
            for k in range(kernel):
                place, column = divmod(i * step - left + k, columns)
                into = wide[i * outputs : (i + 1) * outputs, column * channels : (column + 1) * channels]
                into[:, :, :, place - first] = weight[:, :, :, k]
        after = result // together - 1 + last - (width // columns - 1)
        if after < 0:
            continue
        bias = draft.array(node.input[2]) if len(node.input) > 2 else None
        return Wide(
            wide,
            None if bias is None else np.tile(bias, together),
            {"pads": [top, -first, bottom, after], "strides": [down, 1]},
            (width // columns, columns * channels),
            (result, outputs),
        )
    return None


def regrouped(draft: Draft, name: str, output: str, places: tuple[int, int]) -> str:
    """Name of the same values, NCHW, with another number of places in a row and of channels in each."""
    shape = draft.constant(f"{output}/shape", [0, 0, *places], np.int64)
    last = draft.node("Transpose", [name], f"{output}/last", perm=[0, 2, 3, 1])
    return draft.node(
        "Transpose", [draft.node("Reshape", [last, shape], f"{output}/places")], output, perm=[0, 3, 1, 2]
    )


def widths(draft: Draft) -> dict[str, int]:
    """Last dimension of each tensor of four whose last dimension does not vary."""
    light = onnx.ModelProto(ir_version=10, opset_import=[helper.make_opsetid("", draft.opset)])
    light.graph.name = draft.graph.name
    light.graph.node.extend(draft.originals)
    light.graph.input.extend(draft.graph.input)
    light.graph.output.extend(draft.graph.output)
    for constant in draft.graph.initializer:
        if np.prod(constant.dims) < _LARGE:
            light.graph.initializer.append(constant)
        else:  # without its bytes, which would take the time
            kind = helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
            light.graph.input.append(kind)
    inferred = onnx.shape_inference.infer_shapes(light).graph
    shapes = {v.name: v.type.tensor_type.shape.dim for v in (*inferred.value_info, *inferred.input)}
    return {name: dims[3].dim_value for name, dims in shapes.items() if len(dims) == 4 and dims[3].dim_value}
