"""Readers and devices that take almost no time, so that only the driver's work is left of a run.

Rows are real for all code that counts them: each has its shard and number, is written into a part, and is
audited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.pipeline.job import Job
from mmray.pipeline.plan import Unit
from mmray.pipeline.survey import output_columns
from mmray.schema import RECORDS, TENSORS, OutputColumns, outcomes, table
from mmray.sources import ReadOptions, Shard

ROW_BYTES = 1_000  # bytes of a shard for each row


def shard_of(number: int, rows: int) -> Shard:
    """A shard that does not exist."""
    size = rows * ROW_BYTES
    return Shard(f"{number // 1000:05d}/t-{number:08d}.tar@{size}", f"/nowhere/t-{number:08d}.tar", size)


class Preprocess:
    """RECORDS → TENSORS without any payload."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def __call__(self, records: pa.Table, later: object = ()) -> pa.Table:  # noqa: ARG002
        return table(
            {name: records[name] for name in ("shard", "row", "end", "key", "offset", "length")}, TENSORS
        )

    def complete(self, tensors: pa.Table, takes: object) -> pa.Table:  # noqa: ARG002
        """As a preprocessor's."""
        return tensors


class Predict:
    """TENSORS → OUTCOMES of one label."""

    stages, later = 1, ()

    def __init__(self, columns: OutputColumns) -> None:
        self.columns = columns
        self.seconds: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.occupied: tuple[Counter[str], ...] = ()

    def twin(self) -> Predict:
        """Another one."""
        return Predict(self.columns)

    def take_drift(self) -> None:
        """Nothing."""

    def __call__(self, tensors: pa.Table, complete: object = None) -> pa.Table:  # noqa: ARG002
        rows = tensors.num_rows
        kept = {name: tensors[name] for name in ("shard", "row", "end", "key", "offset", "length")}
        return table(
            {**kept, **{name: column.slice(0, rows) for name, column in self._same(rows).items()}},
            self._schema,
        )

    @cached_property
    def _schema(self) -> pa.Schema:
        return outcomes(self.columns)

    def _same(self, rows: int) -> dict[str, pa.Array]:
        values: dict[str, Any] = {"label": "cat", "score": 0.5, "modalities": ["text"], "damaged": []}
        values |= {
            "variant": "fp32",
            "bundle": "0" * 64,
            "scores": [0.5, *[0.0] * (self.columns.classes - 1)],
        }
        return {
            name: pa.array([value], self._schema.field(name).type).take(pa.array(np.zeros(rows, np.int64)))
            for name, value in values.items()
            if name in self._schema.names
        }


@dataclass(frozen=True)
class SimulatedJob(Job):
    """A job of such readers and devices."""

    def records(
        self,
        unit: Unit,
        options: ReadOptions,
        fail: Callable[[str, str], object],  # noqa: ARG002
    ) -> Iterator[pa.Table]:
        """As of a job."""
        for work in unit:
            total = work.shard.size // ROW_BYTES
            for gap in work.wanted:
                end = total if gap.last is None else gap.last + 1
                for first in range(gap.first, end, options.block_rows):
                    yield _records(work.shard, first, min(options.block_rows, end - first), total)

    def open_preprocessor(self) -> Any:  # noqa: ANN401  (it is like one)
        """As of a job."""
        return Preprocess()

    def open_predictor(self) -> Any:  # noqa: ANN401
        """As of a job."""
        return Predict(output_columns(self.config, self.open_bundle()))


def _records(shard: Shard, first: int, rows: int, total: int) -> pa.Table:
    row = np.arange(first, first + rows)
    columns = {
        "shard": pa.array([shard.id]).take(pa.array(np.zeros(rows, np.int64))),
        "row": pa.array(row),
        "end": pa.array(row == total - 1),
        "key": pa.array(row).cast(pa.string()),
        "offset": pa.array(row * ROW_BYTES),
        "length": pa.array(np.full(rows, ROW_BYTES)),
    }
    return table(columns, RECORDS)
