"""Checks that an encoder gives a row the same embedding alone and in a batch, before it is fused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from mmray.batching import Feeds
from mmray.errors import ModelError
from mmray.importing.load import nodes_of, one_line
from mmray.importing.packed import TOLERANCE

ROWS = 4  # few rows, because each is run alone, too
_PADDING = 3  # padding columns that are always added

Encoder = Callable[[Feeds], npt.NDArray[np.float32]]


def check_rows(path: Path, model: onnx.ModelProto, encode: Encoder, feeds: Feeds, longest: int) -> None:
    """Refuse an encoder whose embedding of a row depends on other rows or on padding.

    Args:
        path: its name in errors.
        model: the graph, which is searched for a cause.
        encode: runs it; embeddings [N, D].
        feeds: rows of the modality that differ, as `mmray.batching.pack` makes them, without the row index.
        longest: tokens of the longest text.

    Raises:
        ModelError: names the graph, what differs, and the likely cause with its remedy.
    """
    mask, more = feeds.get("attention_mask"), 0
    if mask is not None:
        more = min(_PADDING, longest - mask.shape[1])
        feeds = {name: np.pad(tokens, ((0, 0), (0, more))) for name, tokens in feeds.items()}
    together = _run(path, encode, feeds)
    for i in range(len(together)):
        alone = {name: values[i : i + 1] for name, values in feeds.items()}
        found = _run(path, encode, alone)
        if (off := _difference(found, together[i : i + 1])) > TOLERANCE:
            raise ModelError(
                f"{path}: gives row {i} other values alone than in a batch of {len(together)} (off by "
                f"{off:.2g}): {_cause(model)}"
            )
        if mask is None:
            continue
        short = {name: values[:, : int(mask[i].sum())] for name, values in alone.items()}
        if (off := _difference(_run(path, encode, short), found)) > TOLERANCE:
            raise ModelError(
                f"{path}: gives a text of {int(mask[i].sum())} tokens other values when it is padded to "
                f"{mask.shape[1] + more} (off by {off:.2g}): padding must be masked, so export the model "
                "with its attention_mask; if it was trained on texts of one length, set `pad_to` and `pad_id`"
            )


def _run(path: Path, encode: Encoder, feeds: Feeds) -> npt.NDArray[np.float32]:
    try:
        return encode(feeds)
    except Exception as e:  # ONNX Runtime's own exception types share no base
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        ids = feeds.get("input_ids")
        hint = (
            ""
            if ids is None
            else f"; the tokenizer gives ids up to {int(ids.max(initial=0))}: is it the model's own?"
        )
        raise ModelError(f"{path}: does not run on {shapes}: {one_line(e)}{hint}") from e


def _difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest difference as a share of the largest value; infinite where shapes differ or values are NaN."""
    if found.shape != expected.shape:
        return float("inf")
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    off = float(np.abs(found - expected).max(initial=0)) / scale
    return off if np.isfinite(off) else float("inf")


def _cause(model: onnx.ModelProto) -> str:
    """A known cause in the graph, and the remedy."""
    for node in nodes_of(model.graph):
        if node.op_type.startswith("Dynamic"):
            return (
                f"it is quantized with one scale for the whole batch ({node.op_type}); import the graph that "
                "is not quantized; `mmray optimize` makes an int8 variant of it"
            )
        if node.op_type == "BatchNormalization" and any(
            attribute.name == "training_mode" and attribute.i for attribute in node.attribute
        ):
            return "it was exported in training mode; export it after model.eval()"
        if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial"):
            return f"it draws random numbers ({node.op_type}); export it without"
    return (
        "its rows affect each other, as by a Reshape to a fixed number of rows or a mean over the batch; "
        "export it with a dynamic batch"
    )
