"""Rows of OUTCOMES as the JSON that a request is answered with."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from mmray.schema import TENSOR_OF, Modality


def sample(record: dict[str, Any]) -> dict[str, Any]:
    """A raw record as JSON: what `POST /v1/predict` takes, and its key.

    Args:
        record: of RECORDS, of `pyarrow.Table.to_pylist`.
    """
    files = {m: record[m] and b64encode(record[m]).decode() for m in ("image", "audio")}
    text = record["text"] and record["text"].decode(errors="replace")
    return {"key": record["key"], "record": {m: v for m, v in {**files, "text": text}.items() if v}}


def left_out(tensors: pa.Table) -> dict[Modality, pa.Table]:
    """One row of TENSORS without each of its modalities, if another one remains.

    A modality may also be bytes that are decoded later.
    """
    columns = {m: [name, m] for m, name in TENSOR_OF.items()}
    present = [m for m, names in columns.items() if any(tensors[name][0].is_valid for name in names)]
    if len(present) < 2:
        return {}
    return {m: _without(tensors, columns[m]) for m in present}


def _without(tensors: pa.Table, columns: Sequence[str]) -> pa.Table:
    for name in columns:
        field = tensors.schema.field(name)
        nothing = pa.nulls(tensors.num_rows, field.type)
        tensors = tensors.set_column(tensors.schema.get_field_index(name), field, nothing)
    return tensors


def prediction(row: dict[str, Any], labels: Sequence[str], top: int | None) -> dict[str, Any]:
    """The answer for a row of OUTCOMES without an error, without the timings.

    Args:
        row: of `pyarrow.Table.to_pylist`.
        labels: of the bundle.
        top: how many labels `scores` has; None: all.
    """
    answer = _decision(row)
    if "scores" in row:
        ranked = sorted(zip(labels, row["scores"], strict=True), key=lambda pair: -pair[1])
        answer["scores"] = dict(ranked[:top])
    names = ("modalities", "stage", "confidence", "variant", "bundle")
    unread = {"unread": row["unread"]} if row.get("unread") else {}
    return answer | {name: row[name] for name in names if name in row} | unread


def explained(without: Mapping[Modality, dict[str, Any]]) -> dict[str, Any]:
    """The decision of each row of OUTCOMES, if it has one, by the modality that was left out."""
    return {m: _decision(row) for m, row in without.items() if row["error"] is None}


def latency_ms(*, preprocess_s: float, model_s: float, total_s: float) -> dict[str, float]:
    """The timings."""
    return {"preprocess": 1e3 * preprocess_s, "model": 1e3 * model_s, "total": 1e3 * total_s}


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("label", "score", "abstained", "features") if name in row}
