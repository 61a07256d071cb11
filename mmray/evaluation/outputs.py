"""What a graph answers on records of a split: each of them as it is, and with fewer of its modalities."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.batching import Feeds, batches, pack, padded
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import TENSOR_OF, Modality
from mmray.shapes import Shaper, job_ladder

_ANCHORS, _TEMPERATURE = 64, 0.1  # of the decisions of a model without labels


class Runs(Protocol):
    """Anything that can be called like a loaded graph."""

    @property
    def wants_padding(self) -> bool:
        """Whether batches should have few shapes."""

    def __call__(self, feeds: Feeds) -> Feeds:
        """Run one batch."""


@dataclass(frozen=True)
class LabelledTensors:
    """K records that a graph can take."""

    tensors: pa.Table  # K rows of TENSORS, none with an error
    labels: npt.NDArray[np.intp]  # [K], index in the bundle's labels; -1: none, or one that it does not know
    groups: npt.NDArray[np.str_]  # [K], a record's own address where it has none
    spec: PreprocessSpec
    classes: tuple[str, ...]  # the bundle's labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which of the spec's modalities each record has, bool [K, M]."""
        columns = [self.tensors[TENSOR_OF[m]] for m in self.spec.modalities]
        return np.stack([pc.is_valid(c).to_numpy(zero_copy_only=False) for c in columns], axis=1)

    def thinned(self, rows: int) -> LabelledTensors:
        """At most so many of the records, spread evenly."""
        chosen = np.unique(np.linspace(0, len(self) - 1, rows).astype(np.intp))
        return replace(
            self,
            tensors=self.tensors.take(chosen),
            labels=self.labels[chosen],
            groups=self.groups[chosen],
        )


@dataclass(frozen=True)
class Outputs:
    """Outputs of a graph for N rows: K records, each with subsets of its modalities."""

    scores: npt.NDArray[np.float32]  # [N, C]; without labels: of being most like each of C anchors
    present: npt.NDArray[np.bool_]  # [N, M]
    whole: npt.NDArray[np.bool_]  # [N], true on a record as it is, false on one with fewer modalities
    labels: npt.NDArray[np.intp]  # [N], class of each row; -1 where it is not known
    groups: npt.NDArray[np.str_]  # [N]
    modalities: tuple[str, ...]  # names of the M
    classes: tuple[str, ...]  # names of the C; none of a model without labels


def run_outputs(
    engine: Runs, records: LabelledTensors, *, batch_rows: int, largest: int | None = None
) -> Outputs:
    """Run a graph on every record with every subset of its modalities, on all of the machine's CPUs.

    Rows come in the same order and in the same batches from any graph, so outputs of two are paired. The
    batches should be as large as the job's: some int8 graphs take one scale for a whole batch.

    Args:
        engine: a loaded graph, one thread an inference.
        records: K records.
        batch_rows: records of one inference.
        largest: only subsets of at most as many modalities.
    """
    has = records.present
    return _outputs(
        engine, records, batch_rows, _masked_batches(records, has, batch_rows, largest or has.shape[1])
    )


def whole_outputs(
    engine: Runs,
    records: LabelledTensors,
    *,
    batch_rows: int,
    seen: Collection[Modality] | None = None,
) -> Outputs:
    """Run a graph on every record as it is, or on what it has of some modalities; as `run_outputs`.

    Args:
        engine: a loaded graph, one thread an inference.
        records: K records.
        batch_rows: records of one inference.
        seen: modalities that the graph may look at; None: all. Rows and `present` are the same in any case.
    """
    return _outputs(engine, records, batch_rows, _whole_batches(records, batch_rows, seen))


