"""A head from a file: weights of a linear map, or an ONNX graph."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mmray.errors import ModelError
from mmray.importing.files import check_fetched
from mmray.importing.fuse import SMALLEST, GraphHead, Head, LinearHead
from mmray.importing.graph import to_opset
from mmray.importing.interface import declared, dims_of, free_dims
from mmray.importing.load import load_graph, nodes_of, one_line, open_session

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_ROUNDING = 1e-3  # tolerance of the sum of probabilities in half precision

Floats = npt.NDArray[np.float32]
#: Logits [B, C] from features [B, D] and `present` [B, M], computed by the original head.
Logits = Callable[[Floats, npt.NDArray[np.bool_]], Floats]


def read_head(path: Path, labels: Sequence[str], features: int, modalities: int) -> tuple[Head, Logits]:
    """The head, ready to be fused, and in its original form.

    Args:
        path: .onnx; or .safetensors or .npz with `weight` [labels, features] and optionally `bias` [labels].
        labels: the classes that it must have.
        features: width of all embeddings together.
        modalities: how many the model takes.

    Raises:
        ModelError: names the file and what does not fit.
    """
    check_fetched(path)
    if path.suffix == ".onnx":
        return _read_graph(path, labels, features, modalities)
    arrays, classes = _read_arrays(path), len(labels)
    weight = arrays.get("weight", np.zeros(0)).astype(np.float32)
    bias = arrays.get("bias", np.zeros(classes)).astype(np.float32)
    if weight.shape != (classes, features) or bias.shape != (classes,):
        found = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
        raise ModelError(
            f"{path}: has {found}; a linear head has weight [{classes}, {features}], labels by features, "
            f"and optionally bias [{classes}]"
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


def _read_graph(path: Path, labels: Sequence[str], features: int, modalities: int) -> tuple[Head, Logits]:
    model = load_graph(path)
    weights = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    kinds = {i.name: i.type.tensor_type.elem_type for i in inputs}
    takes = [name for name, kind in kinds.items() if kind in _FLOATS]
    present = [name for name, kind in kinds.items() if kind == TensorProto.BOOL]
    if len(takes) != 1 or len(present) > 1 or len(inputs) != len(takes) + len(present):
        shapes = ", ".join(f"{i.name} {declared(i)}" for i in inputs)
        raise ModelError(
            f"{path}: takes {shapes or 'nothing'}; a head takes features, float [*, {features}], and "
            "optionally `present`, bool [*, modalities]"
        )
    output = _choose_output(path, model)
    _check_classes(path, model, labels)
    fixed = dims_of(inputs[0])[:1] != (None,)
    changed = free_dims(model, rows=True)
    session = open_session(model if changed else path, str(path))
    kind = helper.tensor_dtype_to_np_dtype(kinds[takes[0]])

    def run(x: Floats, flags: npt.NDArray[np.bool_]) -> Floats:
        feeds: dict[str, npt.NDArray[Any]] = {takes[0]: x.astype(kind)}
        feeds |= dict.fromkeys(present, flags)
        try:
            found = np.asarray(session.run([output], feeds)[0])
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise ModelError(f"{path}: does not run on features {x.shape}: {one_line(e)}") from e
        if found.shape != (len(x), len(labels)):
            remedy = "; export it with a dynamic batch" if fixed else ""
            raise ModelError(
                f"{path}: gives {found.shape} for {len(x)} records and {len(labels)} labels{remedy}"
            )
        return found.astype(np.float32)

    kept = _gives_probabilities(path, run, features, modalities)

    def logits(x: Floats, flags: npt.NDArray[np.bool_]) -> Floats:
        found = run(x, flags)
        return np.log(found.clip(SMALLEST)) if kept else found

    head = GraphHead(
        to_opset(model, str(path)),
        len(labels),
        takes[0],
        present[0] if present else None,
        output=output,
        kind=kinds[takes[0]],
        probabilities=kept,
    )
    return head, logits


def _choose_output(path: Path, model: onnx.ModelProto) -> str:
    """The output with a number for each class; scikit-learn's heads also give the label."""
    outputs = {o.name: o for o in model.graph.output}
    fitting = [
        str(name)
        for name, value in outputs.items()
        if value.type.tensor_type.elem_type in _FLOATS and len(dims_of(value)) in (0, 2)
    ]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(f"{name} {declared(value)}" for name, value in outputs.items())
    if any(node.op_type == "ZipMap" for node in nodes_of(model.graph)):
        raise ModelError(
            f"{path}: gives {found}: its probabilities are packed by ZipMap; export it without, in skl2onnx "
            "convert_sklearn(..., options={'zipmap': False})"
        )
    raise ModelError(f"{path}: gives {found}; a head gives one float [*, classes]: logits or probabilities")


def _check_classes(path: Path, model: onnx.ModelProto, labels: Sequence[str]) -> None:
    """Refuse labels that are the classifier's own classes in a different order."""
    for node in nodes_of(model.graph):
        for attribute in node.attribute:
            if not attribute.name.startswith(("classlabels_", "class_labels", "cats_")):
                continue
            own = [name.decode() for name in attribute.strings] or [str(number) for number in attribute.ints]
            if own != list(labels) and sorted(own) == sorted(labels):
                raise ModelError(
                    f"{path}: its classes are {', '.join(own)}, in this order; `labels` has another order: "
                    f"{', '.join(labels)}"
                )


def _gives_probabilities(path: Path, run: Logits, features: int, modalities: int) -> bool:
    """Whether a head gives scores; then their logarithms are the logits.

    Raises:
        ModelError: each output is between 0 and 1, but their sum over the classes is not 1.
    """
    random = np.random.default_rng(0)
    # With large features, logits leave the range 0 to 1; probabilities never do.
    x = random.standard_normal((64, features)).astype(np.float32) * np.float32(10) ** np.arange(-1, 3).repeat(
        16
    )[:, None].astype(np.float32)
    found = run(x, np.ones((64, modalities), np.bool_))
    if not np.isfinite(found).all() or found.min() < 0 or found.max() > 1 + _ROUNDING:
        return False
    if np.abs(found.sum(axis=1) - 1).max() <= _ROUNDING:
        return True
    raise ModelError(
        f"{path}: gives numbers from 0 to 1 whose sum is not 1, like sigmoids of classes; mmray predicts "
        "one class: give logits, or probabilities of mutually exclusive classes"
    )
