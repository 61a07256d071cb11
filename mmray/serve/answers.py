"""Rows of OUTCOMES as the JSON that a request is answered with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mmray.schema import TENSOR_OF, Modality


def left_out(tensors: pa.Table) -> dict[Modality, pa.Table]:
    """One row of TENSORS without each of its modalities, where another one remains."""
    present = {m: column for m, column in TENSOR_OF.items() if tensors[column][0].is_valid}
    if len(present) < 2:
        return {}
    at = tensors.schema.get_field_index
    return {
        m: tensors.set_column(at(column), tensors.schema.field(column), pa.nulls(1, tensors[column].type))
        for m, column in present.items()
    }


def decision(row: dict[str, Any]) -> dict[str, Any]:
    """What was decided, of a row of OUTCOMES without an error."""
    return {name: row[name] for name in ("label", "score", "features") if name in row}


def prediction(row: dict[str, Any], labels: Sequence[str], top: int | None) -> dict[str, Any]:
    """The answer for a row of OUTCOMES without an error, but for what was measured.

    Args:
        row: of `pyarrow.Table.to_pylist`.
        labels: of the bundle.
        top: how many labels `scores` has; None: all.
    """
    answer = decision(row)
    if "scores" in row:
        ranked = sorted(zip(labels, row["scores"], strict=True), key=lambda pair: -pair[1])
        answer["scores"] = dict(ranked[:top])
    return answer | {name: row[name] for name in ("modalities", "variant", "bundle")}
