"""Reads the rows of a run's parts as a stream: at most one batch is in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmray.errors import UsageError
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.rundir import RunDirectory
from mmray.report.counting import Few
from mmray.report.judged import GROUP, Judged, Place

BINS = 40  # of confidence, from 0 to 1
_BATCH_ROWS = 65_536
_USUAL = "meta_label"
_READ = ("shard", "row", "key", "label", "score", "abstained", "modalities", "stage", GROUP)


class Unsure(NamedTuple):
    """A record with a low confidence."""

    confidence: float
    place: Place
    given: str | None


@dataclass
class Rows:
    """Counts over all rows."""

    labels: Few[str] = field(default_factory=Few)
    confidence: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    wrong: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))  # of those
    stages: Counter[int] = field(default_factory=Counter)  # of a cascade
    abstained: Counter[str] = field(default_factory=Counter)  # by their modalities
    judged: Judged | None = None
    unsure: list[Unsure] = field(default_factory=list)  # the least confident ones, if no labels are known


def read_rows(out: RunDirectory, ledger: Ledger, field: str | None, *, kept: int = 30) -> Rows:
    """Read what the report needs of rows.

    Args:
        out: the run directory.
        ledger: its parts.
        field: that was carried and holds the true labels; None: ``label``, if it was carried.
        kept: how many mistakes, or least confident records, are kept.

    Raises:
        UsageError: the run did not carry the field, or gives no labels.
        OSError: a part cannot be read.
    """
    column = f"meta_{field}" if field else _USUAL
    rows = Rows()
    for names, batch in batches(out, ledger, (*_READ, column)):
        if field and (column not in names or "label" not in names):
            carried = ", ".join(n[5:] for n in names if n.startswith("meta_")) or "nothing"
            why = f"did not carry {field!r}, but {carried}" if column not in names else "gives no labels"
            raise UsageError(
                f"{out}: the run {why}; name a carried field: --labels FIELD, `carry` in the config"
            )
        if rows.judged is None and {column, "label"} <= set(names):
            rows.judged = Judged(column, kept)
        _add(rows, batch, kept)
    return rows


def batches(
    out: RunDirectory, ledger: Ledger, wanted: tuple[str, ...]
) -> Iterator[tuple[list[str], pa.Table]]:
    """The names of all columns, and some rows with the wanted columns that exist."""
    for part in sorted(ledger.parts, key=lambda part: part.name):
        if not part.predicted:
            continue
        with (out.parts / part.name).open_input() as stream:
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            read = [name for name in dict.fromkeys(wanted) if name in names]
            for batch in file.iter_batches(_BATCH_ROWS, columns=read):
                yield names, pa.Table.from_batches([batch])


def _add(rows: Rows, batch: pa.Table, kept: int) -> None:
    columns = batch.column_names
    sets = pc.binary_join(batch["modalities"].combine_chunks(), "+")
    wrong = rows.judged.add(batch, sets) if rows.judged else np.zeros(batch.num_rows, np.bool_)
    if "label" in columns:
        for counted in pc.value_counts(batch["label"].drop_null()):
            rows.labels.add(counted["values"].as_py(), counted["counts"].as_py())
        scores = batch["score"].to_numpy()
        for counts, which in ((rows.confidence, slice(None)), (rows.wrong, wrong)):
            counts += np.histogram(scores[which], BINS, (0.0, 1.0))[0]
        if rows.judged is None:
            rows.unsure = sorted([*rows.unsure, *_unsure(batch, scores, kept)])[:kept]
    if "stage" in columns:
        for counted in pc.value_counts(batch["stage"].drop_null()):
            rows.stages[counted["values"].as_py()] += counted["counts"].as_py()
    if "abstained" in columns:
        for counted in pc.value_counts(sets.filter(pc.fill_null(batch["abstained"].combine_chunks(), False))):
            rows.abstained[counted["values"].as_py()] += counted["counts"].as_py()


def _unsure(batch: pa.Table, scores: npt.NDArray[np.float32], kept: int) -> Iterator[Unsure]:
    for row in batch.take(pa.array(np.argsort(scores, kind="stable")[:kept])).to_pylist():
        yield Unsure(row["score"], Place(row["shard"], row["row"], row["key"]), row["label"] or "")
