"""What a graph answers on held-out records: each of them as it is, and with fewer of its modalities.

The records come from shards through the job's own preprocessing. A record's JSON member may say what it is:
`label`; `caption_group` (records of one group are not independent); and `split`. All three may be missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.batching import Feeds, batches, pack, padded
from mmray.bundle import Bundle
from mmray.engine import Engine
from mmray.errors import InputError
from mmray.predictor import open_preprocessor
from mmray.preprocess import Preprocessor
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import TENSOR_OF, Modality, meta_fields
from mmray.shapes import Shaper, job_ladder
from mmray.sources import ReadOptions, Shard, list_shards, read

_READ_ROWS = 16  # a block; few, because often only a shard's first rows are wanted
_ANCHORS, _TEMPERATURE = 64, 0.1  # of the decisions of a model without labels


class Runs(Protocol):
    """What answers as a loaded graph does."""

    wants_padding: bool

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

    @cached_property
    def addresses(self) -> set[tuple[str, int]]:
        """(shard, row) of each record."""
        return addresses(self.tensors)

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
    """What a graph gave for N rows: K records, each with subsets of the modalities that it has."""

    scores: npt.NDArray[np.float32]  # [N, C]; of a model without labels, of being most like each of C anchors
    present: npt.NDArray[np.bool_]  # [N, M]
    whole: npt.NDArray[np.bool_]  # [N], true on a record as it is, false on one with fewer modalities
    labels: npt.NDArray[np.intp]  # [N], class of each row; -1 where it is not known
    groups: npt.NDArray[np.str_]  # [N]
    modalities: tuple[str, ...]  # names of the M
    classes: tuple[str, ...]  # names of the C; none of a model without labels


def labelled_tensors(
    inputs: Sequence[str], bundle: Bundle, *, rows: int, without: Literal["train", "test"]
) -> LabelledTensors:
    """Read and preprocess records, an equal share from the beginning of each shard.

    Args:
        inputs: shards, as `mmray.sources.list_shards` takes them.
        bundle: whose preprocessing and labels.
        rows: how many at most.
        without: records whose JSON member states this split are left out.

    Raises:
        InputError: there are no shards, or none of their records is usable.
    """
    tables = list(usable_tensors(inputs, bundle, rows=rows, without=without))
    tensors = pa.concat_tables(tables) if tables else None
    if not tensors:
        raise InputError(f"{' '.join(inputs)}: no usable record there whose split is not {without!r}")
    metas = [meta_fields(value) for value in tensors["meta"].to_pylist()]
    index = {label: i for i, label in enumerate(bundle.labels)}
    addresses = zip(tensors["shard"].to_pylist(), tensors["row"].to_pylist(), strict=True)
    groups = [
        str(meta.get("caption_group", f"{shard}#{row}"))
        for meta, (shard, row) in zip(metas, addresses, strict=True)
    ]
    return LabelledTensors(
        tensors,
        labels=np.array([index.get(str(meta.get("label")), -1) for meta in metas], np.intp),
        groups=np.array(groups, np.str_),
        spec=bundle.spec,
        classes=tuple(bundle.labels),
    )


def addresses(tensors: pa.Table) -> set[tuple[str, int]]:
    """(shard, row) of each row of TENSORS."""
    return set(zip(tensors["shard"].to_pylist(), tensors["row"].to_pylist(), strict=True))


def usable_tensors(
    inputs: Sequence[str], bundle: Bundle, *, rows: int, without: Literal["train", "test"]
) -> Iterator[pa.Table]:
    """TENSORS of the same records, without errors, a few rows at a time, read as they are asked for."""
    shards = list_shards(inputs)
    preprocess = open_preprocessor(bundle)
    share = math.ceil(rows / len(shards))
    for shard in shards:
        for tensors in _first(shard, preprocess, min(share, rows), without):
            rows -= tensors.num_rows
            yield tensors


def run_outputs(
    engine: Engine | Runs, records: LabelledTensors, *, batch_rows: int, largest: int | None = None
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
    work = list(_masked_batches(records, has, batch_rows, largest or has.shape[1]))

    decisive = "scores" if records.classes else "features"

    # A device sees one shape, whatever a record lacks.
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
    """Decisions of a model that has no labels: which of a few other records is most like this one.

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


def _only(tensors: pa.Table, subset: tuple[Modality, ...]) -> pa.Table:
    """The same rows, with null in the place of all other modalities."""
    for modality, name in TENSOR_OF.items():
        if modality not in subset:
            blank = pa.nulls(tensors.num_rows, tensors.schema.field(name).type)
            tensors = tensors.set_column(tensors.column_names.index(name), name, blank)
    return tensors


def _first(shard: Shard, preprocess: Preprocessor, rows: int, without: str) -> Iterator[pa.Table]:
    """TENSORS of the first usable records of a shard."""
    for block in read(shard, ReadOptions(block_rows=_READ_ROWS)):
        kept = [meta_fields(value).get("split") != without for value in block["meta"].to_pylist()]
        tensors = preprocess(block.filter(pa.array(kept, pa.bool_())))
        good = tensors.filter(pc.is_null(tensors["error"])).slice(0, rows)
        rows -= good.num_rows
        yield good
        if not rows:
            return
