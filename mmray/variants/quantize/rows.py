"""Integer matrix products whose activations have a scale for each row, computed at run time."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from mmray.variants.quantize.draft import Draft, by_channel
from mmray.variants.quantize.targets import attributes_of

LEAST_STEP = 1e-12  # of an activation that is always zero


class Rows:
    """Matrix products of activations with a scale for each row."""

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
        """Names of an activation's integers, and of the scale of each row."""
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
            [f"{name}/largest", draft.constant("rows/least", 127 * LEAST_STEP, np.float32)],
            f"{name}/top",
        )
        draft.node("Div", [f"{name}/top", draft.constant("rows/127", 127, np.float32)], step)
        draft.node("Div", [name, step], f"{name}/steps")
        draft.node("Round", [f"{name}/steps"], f"{name}/whole")
        draft.node("Add", [f"{name}/whole", draft.constant("rows/zero", 128, np.float32)], f"{name}/moved")
        draft.node("Cast", [f"{name}/moved"], integers, to=TensorProto.UINT8)
        return integers, step
