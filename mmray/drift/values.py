"""What is watched of a record: a few numbers, computed from what a run has in memory anyway."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.drift.seen import Seen
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import TENSOR_OF, Modality, set_name

#: By name, a number for each record; NaN if a record has none, such as the length of a missing text.
Values = Mapping[str, npt.NDArray[np.float64]]

MODALITIES, LABEL, CONFIDENCE, LEAVES = "modalities", "label", "confidence", "answered early"
TOKENS, SECONDS, FEATURE = "tokens of text", "seconds of sound", "direction {} of the features"

_DECIMALS = 4  # of a confidence: small differences between machines must not change its bin


def values_of(seen: Seen, spec: PreprocessSpec, directions: npt.NDArray[np.float32]) -> Values:
    """The numbers of each record that a stage has seen.

    A stage is watched over all records that reach it, not only those that it answers. So a sketch does not
    depend on when the later stages get their turn.

    Args:
        seen: what the stage has seen and answered.
        spec: preprocessing of the model.
        directions: [D, K], as the reference has them; K may be 0.

    Returns:
        Float64 [n] by name; names of a later stage end with its number.
    """
    rows, tensors = seen.rows, seen.tensors
    found: dict[str, npt.NDArray[np.float64]] = {}
    if seen.stage == 1:
        has = [_is_there(tensors, m)[rows] << bit for bit, m in enumerate(spec.modalities)]
        found[MODALITIES] = np.sum(has, axis=0).astype(np.float64)
    if "text" in seen.takes:
        found[TOKENS] = _numbers(pc.list_value_length(tensors["input_ids"]))[rows]
    if "audio" in seen.takes and spec.audio:
        values_a_second = 2 * spec.audio.mel_bins * spec.audio.sample_rate / spec.audio.hop
        found[SECONDS] = _numbers(pc.binary_length(tensors["log_mel"]))[rows] / values_a_second
    scores = seen.outputs.get("scores")
    if scores is not None and scores.shape[1]:
        found[LABEL] = scores.argmax(axis=1).astype(np.float64)
        found[CONFIDENCE] = np.round(scores.max(axis=1).astype(np.float64), _DECIMALS)
    if seen.stage < seen.stages:
        found[LEAVES] = seen.leaves.astype(np.float64)
    features = seen.outputs.get("features")
    if features is not None and features.shape[1] == len(directions):
        places = features.astype(np.float32, copy=False) @ directions
        found |= {FEATURE.format(i + 1): column for i, column in enumerate(places.T.astype(np.float64))}
    suffix = f" (stage {seen.stage})" if seen.stage > 1 else ""
    return {name + suffix: values for name, values in found.items()}


def names_of(name: str, spec: PreprocessSpec, labels: list[str]) -> list[str] | None:
    """The kinds that the numbers 0, 1, … stand for; None if the numbers are sizes."""
    match name.partition(" (stage")[0]:
        case "modalities":
            flags = np.arange(1 << len(spec.modalities))[:, None] >> np.arange(len(spec.modalities)) & 1
            return [set_name(spec.modalities, row.astype(bool)) or "none" for row in flags]
        case "label":
            return labels
        case "answered early":
            return ["no", "yes"]
    return None


def _is_there(tensors: pa.Table, modality: Modality) -> npt.NDArray[np.int64]:
    """1 where a record has a modality, as a tensor or as bytes to be decoded later."""
    there = pc.or_(pc.is_valid(tensors[TENSOR_OF[modality]]), pc.is_valid(tensors[modality]))
    found: npt.NDArray[np.int64] = there.to_numpy().astype(np.int64)
    return found


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = pc.cast(column, pa.float64()).to_numpy()
    return found
