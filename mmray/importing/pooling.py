"""Pooling: from a vector for each token or place to one embedding [N, D] for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmray.importing.description import Pool

Array = npt.NDArray[Any]


def pool_array(hidden: Array, pool: Pool | None, mask: Array | None) -> Array:
    """Embeddings [N, D] in numpy, as `add_pooling` does it in the graph.

    Args:
        hidden: [N, T, D], or [N, C, H, W]; without `pool` [N, D], possibly with more axes of size 1.
        pool: how.
        mask: of texts, [N, t] with t <= T: 1 where a token counts; None: all places count.
    """
    if pool is None:
        return np.asarray(hidden.reshape(len(hidden), int(np.prod(hidden.shape[1:]))))
    if pool == "first":
        return np.asarray(hidden[:, 0])
    if mask is None:
        mean: Array = hidden.mean(axis=_places(hidden.ndim))
        return mean
    kept = np.zeros(hidden.shape[:2], hidden.dtype)
    kept[:, : mask.shape[1]] = mask
    total: Array = (hidden * kept[:, :, None]).sum(axis=1)
    count: Array = kept.sum(axis=1, keepdims=True).clip(1)
    return np.asarray(total / count)


def add_pooling(
    model: onnx.ModelProto, output: str, rank: int, width: int, pool: Pool | None, mask: str | None
) -> str:
    """Add the pooling behind an output; returns the name of the new output, the model's only one.

    Args:
        model: at `OPSET`; changed in place.
        output: the pooled output.
        rank: its number of axes.
        width: of an embedding.
        pool: how; None: the axes are flattened.
        mask: the model's attention mask.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: Any, kind: npt.DTypeLike) -> str:  # noqa: ANN401  (a number or a list)
        constants.append(numpy_helper.from_array(np.asarray(value, kind), f"pool/{name}"))
        return f"pool/{name}"

    def node(op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:  # noqa: ANN401
        made = f"pool/{name or op.lower()}"
        nodes.append(helper.make_node(op, inputs, [made], name=f"{made}/node", **attributes))
        return made

    if pool is None:
        shape = constant("shape", [-1, width], np.int64)
        found = node("Reshape", output, shape)
    elif pool == "first":
        found = node("Gather", output, constant("first", 0, np.int64), axis=1)
    elif mask is None:
        axes = constant("axes", _places(rank), np.int64)
        found = node("ReduceMean", output, axes, keepdims=0)
    else:
        hidden = node("Cast", output, name="hidden", to=TensorProto.FLOAT)
        kept = node("Cast", mask, name="kept", to=TensorProto.FLOAT)
        axis = constant("axis", [1], np.int64)
        columns = node("Unsqueeze", kept, constant("last", [2], np.int64))
        total = node("ReduceSum", node("Mul", hidden, columns), axis, name="total", keepdims=0)
        count = node("ReduceSum", kept, axis, name="count", keepdims=1)
        found = node("Div", total, node("Max", count, constant("one", 1, np.float32)))
    kind = next(o.type.tensor_type.elem_type for o in model.graph.output if o.name == output)
    kind = TensorProto.FLOAT if pool == "mean" and mask else kind
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(found, kind, [None, width]))
    return found


def _places(rank: int) -> tuple[int, ...]:
    """Axes of an image's or a sound's places: of [N, C, H, W] the last ones, of [N, T, D] the second."""
    return tuple(range(2, rank)) if rank > 3 else (1,)
