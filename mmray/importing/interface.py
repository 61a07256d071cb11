"""Checks that a graph has the inputs and outputs of mmray. Each error names the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

from mmray.errors import ModelError
from mmray.importing.load import load_graph
from mmray.models.fused import FEATURES_ONLY, OUTPUTS
from mmray.preprocess.spec import PreprocessSpec

#: Sizes of dimensions: a number if fixed, None if it must be dynamic.
Dims = tuple[int | None, ...]

_REMEDY = (
    "see docs/your-model.md for the inputs of a fused graph, or describe one graph for each modality under "
    "`encoders`, which get adapters"
)


def expected_inputs(spec: PreprocessSpec) -> Mapping[str, tuple[int, Dims]]:
    """ONNX element type and dimensions of each input."""
    found: dict[str, tuple[int, Dims]] = {"present": (TensorProto.BOOL, (None, len(spec.modalities)))}
    if image := spec.image:
        found["pixels"] = (TensorProto.UINT8, (None, image.height, image.width, 3))
        found["pixels_row"] = (TensorProto.INT64, (None,))
    if spec.text:
        found["input_ids"] = found["attention_mask"] = (TensorProto.INT32, (None, None))
        found["text_row"] = (TensorProto.INT64, (None,))
    if audio := spec.audio:
        found["log_mel"] = (TensorProto.FLOAT16, (None, audio.patch_frames, audio.mel_bins))
        found["log_mel_row"] = (TensorProto.INT64, (None,))
    return found


def check_interface(graph: Path, where: str, spec: PreprocessSpec, labels: int) -> None:
    """Refuse a fused graph that `mmray.batching.pack` cannot feed.

    Args:
        graph: ONNX file.
        where: its name in errors.
        spec: what it must take.
        labels: number of classes; 0: it only gives features.

    Raises:
        ModelError: names the graph, the input or output, what it is and what it must be.
    """
    proto = load_graph(graph, weights=False).graph
    weights = {i.name for i in proto.initializer}
    inputs = {i.name: i for i in proto.input if i.name not in weights}
    outputs = {o.name: o for o in proto.output}
    expected = expected_inputs(spec)
    _same_names(where, "input", inputs, expected)
    _same_names(where, "output", outputs, OUTPUTS if labels else FEATURES_ONLY)
    for name, (kind, dims) in expected.items():
        _same_tensor(f"{where}: input {name!r}", inputs[name], kind, dims)
    for name, output in outputs.items():
        given = dims_of(output)
        width = given[1] if name == "features" and len(given) == 2 else labels
        _same_tensor(f"{where}: output {name!r}", output, TensorProto.FLOAT, (None, width))


def dims_of(value: onnx.ValueInfoProto) -> Dims:
    """Dimensions as the graph declares them; None for a dynamic one, also if written as 0 or -1."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.dim_value > 0 else None for d in dims)


def free_dims(model: onnx.ModelProto, *, rows: bool = False) -> bool:
    """Make dimensions of size 0 or -1 dynamic, in place; returns whether anything was changed.

    Args:
        model: its inputs and outputs; after a change, inferred shapes in between are dropped.
        rows: make the first dimension dynamic in any case.
    """
    changed = False
    weights = {i.name for i in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim if value.name not in weights else ()
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_value") and (dim.dim_value <= 0 or (rows and axis == 0)):
                dim.Clear()
                changed = True
    if changed:
        del model.graph.value_info[:]
    return changed


def declared(value: onnx.ValueInfoProto) -> str:
    """Type and shape of an input or output, as the graph declares it."""
    kind = value.type.WhichOneof("value") or "nothing"
    if kind == "tensor_type":
        return describe(value.type.tensor_type.elem_type, dims_of(value))
    return f"a {kind.removesuffix('_type')}, not a tensor"


def describe(kind: int, dims: Dims) -> str:
    """Like ``uint8 [*, 224, 224, 3]``."""
    sizes = ", ".join("*" if size is None else str(size) for size in dims)
    return f"{TensorProto.DataType.Name(kind).lower()} [{sizes}]"


def _same_names(where: str, what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    there, wanted = set(found), set(expected)
    if lacking := [name for name in expected if name not in there]:
        raise ModelError(f"{where}: has no {what} {lacking[0]!r}, only {', '.join(found)}; {_REMEDY}")
    if unknown := [name for name in found if name not in wanted]:
        raise ModelError(f"{where}: has an unknown {what} {unknown[0]!r}; {_REMEDY}")


def _same_tensor(where: str, value: onnx.ValueInfoProto, kind: int, dims: Dims) -> None:
    tensor = value.type.tensor_type
    given = dims_of(value)
    fits = len(given) == len(dims) and all(
        size is None or size == wanted for size, wanted in zip(given, dims, strict=True)
    )
    if tensor.elem_type != kind or not fits:
        raise ModelError(
            f"{where} is {describe(tensor.elem_type, given)}; mmray needs {describe(kind, dims)}, * being "
            f"free; {_REMEDY}"
        )
