"""One ONNX graph for each modality → one graph with packed modalities, as `mmray.models.fused` describes it.

An adapter before each encoder converts packed tensors (uint8 pixels, int32 token ids, float16 log-mel) to the
encoder's inputs; behind the encoder, the mean over each record's rows is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from mmray.importing.description import Layout
from mmray.importing.graph import GraphBuilder
from mmray.importing.interface import expected_inputs
from mmray.models.fused import FEATURES_ONLY, INPUTS, OUTPUTS
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality

#: From [N, H, W, 3] or [N, F, K] to the layout: permutation, then a new axis.
_ARRANGE: Mapping[Layout, tuple[tuple[int, ...] | None, int | None]] = {
    "NHWC": (None, None),
    "NCHW": ((0, 3, 1, 2), None),
    "NFK": (None, None),
    "NKF": ((0, 2, 1), None),
    "N1FK": (None, 1),
    "N1KF": ((0, 2, 1), 1),
}


#: Replaces a probability of 0: its logarithm is finite.
SMALLEST = np.float32(1e-30)


@dataclass(frozen=True)
class Adapter:
    """Converts packed tensors to an encoder's inputs.

    Pixels and log-mel become (x * scale - mean) / std, then the layout. Texts are padded to `pad_to` tokens
    if set, and padding becomes `pad_id`.
    """

    kinds: Mapping[str, int]  # ONNX element type of each of the encoder's inputs
    sources: Mapping[str, str]  # for each input: our input, "zeros" (token types) or "positions"
    layout: Layout | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)  # one for all, or one a channel
    std: tuple[float, ...] = (1.0,)
    pad_to: int | None = None
    pad_id: int = 0
    positions_from: int = 0  # position of the first token

    @property
    def normalizes(self) -> bool:
        """Whether values change."""
        return self.scale != 1 or any(self.mean) or any(std != 1 for std in self.std)


@dataclass(frozen=True)
class Piece:
    """An encoder as an ONNX model at `OPSET`."""

    model: onnx.ModelProto
    output: str  # embeddings [N, width]
    width: int
    adapter: Adapter
    needs_rows: bool = False  # does not run without rows, so it gets a blank row


@dataclass(frozen=True)
class LinearHead:
    """Logits are weight @ features + bias."""

    weight: npt.NDArray[np.float32]  # [classes, features]
    bias: npt.NDArray[np.float32]  # [classes]

    @property
    def classes(self) -> int:
        return len(self.bias)


@dataclass(frozen=True)
class GraphHead:
    """An ONNX model at `OPSET` that gives logits or probabilities."""

    model: onnx.ModelProto
    classes: int
    features: str  # the model's input [B, D]
    present: str | None = None  # and the optional one that takes bool [B, M]
    output: str = ""  # "": the only one
    kind: int = TensorProto.FLOAT  # of its features
    probabilities: bool = False  # it gives probabilities, whose logarithms are the logits


Head = LinearHead | GraphHead


def fuse(pieces: Mapping[Modality, Piece], head: Head | None, spec: PreprocessSpec) -> onnx.ModelProto:
    """One model of all the pieces, with the inputs of `mmray.batching.pack`.

    Args:
        pieces: encoder of each of the spec's modalities.
        head: None: the model only gives features.
        spec: what the model takes.
    """
    graph = GraphBuilder()
    parts = []
    for column, modality in enumerate(spec.modalities):
        piece = pieces[modality]
        *_, row = INPUTS[modality]
        inputs = add_adapter(graph, piece.adapter, modality)
        if piece.needs_rows:
            inputs = {name: _with_a_row(graph, tensor, row) for name, tensor in inputs.items()}
        embedding = graph.include(piece.model, modality, inputs)[piece.output]
        if piece.needs_rows:
            embedding = _first_rows(graph, embedding, row)
        parts.append(_pool(graph, embedding, row, piece.width, column))
    features = graph.node("Concat", *parts, name="features", axis=1)
    widths = {"features": sum(piece.width for piece in pieces.values())}
    if head:
        graph.node("Softmax", _add_head(graph, head, features), name="scores", axis=1)
        widths = {"logits": head.classes, "scores": head.classes, **widths}
    names = OUTPUTS if head else FEATURES_ONLY
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["records", widths[n]]) for n in names]
    return graph.build(graph_inputs(spec), outputs)


def adapter_model(adapter: Adapter, modality: Modality, spec: PreprocessSpec) -> onnx.ModelProto:
    """Only the adapter: from the modality's inputs, without the row index, to the encoder's."""
    graph = GraphBuilder()
    tensors = add_adapter(graph, adapter, modality)
    rank = len(adapter.layout) if adapter.layout else 2
    outputs = []
    for name, tensor in tensors.items():
        graph.node("Identity", tensor, name=f"to/{name}")
        outputs.append(helper.make_tensor_value_info(f"to/{name}", adapter.kinds[name], [None] * rank))
    *names, _ = INPUTS[modality]
    return graph.build(graph_inputs(spec, names), outputs)


def graph_inputs(spec: PreprocessSpec, names: Sequence[str] | None = None) -> list[onnx.ValueInfoProto]:
    """Declarations of all or the named inputs; dynamic dimensions have names."""
    rows = {"present": "records", **{n: m for m, inputs in INPUTS.items() for n in inputs}}
    found = []
    for name, (kind, dims) in expected_inputs(spec).items():
        if names is None or name in names:
            free = [rows[name], "tokens"]
            shape = [free[axis] if size is None else size for axis, size in enumerate(dims)]
            found.append(helper.make_tensor_value_info(name, kind, shape))
    return found


def add_adapter(graph: GraphBuilder, adapter: Adapter, modality: Modality) -> dict[str, str]:
    """Name of the tensor for each of the encoder's inputs."""
    if modality == "text":
        return _adapt_text(graph, adapter)
    (name,) = adapter.sources
    source, *_ = INPUTS[modality]
    return {name: _adapt_array(graph, adapter, source, adapter.kinds[name])}


