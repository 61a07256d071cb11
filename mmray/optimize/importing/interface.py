"""Does a graph have the inputs and outputs that mmray gives and expects? Each fault with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

from mmray.errors import ModelError
from mmray.models.fused import FEATURES_ONLY, OUTPUTS
from mmray.preprocess.spec import PreprocessSpec

#: Sizes of a dimension: a number where it is fixed, None where it must be free.
Dims = tuple[int | None, ...]

_LONGEST = 400  # characters of a library's message
_REMEDY = (
    "see docs/your-model.md for what a fused graph takes, or describe one graph for each modality under "
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
        where: what errors call it.
        spec: what it is to take.
        labels: how many classes it has; 0: it only gives features.

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


def load_graph(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Read an ONNX file, with external data where weights are wanted.

    Raises:
        ModelError: not there, or not ONNX.
    """
    try:
        return onnx.load(path, load_external_data=weights)
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror or e}") from e
    except Exception as e:  # protobuf's errors share no base with onnx's
        raise ModelError(f"{path}: not an ONNX file: {one_line(e)}") from e


def dims_of(value: onnx.ValueInfoProto) -> Dims:
    """Dimensions as the graph declares them; None for a free one."""
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def describe(kind: int, dims: Dims) -> str:
    """Like ``uint8 [*, 224, 224, 3]``."""
    sizes = ", ".join("*" if size is None else str(size) for size in dims)
    return f"{TensorProto.DataType.Name(kind).lower()} [{sizes}]"


def one_line(failure: BaseException) -> str:
    """What a library says, which may be a page, as it fits into an error."""
    text = " ".join(str(failure).split()) or type(failure).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _same_names(where: str, what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    there, wanted = set(found), set(expected)
    if lacking := [name for name in expected if name not in there]:
        raise ModelError(f"{where}: has no {what} {lacking[0]!r}, only {', '.join(found)}; {_REMEDY}")
    if unknown := [name for name in found if name not in wanted]:
        raise ModelError(f"{where}: has an {what} {unknown[0]!r} that mmray does not know; {_REMEDY}")


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
