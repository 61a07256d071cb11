"""The records that variants are made, chosen and judged with: assigned to splits, read when needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.batching import Feeds, batches, pack
from mmray.bundle import Bundle
from mmray.coverage import Missing
from mmray.errors import InputError
from mmray.evaluation.outputs import LabelledTensors
from mmray.evaluation.splits import Assigned, Split, assign, group_of
from mmray.predictor import open_preprocessor
from mmray.schema import meta_fields
from mmray.sources import ReadOptions, list_shards, read

_SCANNED_ROWS = 64  # rows of a block while splits are assigned
_READ_ROWS = 16  # rows of a block while preprocessing
_CALIBRATION_ROWS = 16  # records of one inference while ranges are collected


class Records:
    """Records of some shards by split. JSON members are read at once, the rest when a split is used.

    Args:
        inputs: shards, as `mmray.sources.list_shards` takes them.
        bundle: whose preprocessing and labels.
        rows: of each split at most, spread evenly over its records.

    Raises:
        InputError: there are no shards.
    """

    def __init__(self, inputs: Sequence[str], bundle: Bundle, rows: Mapping[Split, int]) -> None:
        self._bundle, self._rows = bundle, rows
        self._shards = list_shards(list(inputs))
        self._name = " ".join(inputs)
        numbers: list[int] = []  # of the shard, and the row in it
        places: list[int] = []
        offsets: list[int] = []
        metas = []
        for number, shard in enumerate(self._shards):
            for block in read(shard, ReadOptions(block_rows=_SCANNED_ROWS)):
                good = block.filter(pc.is_null(block["error"])).select(["row", "offset", "meta"])
                places += good["row"].to_pylist()
                offsets += good["offset"].to_pylist()
                metas += [_known(value) for value in good["meta"].to_pylist()]
                numbers += [number] * good.num_rows
        self._numbers, self._places = np.array(numbers, np.int64), np.array(places, np.int64)
        self._offsets, self._metas = offsets, metas
        self._groups = np.array(
            [
                group_of(meta, self._shards[number].id, row)
                for meta, number, row in zip(metas, numbers, places, strict=True)
            ],
            np.str_,
        )
        self._assigned: Assigned = assign([meta.get("split") for meta in metas], self._groups.tolist())

    @property
    def splits(self) -> dict[str, object]:
        """For the scorecard: the rule, and how many records and groups each split has."""
        return self._assigned.counts(self._groups)

    def identity(self, split: Split) -> str:
        """Changes with the records that are used for a split: sha256 of where they lie, hex."""
        chosen = np.flatnonzero(self._chosen(split))
        places = (f"{self._shards[self._numbers[i]].id}#{self._places[i]}\n" for i in chosen)
        return hashlib.sha256("".join(places).encode("utf-8", "surrogatepass")).hexdigest()

    def load(self, split: Split) -> LabelledTensors:
        """The usable records of a split.

        Raises:
            InputError: there is none.
        """
        tables = list(self.tensors(split))
        if not tables:
            raise self.none_of(split)
        return self._labelled(pa.concat_tables(tables))

    def parts(self, split: Split, rows: int) -> Iterator[LabelledTensors]:
        """The usable records of a split, at most `rows`, read and returned a few at a time."""
        yield from map(self._labelled, self.tensors(split, rows))

    def _labelled(self, tensors: pa.Table) -> LabelledTensors:
        index = {label: i for i, label in enumerate(self._bundle.labels)}
        addresses = zip(tensors["shard"].to_pylist(), tensors["row"].to_pylist(), strict=True)
        rows = [self._at[address] for address in addresses]
        return LabelledTensors(
            tensors,
            labels=np.array([index.get(str(self._metas[i].get("label")), -1) for i in rows], np.intp),
            groups=self._groups[rows],
            spec=self._bundle.spec,
            classes=tuple(self._bundle.labels),
        )

    @cached_property
    def _at(self) -> dict[tuple[str, int], int]:
        """Index of each record by its position."""
        return {
            (self._shards[number].id, place): i
            for i, (number, place) in enumerate(
                zip(self._numbers.tolist(), self._places.tolist(), strict=True)
            )
        }

    def tensors(self, split: Split, rows: int | None = None) -> Iterator[pa.Table]:
        """TENSORS of a split's records without errors, read and returned a few rows at a time.

        Args:
            split: of the records.
            rows: at most; None: as many as are used for the split.
        """
        preprocess = open_preprocessor(self._bundle)
        options = ReadOptions(block_rows=_READ_ROWS)
        chosen = self._chosen(split, rows)
        for number, shard in enumerate(self._shards):
            if wanted := self._wanted(np.flatnonzero(chosen & (self._numbers == number))):
                for block in read(shard, options, wanted):
                    tensors = preprocess(block)
                    good = tensors.filter(pc.is_null(tensors["error"]))
                    if good.num_rows:
                        yield good

    def feeds(self, split: Split, batch_rows: int = _CALIBRATION_ROWS) -> Iterator[Feeds]:
        """Batches of the same records, for calibration: they need not fit in memory."""
        for tensors in self.tensors(split):
            for rows in batches(tensors, batch_rows):
                yield pack(tensors.take(rows), self._bundle.spec)

    def none_of(self, split: Split) -> InputError:
        """The error for a split without a usable record."""
        return InputError(
            f"{self._name}: no usable record of the split {split!r}; add its shards, or state "
            'no "split" in any JSON member: then each record is assigned by the hash of its group'
        )

    def _wanted(self, records: npt.NDArray[np.intp]) -> list[Missing]:
        """Records of one shard as runs of consecutive rows."""
        if not len(records):
            return []
        rows = self._places[records]
        runs = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > 1) + 1)
        return [Missing(int(rows[r[0]]), int(rows[r[-1]]), self._offsets[records[r[0]]]) for r in runs]

    def _chosen(self, split: Split, most: int | None = None) -> npt.NDArray[np.bool_]:
        """Which of all records are used for a split."""
        most = most or self._rows[split]
        rows = np.flatnonzero(self._assigned.of == split)
        if len(rows) > most:
            rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(np.intp))]
        chosen = np.zeros(len(self._numbers), np.bool_)
        chosen[rows] = True
        return chosen


def _known(meta: bytes | None) -> dict[str, object]:
    """What splits and labels need of a JSON member."""
    return {k: v for k, v in meta_fields(meta).items() if k in ("split", "caption_group", "label")}