def _outputs(engine: Runs, records: LabelledTensors, batch_rows: int, work_: Iterable[_Batch]) -> Outputs:
    has, work = records.present, list(work_)
    decisive = "scores" if records.classes else "features"

    # A device needs one shape, whatever modalities a record lacks.
    shaper = Shaper(job_ladder(records.spec, batch_rows), records.spec.modalities)

    def run(batch: _Batch) -> npt.NDArray[np.generic]:
        rows = batch.tensors.take(batch.rows)
        if not engine.wants_padding:
            return engine(pack(rows, records.spec))[decisive]
        pieces = shaper(rows, np.arange(rows.num_rows))
        found = np.empty((0, 0), np.float32)
        for piece in pieces:
            assert piece.shape is not None
            answers = engine(padded(rows.take(piece.rows), records.spec, piece.shape))[decisive]
            if not len(found):
                found = np.empty((rows.num_rows, answers.shape[1]), answers.dtype)
            found[piece.rows] = answers[: len(piece.rows)]
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = np.concatenate(list(pool.map(run, work))).astype(np.float32)
    rows = np.concatenate([batch.rows for batch in work])
    present = np.repeat([batch.present for batch in work], [len(batch.rows) for batch in work], axis=0)
    return Outputs(
        found if records.classes else _likeness(found, rows),
        present,
        whole=(present == has[rows]).all(axis=1),
        labels=records.labels[rows],
        groups=records.groups[rows],
        modalities=records.spec.modalities,
        classes=records.classes,
    )


def _likeness(features: npt.NDArray[np.float32], records: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Decisions of a model without labels: which of a few other records is most like this one.

    Softmax over the cosines of centred features with those of the anchors, rows of other records. A graph's
    rows are compared with its own anchors, as they are where features are searched.

    Args:
        features: [N, D].
        records: [N], the record of each row.

    Returns:
        float32 [N, anchors]; NaN in rows whose features are not finite.
    """
    finite = np.asarray(np.isfinite(features).all(axis=1))
    anchors = np.unique(np.linspace(0, len(features) - 1, _ANCHORS).astype(np.intp))
    values = np.where(finite[:, None], features, 0).astype(np.float64)
    values -= values[anchors].mean(axis=0)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    cosines = values @ values[anchors].T
    weights = np.exp((cosines - 1) / _TEMPERATURE)
    weights[records[:, None] == records[anchors]] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    weights[~finite] = np.nan
    return weights.astype(np.float32)


@dataclass(frozen=True)
class _Batch:
    """Rows of a table that have lost all but the same modalities."""

    tensors: pa.Table
    rows: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]  # [M]


def _masked_batches(
    records: LabelledTensors, has: npt.NDArray[np.bool_], batch_rows: int, largest: int
) -> Iterator[_Batch]:
    """For each subset of at most `largest` modalities, the records that have it, without the others.

    `has` is bool [K, M], what each record has.
    """
    modalities = records.spec.modalities
    for size in range(1, largest + 1):
        for subset in combinations(modalities, size):
            present = np.array([m in subset for m in modalities])
            tensors = _only(records.tensors, subset)
            kept = np.flatnonzero(has[:, present].all(axis=1))
            for rows in batches(tensors.select(["error", "input_ids"]).take(kept), batch_rows):
                yield _Batch(tensors, kept[rows], present)


def _whole_batches(
    records: LabelledTensors, batch_rows: int, seen: Collection[Modality] | None
) -> Iterator[_Batch]:
    """Records of the same modalities together, with what may be seen of them."""
    has = records.present
    for present in np.unique(has, axis=0):
        rows = np.flatnonzero((has == present).all(axis=1))
        kept = tuple(m for m in records.spec.modalities if seen is None or m in seen)
        tensors = _only(records.tensors, kept)
        for chosen in batches(records.tensors.select(["error", "input_ids"]).take(rows), batch_rows):
            yield _Batch(tensors, rows[chosen], present)


def _only(tensors: pa.Table, subset: tuple[Modality, ...]) -> pa.Table:
    """The same rows, with null in the place of all other modalities."""
    for modality, name in TENSOR_OF.items():
        if modality not in subset:
            blank = pa.nulls(tensors.num_rows, tensors.schema.field(name).type)
            tensors = tensors.set_column(tensors.column_names.index(name), name, blank)
    return tensors