def _adapt_array(graph: GraphBuilder, adapter: Adapter, source: str, kind: int) -> str:
    x = source
    if adapter.normalizes:
        std = np.array(adapter.std)
        x = graph.node("Cast", x, to=TensorProto.FLOAT)
        x = graph.node("Mul", x, graph.constant(adapter.scale / std, np.float32))
        x = graph.node("Add", x, graph.constant(-np.array(adapter.mean) / std, np.float32))
    x = graph.node("Cast", x, to=kind)
    permutation, axis = _ARRANGE[adapter.layout or "NHWC"]
    if permutation:
        x = graph.node("Transpose", x, perm=permutation)
    if axis is not None:
        x = graph.node("Unsqueeze", x, graph.constant([axis], np.int64))
    return x


def _adapt_text(graph: GraphBuilder, adapter: Adapter) -> dict[str, str]:
    tensors = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    if adapter.pad_to:
        # There are never more columns: `pack` pads to at most the spec's max_tokens.
        length = graph.node("Shape", "input_ids", start=1, end=2)
        missing = graph.node("Sub", graph.constant([adapter.pad_to], np.int64), length)
        pads = graph.node("Concat", graph.constant([0, 0, 0], np.int64), missing, axis=0)
        tensors = {name: graph.node("Pad", name, pads) for name in tensors}
    if adapter.pad_id:
        kept = graph.node("Cast", tensors["attention_mask"], to=TensorProto.BOOL)
        padding = graph.constant(adapter.pad_id, np.int32)
        tensors["input_ids"] = graph.node("Where", kept, tensors["input_ids"], padding)
    zero = graph.constant(0, np.int32)
    tensors["zeros"] = graph.node("Mul", tensors["input_ids"], zero)
    if "positions" in adapter.sources.values():
        ids, start = tensors["input_ids"], np.int32(adapter.positions_from)
        length = graph.node("Cast", graph.node("Shape", ids, start=1, end=2), to=TensorProto.INT32)
        end = graph.node("Add", graph.node("Squeeze", length), graph.constant(start, np.int32))
        each = graph.node("Range", graph.constant(start, np.int32), end, graph.constant(1, np.int32))
        tensors["positions"] = graph.node("Add", tensors["zeros"], each)
    return {
        name: graph.node("Cast", tensors[source], to=adapter.kinds[name])
        for name, source in adapter.sources.items()
    }


def _with_a_row(graph: GraphBuilder, tensor: str, row: str) -> str:
    """The tensor, with one row of ones where it has none."""
    one = graph.constant([1], np.int64)
    missing = graph.node("Sub", one, graph.node("Min", graph.node("Shape", row), one))
    shape = graph.node("Concat", missing, graph.node("Shape", tensor, start=1), axis=0)
    ones = graph.node(
        "ConstantOfShape", shape, value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    )
    return graph.node("Concat", tensor, graph.node("CastLike", ones, tensor), axis=0)


def _first_rows(graph: GraphBuilder, tensor: str, row: str) -> str:
    """As many rows of the tensor as the row index has."""
    zero = graph.constant([0], np.int64)
    return graph.node("Slice", tensor, zero, graph.node("Shape", row), zero)


def _pool(graph: GraphBuilder, embedding: str, row: str, width: int, column: int) -> str:
    """Mean of each record's rows, [B, width]; zeros where the modality is not present.

    As torch exports `mmray.models.fused.pool_rows`: sums and counts by ScatterND.
    """
    records = graph.node("Shape", "present", start=0, end=1)
    one, axis = graph.constant(1.0, np.float32), graph.constant([1], np.int64)
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    index = graph.node("Unsqueeze", row, axis)
    shape = graph.node("Concat", records, graph.constant([width], np.int64), axis=0)
    rows = graph.node("Cast", embedding, to=TensorProto.FLOAT)
    blank = graph.node("ConstantOfShape", shape, value=zero)
    total = graph.node("ScatterND", blank, index, rows, reduction="add")
    each = graph.node("Expand", one, graph.node("Shape", row))
    none = graph.node("ConstantOfShape", records, value=zero)
    count = graph.node("Max", graph.node("ScatterND", none, index, each, reduction="add"), one)
    mean = graph.node("Div", total, graph.node("Unsqueeze", count, axis))
    flags = graph.node("Gather", "present", graph.constant([column], np.int64), axis=1)
    # Where, not Mul: 0 * NaN would be NaN for an absent modality.
    return graph.node("Where", flags, mean, graph.constant(0.0, np.float32))


def _add_head(graph: GraphBuilder, head: Head, features: str) -> str:
    if isinstance(head, LinearHead):
        weight = graph.constant(head.weight, np.float32, "head.weight")
        bias = graph.constant(head.bias, np.float32, "head.bias")
        return graph.node("Gemm", features, weight, bias, name="logits", transB=1)
    taken = features if head.kind == TensorProto.FLOAT else graph.node("Cast", features, to=head.kind)
    inputs = {head.features: taken} | ({head.present: "present"} if head.present else {})
    outputs = graph.include(head.model, "head", inputs)
    found = graph.node("Cast", outputs[head.output or next(iter(outputs))], to=TensorProto.FLOAT)
    if head.probabilities:
        found = graph.node("Log", graph.node("Max", found, graph.constant(SMALLEST, np.float32)))
    return graph.node("Identity", found, name="logits")
