"""A head that came as a file: weights of a linear map, or an ONNX graph."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mmray.errors import ModelError
from mmray.optimize.importing.fuse import GraphHead, Head, LinearHead
from mmray.optimize.importing.graph import to_opset
from mmray.optimize.importing.interface import describe, dims_of, load_graph, one_line

Floats = npt.NDArray[np.float32]
#: Logits [B, C] from features [B, D] and `present` [B, M], as the head's own file gives them.
Logits = Callable[[Floats, npt.NDArray[np.bool_]], Floats]


def read_head(path: Path, labels: int, features: int, modalities: int) -> tuple[Head, Logits]:
    """The head, ready to be fused, and as it came.

    Args:
        path: .onnx; or .safetensors or .npz with `weight` [labels, features] and perhaps `bias` [labels].
        labels: how many classes it must have.
        features: width of all embeddings side by side.
        modalities: how many the model takes.

    Raises:
        ModelError: names the file and what does not fit.
    """
    if path.suffix == ".onnx":
        head, run = _read_graph(path, labels, features)
        run(np.zeros((2, features), np.float32), np.ones((2, modalities), np.bool_))
        return head, run
    arrays = _read_arrays(path)
    weight = arrays.get("weight", np.zeros(0)).astype(np.float32)
    bias = arrays.get("bias", np.zeros(labels)).astype(np.float32)
    if weight.shape != (labels, features) or bias.shape != (labels,):
        found = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
        raise ModelError(
            f"{path}: holds {found}; a linear head has weight [{labels}, {features}], labels by features, "
            f"and perhaps bias [{labels}]"
        )
    return LinearHead(weight, bias), lambda x, _: x @ weight.T + bias


def _read_arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        if path.suffix == ".safetensors":
            found: dict[str, npt.NDArray[Any]] = load_file(path)
            return found
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as e:
        raise ModelError(f"{path}: not weights of a head (.onnx, .safetensors or .npz): {one_line(e)}") from e


def _read_graph(path: Path, labels: int, features: int) -> tuple[Head, Logits]:
    model = load_graph(path)
    weights = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    by_kind = {i.type.tensor_type.elem_type: i.name for i in inputs}
    takes, present = by_kind.pop(TensorProto.FLOAT, None), by_kind.pop(TensorProto.BOOL, None)
    if takes is None or by_kind or len(inputs) > 1 + bool(present) or len(model.graph.output) != 1:
        shapes = ", ".join(describe(i.type.tensor_type.elem_type, dims_of(i)) for i in inputs)
        raise ModelError(
            f"{path}: takes {shapes} and gives {len(model.graph.output)} outputs; a head takes features, "
            f"float [*, {features}], perhaps also `present`, bool [*, modalities], and gives logits"
        )
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(x: Floats, flags: npt.NDArray[np.bool_]) -> Floats:
        feeds: dict[str, npt.NDArray[Any]] = {takes: x} | ({present: flags} if present else {})
        try:
            (logits,) = session.run(None, feeds)
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise ModelError(f"{path}: does not run on features {x.shape}: {one_line(e)}") from e
        if logits.shape != (len(x), labels):
            raise ModelError(f"{path}: gives {logits.shape} for {len(x)} records and {labels} labels")
        return np.asarray(logits, np.float32)

    return GraphHead(to_opset(model, str(path)), labels, takes, present), run
