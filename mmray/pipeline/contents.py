"""The contents of a part's files, compared with its footer."""

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

from mmray.pipeline.ledger import Part
from mmray.pipeline.rundir import RunDirectory
from mmray.remote import StoreError
from mmray.storage import Location

_BATCH_ROWS = 4096
_NEVER_NULL = ("shard", "row", "key", "label", "abstained", "variant", "bundle", "stage", "type")
_SHARES = ("score", "scores", "confidence")  # between 0 and 1
_ROUNDING = 1e-3  # of a softmax in half precision


class Expected(NamedTuple):
    """Values that every row of a run's parts has; None if the plan does not say."""

    variant: str | None
    bundle: str | None  # digest


@dataclass
class PartCheck:
    """The contents of one part's files."""

    counts: dict[str, Counter[str]]  # by shard id: rows ``predicted``, ``rejected``, and of a ``fault``
    problems: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # shard faults, in words


def check_part(out: RunDirectory, expected: Expected, part: Part) -> PartCheck:
    """Read one part, its rejects and faults completely, in bounded memory.

    Raises:
        StoreError: the store failed; the files may be intact.
    """
    check = PartCheck({shard: Counter() for shard in part.coverage})
    found: dict[str, list[npt.NDArray[np.int64]]] = {shard: [] for shard in part.coverage}
    files = [("predicted", out.parts / part.name, part.predicted)]
    files += [("rejected", out.rejects / part.name, part.rejected)] * bool(part.rejected)
    files += [("fault", out.faults / part.name, part.faults)] * bool(part.faults)
    for kind, place, rows in files:
        _check_file(place, kind, rows, expected, check, found)
    for shard, intervals in part.coverage.items():
        nothing = np.zeros(0, np.int64)  # of a shard without records
        expected_rows = np.concatenate([nothing, *(np.arange(i.first, i.last + 1) for i in intervals)])
        actual = np.sort(np.concatenate(found[shard])) if found[shard] else np.zeros(0, np.int64)
        if not np.array_equal(actual, expected_rows):
            check.problems.append(f"parts/{part.name}: rows of {shard} are not those in its footer")
    return check


def _check_file(
    place: Location,
    kind: str,
    rows: int,
    expected: Expected,
    check: PartCheck,
    found: dict[str, list[npt.NDArray[np.int64]]],
) -> None:
    name, count = f"{place.parent.name}/{place.name}", 0
    wrong: Counter[str] = Counter()
    try:
        with place.open_input() as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS):
                count += batch.num_rows
                wrong.update(_faults_of(batch, expected))
                for shard in batch["shard"].unique().to_pylist():
                    if shard not in found:
                        wrong[f"rows of {shard}, which is not in its footer"] += 1
                        continue
                    own = batch.filter(pc.equal(batch["shard"], shard))
                    check.counts[shard][kind] += own.num_rows
                    found[shard].append(own["row"].to_numpy())
                    if kind == "fault":
                        check.faults += map(_described, own.to_pylist())
    except StoreError:
        raise  # an outage of the store, not a fault of the file
    except (OSError, pa.ArrowException) as e:
        check.problems.append(f"{name}: cannot be read: {e}")
        return
    check.problems += [f"{name}: {what}" for what in wrong]
    if count != rows:
        check.problems.append(f"{name}: {count} rows, but {rows} in its footer")


def _faults_of(rows: pa.RecordBatch, expected: Expected) -> Iterator[str]:
    """Problems that no model and no reader can cause."""
    abstained = "abstained" in rows.schema.names
    if abstained and pc.any(pc.xor(rows["label"].is_null(), rows["abstained"])).as_py():
        yield "abstained does not say which rows have no label"
    for column in rows.schema.names:
        values = rows[column]
        if column in _NEVER_NULL and values.null_count and not (abstained and column == "label"):
            yield f"{column} is null in some rows"
        if column in _SHARES:
            flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
            if flat.null_count or not _within(flat):
                yield f"{column} is not between 0 and 1 in some rows"
    for column, value in expected._asdict().items():
        if value and column in rows.schema.names and pc.any(pc.not_equal(rows[column], value)).as_py():
            yield f"{column} is not {value[:12]} in some rows"


def _within(values: pa.Array) -> bool:
    if not len(values):
        return True
    numbers = values.to_numpy(zero_copy_only=False)
    return bool((numbers >= -_ROUNDING).all() and (numbers <= 1 + _ROUNDING).all())


def _described(fault: dict[str, object]) -> str:
    name = str(fault["shard"]).rpartition("@")[0]
    return f"{name}: {fault['type']} at row {fault['row']}: {fault['reason']}"
