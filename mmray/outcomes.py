"""What is found of each row on its way through a model, and the OUTCOMES table that comes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.batching import Feeds
from mmray.schema import MODALITIES, TENSOR_OF, Modality, OutputColumns, meta_fields, outcomes, table

_PASSED = ("shard", "row", "key", "end", "offset", "length", "alignment_error_ms")


class Answers:
    """Answers to the rows of a table of TENSORS, empty at first.

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
        self._stage = np.zeros(rows, np.int8)
        self._confidence = np.zeros(rows, np.float32)
        self._used: list[list[str]] = [[] for _ in range(rows)]
        self._damaged: list[list[str]] = tensors["damaged"].to_pylist()
        self._carried: Feeds = {}
        #: Of each row: why it has no answer; None where nothing is wrong with it so far.
        self.errors: list[dict[str, str] | None] = tensors["error"].to_pylist()

    @property
    def best(self) -> npt.NDArray[np.intp]:
        """Index of each row's best class [rows]."""
        return np.asarray(self._scores.argmax(axis=1))

    @property
    def stages(self) -> npt.NDArray[np.int8]:
        """The stage that answered each row, from 1; 0 where none did."""
        return self._stage

    def apart(self) -> Answers:
        """The same rows, and what was handed on for them, with errors of their own."""
        other = copy(self)
        other.errors = list(self.errors)
        return other

    def put(
        self, rows: npt.NDArray[np.int64], outputs: Feeds, stage: int, confidence: npt.NDArray[np.float32]
    ) -> None:
        """Answer rows.

        Args:
            rows: [B] indices.
            outputs: of a graph, for those rows.
            stage: that answered, from 1.
            confidence: [B].
        """
        if self._columns.labelled:
            self._scores[rows] = outputs["scores"]
        if self._columns.features:
            self._features[rows] = outputs["features"]
        self._stage[rows] = stage
        self._confidence[rows] = confidence

    def use(self, rows: npt.NDArray[np.int64], there: pa.Table, seen: Sequence[Modality]) -> None:
        """Note what an answer is made of: of the modalities that were seen those that the rows have."""
        valid = {m: pc.is_valid(there[TENSOR_OF[m]]).to_pylist() for m in MODALITIES if m in seen}
        for i, row in enumerate(rows):
            self._used[row] = [m for m in valid if valid[m][i]]

    def complete(self, rows: npt.NDArray[np.int64], completed: pa.Table) -> None:
        """Note what came out when modalities of rows were decoded that had been left for later."""
        errors, damaged = completed["error"].to_pylist(), completed["damaged"].to_pylist()
        for row, failure, faults in zip(rows, errors, damaged, strict=True):
            self.errors[row], self._damaged[row] = failure, faults

    def keep(self, rows: npt.NDArray[np.int64], carried: Feeds) -> None:
        """Keep what a stage hands on for rows."""
        for name, values in carried.items():
            if name not in self._carried:
                self._carried[name] = np.zeros((len(self._used), *values.shape[1:]), values.dtype)
            self._carried[name][rows] = values

    def carried(self, names: Sequence[str], rows: npt.NDArray[np.int64]) -> Feeds:
        """What earlier stages handed on for rows."""
        return {name: self._carried[name][rows] for name in names}

    def to_table(self, variant: str, bundle: str) -> pa.Table:
        """OUTCOMES, the same rows in the same order."""
        columns: dict[str, Any] = {name: self._tensors[name] for name in _PASSED}
        columns |= {
            "damaged": self._damaged,
            "modalities": self._used,
            "variant": [variant] * len(self._used),
            "bundle": [bundle] * len(self._used),
            "error": self.errors,
        }
        columns |= _carried_fields(self._tensors["meta"], self._columns.carry)
        failed = np.array([e is not None for e in self.errors], np.bool_)
        if self._columns.labelled:
            best = self.best
            columns["label"] = pa.array(self._labels[best], pa.string(), mask=failed)
            columns["score"] = pa.array(self._scores[np.arange(len(best)), best], mask=failed)
        if self._columns.staged:
            columns["stage"] = pa.array(self._stage, mask=failed)
            columns["confidence"] = pa.array(self._confidence, mask=failed)
        if self._columns.classes:
            columns["scores"] = _lists(self._scores)
        if self._columns.features:
            columns["features"] = _lists(self._features.astype(np.float16))
        return table(columns, outcomes(self._columns))


def _lists(values: npt.NDArray[np.generic]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])


def _carried_fields(meta: pa.ChunkedArray, names: tuple[str, ...]) -> dict[str, list[str | None]]:
    """The named fields of each record's JSON member as text; null where it has none."""
    if not names:
        return {}
    fields = [meta_fields(value) for value in meta.to_pylist()]
    return {f"meta_{name}": [_as_text(row.get(name)) for row in fields] for name in names}


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # JSON may hold half a surrogate pair
