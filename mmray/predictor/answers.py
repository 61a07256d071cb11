"""A stage's answers to the rows of a table, and the rows that it passes on to the next stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.batching import Feeds
from mmray.cascade import carried
from mmray.schema import MODALITIES, TENSOR_OF, Modality, OutputColumns, meta_fields, outcomes, table

_PASSED = ("shard", "row", "key", "end", "offset", "length", "unread", "damaged", "alignment_error_ms")

#: Column of the rows that a stage passes on: int32, the class already answered if the row goes on only to be
#: compared; null for the others.
EARLY = "early"


class Step(NamedTuple):
    """Result of a stage for a table: rows with their answer or error, and rows for the next stage."""

    answered: pa.Table  # OUTCOMES
    answered_rows: npt.NDArray[np.int64]  # which rows of the table those are
    open: pa.Table  # TENSORS, a column ``carried/…`` for each value that is passed on, and EARLY
    open_rows: npt.NDArray[np.int64]


class Answers:
    """Answers to the rows of a table of TENSORS; empty at first.

    Args:
        tensors: the rows.
        labels: names of the classes, object [C].
        columns: which optional columns are wanted.
    """

    def __init__(self, tensors: pa.Table, labels: npt.NDArray[np.object_], columns: OutputColumns) -> None:
        rows = tensors.num_rows
        self._tensors, self._labels, self._columns = tensors, labels, columns
        self._scores = np.zeros((rows, len(labels)), np.float32)
        self._features = np.zeros((rows, columns.features), np.float32)
        self._confidence = np.zeros(rows, np.float32)
        #: For each row, why it has no answer; None if it has no error so far.
        self.errors: list[dict[str, str] | None] = tensors["error"].to_pylist()

    def put(self, rows: npt.NDArray[np.int64], outputs: Feeds, confidence: npt.NDArray[np.float32]) -> None:
        """Answer rows.

        Args:
            rows: [B] indices.
            outputs: of a graph, for those rows.
            confidence: [B].
        """
        if self._columns.labelled:
            self._scores[rows] = outputs["scores"]
        if self._columns.features:
            self._features[rows] = outputs["features"]
        self._confidence[rows] = confidence

    def failed(self) -> npt.NDArray[np.bool_]:
        """Which rows have an error [rows]."""
        return np.array([e is not None for e in self.errors], np.bool_)

    def to_table(
        self,
        rows: npt.NDArray[np.int64],
        *,
        variant: str,
        bundle: str,
        stage: int,
        seen: Sequence[Modality],
    ) -> pa.Table:
        """OUTCOMES of some rows, in the order that they are given in.

        Args:
            rows: [B] indices.
            variant: that answered.
            bundle: its digest.
            stage: of a cascade, from 1.
            seen: modalities that an answer is made of where a row has them.
        """
        tensors = self._tensors.take(rows)
        errors = [self.errors[row] for row in rows]
        valid = {m: pc.is_valid(tensors[TENSOR_OF[m]]).to_pylist() for m in MODALITIES if m in seen}
        columns: dict[str, Any] = {name: tensors[name] for name in _PASSED}
        columns |= {
            "modalities": [[m for m in valid if valid[m][i]] for i in range(len(rows))],
            "variant": [variant] * len(rows),
            "bundle": [bundle] * len(rows),
            "error": errors,
        }
        columns |= _carried_fields(tensors, self._columns.carry)
        failed = np.array([e is not None for e in errors], np.bool_)
        if self._columns.labelled:
            scores = self._scores[rows]
            best = scores.argmax(axis=1)
            score = scores[np.arange(len(best)), best]
            unsure = np.zeros(len(best), np.bool_)
            if self._columns.least_score is not None:
                unsure = score < self._columns.least_score
                columns["abstained"] = pa.array(unsure, mask=failed)
            columns["label"] = pa.array(self._labels[best], pa.string(), mask=failed | unsure)
            columns["score"] = pa.array(score, mask=failed)
        if self._columns.staged:
            columns["stage"] = pa.array(np.full(len(rows), stage, np.int8), mask=failed)
            columns["confidence"] = pa.array(self._confidence[rows], mask=failed)
        if self._columns.classes:
            columns["scores"] = lists(self._scores[rows])
        if self._columns.features:
            columns["features"] = lists(self._features[rows].astype(np.float16))
        return table(columns, outcomes(self._columns))


def lists(values: npt.NDArray[np.generic]) -> pa.FixedSizeListArray:
    """Rows [N, D] as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])


def _carried_fields(tensors: pa.Table, names: tuple[str, ...]) -> dict[str, list[str | None]]:
    """The named fields of each record as text, those of its JSON member first; null where it has none."""
    if not names:
        return {}
    columns = (tensors[name].to_pylist() for name in ("meta", "fields"))
    fields = [dict(small or ()) | meta_fields(meta) for meta, small in zip(*columns, strict=True)]
    return {f"meta_{name}": [_as_text(row.get(name)) for row in fields] for name in names}


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # JSON may contain half a surrogate pair


def early_of(tensors: pa.Table) -> npt.NDArray[np.int32]:
    """For each row, the class that was answered already; -1 if none was."""
    if EARLY not in tensors.column_names:
        return np.full(tensors.num_rows, -1, np.int32)
    found: npt.NDArray[np.int32] = pc.fill_null(tensors[EARLY], -1).to_numpy()
    return found


def keep(kept: Feeds, values: Feeds, rows: npt.NDArray[np.int64], records: int) -> None:
    """Put values of rows into arrays of all records."""
    for name, array in values.items():
        if name not in kept:
            kept[name] = np.zeros((records, *array.shape[1:]), array.dtype)
        kept[name][rows] = array


def hand_on(
    tensors: pa.Table,
    rows: npt.NDArray[np.int64],
    found: Feeds,
    early: npt.NDArray[np.int32],
) -> pa.Table:
    """Rows that go on to the next stage, with what was computed for them in further columns.

    Args:
        tensors: N rows.
        rows: those that go on.
        found: values of all N rows that the stage passes on.
        early: [N] class that was answered already, or -1.
    """
    table = tensors.take(rows)
    columns = {EARLY: pa.array(early[rows], mask=early[rows] < 0)}
    columns |= {name: lists(values[rows]) for name, values in carried(found).items()}
    for name, column in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, column)
    return table
