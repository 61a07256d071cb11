"""Preprocessed shards on disk: read by the job's own reader, kept as Arrow files, memory-mapped.

One file for each shard, so that an interrupted call resumes where it stopped. The folder's name is the digest
of shards and preprocessing, so another training with the same inputs reuses the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from mmray.batching import Feeds, pack
from mmray.digests import sha256_of
from mmray.errors import InputError
from mmray.evaluation import SPLITS, Assigned, assign, group_of
from mmray.models.threads import map_in_order
from mmray.preprocess import Preprocessor
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import TENSOR_OF, Modality, meta_fields
from mmray.sources import ReadOptions, Shard, read

_BLOCK_ROWS = 64
_QUIET_S = 10.0
_OWN = pa.schema(
    [("row", pa.int64()), ("label", pa.string()), ("group", pa.string()), ("split", pa.string())]
)


@dataclass(frozen=True)
class Prepared:
    """N labelled records as tensors, on disk."""

    blocks: tuple[pa.RecordBatch, ...]  # memory-mapped files: columns of TENSORS, and label, group, split
    at: npt.NDArray[np.int64]  # [N, 2]: block, and row in it
    places: npt.NDArray[np.int64]  # [N, 2]: number of the shard, and row in it
    labels: npt.NDArray[np.str_]  # [N]
    groups: npt.NDArray[np.str_]  # [N]
    splits: npt.NDArray[np.str_]  # [N], of `mmray.evaluation.splits.SPLITS`, or empty
    spec: PreprocessSpec
    rule: str  # by which the splits were assigned
    source: str  # changes with the shards and their preprocessing

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def identity(self) -> str:
        """Changes with the records, their order and their preprocessing."""
        return hashlib.sha256(self.source.encode() + self.places.tobytes()).hexdigest()[:16]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which of the spec's modalities each record has, bool [N, M]."""
        columns = []
        for modality in self.spec.modalities:
            name = TENSOR_OF[modality]
            valid = [pc.is_valid(block[name]).to_numpy(zero_copy_only=False) for block in self.blocks]
            columns.append(np.array([valid[block][row] for block, row in self.at], np.bool_))
        return np.stack(columns, axis=1)

    def counts(self) -> dict[str, Any]:
        """For the scorecard: the rule of the splits, their records and groups."""
        return Assigned(self.splits, self.rule).counts(self.groups)

    def take(self, rows: npt.NDArray[Any]) -> Prepared:
        """Those records, by index or by mask."""
        return replace(
            self,
            at=self.at[rows],
            places=self.places[rows],
            labels=self.labels[rows],
            groups=self.groups[rows],
            splits=self.splits[rows],
        )

    def only(self, modality: Modality) -> Prepared:
        """The same records with one modality only."""
        others: dict[str, None] = {m: None for m in self.spec.modalities if m != modality}
        return replace(self, spec=self.spec.model_copy(update=others))

    def of(self, split: str) -> npt.NDArray[np.intp]:
        """Indices of a split's records.

        Raises:
            InputError: there is none.
        """
        rows = np.flatnonzero(self.splits == split)
        if not len(rows):
            raise InputError(
                f'no usable record of the split {split!r}; add its shards, or state no "split" in any '
                "JSON member: then each record is assigned by the hash of its group"
            )
        return rows

    def tensors(self, rows: npt.NDArray[np.intp]) -> pa.Table:
        """Their TENSORS columns, in the order of `rows`; only these rows are read."""
        at = self.at[rows]
        order = np.argsort(at[:, 0], kind="stable")
        sorted_at = at[order]
        parts = []
        for block in np.unique(sorted_at[:, 0]):
            inside = sorted_at[sorted_at[:, 0] == block, 1]
            parts.append(pa.table(self.blocks[block].take(pa.array(inside))))
        back = np.argsort(order, kind="stable")
        return pa.concat_tables(parts).combine_chunks().take(pa.array(back))

    def feeds(self, rows: npt.NDArray[np.intp]) -> Feeds:
        """One batch of them, as `mmray.batching.pack` makes it."""
        return pack(self.tensors(rows), self.spec)


def prepare(
    shards: Sequence[Shard],
    spec: PreprocessSpec,
    tokenizer: Path | None,
    folder: Path,
    *,
    least_records: int,
    say: Callable[[str], None],
) -> Prepared:
    """Preprocess every labelled record once; files of an earlier call in `folder` are reused.

    Args:
        shards: where the records are.
        spec: what the model takes.
        tokenizer: tokenizer.json, where the spec has text.
        folder: for the Arrow files, uncompressed: about 0.2 MB a record of 224 pixels.
        least_records: labels that fewer records have are left out.
        say: gets progress messages.

    Raises:
        InputError: no record carries a label.
    """
    place = folder / _digest(shards, spec, tokenizer)
    place.mkdir(parents=True, exist_ok=True)
    preprocess = Preprocessor(spec, tokenizer)
    columns = [TENSOR_OF[m] for m in spec.modalities]
    files = []
    said = monotonic()
    with FileLock(place.with_suffix(".lock")):  # several trainings may start at once
        for number, shard in enumerate(shards):
            file = place / f"shard-{number:05d}.arrow"
            if not file.exists():
                _write(file, _labelled(shard, preprocess, columns))
                if monotonic() - said > _QUIET_S or number + 1 == len(shards):
                    said = monotonic()
                    say(f"preprocessed {number + 1} of {len(shards)} shards")
            files.append(file)
    numbered = [(number, batch) for number, file in enumerate(files) for batch in _mapped(file)]
    blocks = tuple(batch for _, batch in numbered)
    own = pa.Table.from_batches([batch.select(_OWN.names) for batch in blocks], _OWN) if blocks else None
    if not own or not own.num_rows:
        raise InputError(
            f"{shards[0].url}: none of {len(shards)} shards has a usable record with a `label` in its JSON "
            "member; training needs one"
        )
    groups = own["group"].to_pylist()
    assigned = assign(own["split"].to_pylist(), groups)
    at = [(number, row) for number, batch in enumerate(blocks) for row in range(batch.num_rows)]
    shard_of = np.repeat([number for number, _ in numbered], [batch.num_rows for batch in blocks])
    found = Prepared(
        blocks,
        np.array(at, np.int64),
        np.stack([shard_of, own["row"].to_numpy()], axis=1),
        np.array(own["label"].to_pylist(), np.str_),
        np.array(groups, np.str_),
        assigned.of,
        spec,
        assigned.rule,
        place.name,
    )
    names, counts = np.unique(found.labels, return_counts=True)
    kept = np.isin(found.labels, names[counts >= least_records]) & np.isin(found.splits, SPLITS)
    return found.take(kept)


def _labelled(shard: Shard, preprocess: Preprocessor, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Blocks of a shard's usable records with a label."""
    blocks = read(shard, ReadOptions(block_rows=_BLOCK_ROWS))
    for tensors in map_in_order(preprocess, blocks):
        good = tensors.filter(pc.is_null(tensors["error"]))
        metas = [meta_fields(value) for value in good["meta"].to_pylist()]
        rows = good["row"].to_pylist()
        own = pa.Table.from_pylist(
            [
                {
                    "row": row,
                    "label": str(meta["label"]) if "label" in meta else None,
                    "group": group_of(meta, shard.id, row),
                    "split": str(meta["split"]) if "split" in meta else None,
                }
                for meta, row in zip(metas, rows, strict=True)
            ],
            schema=_OWN,
        )
        for name in columns:
            own = own.append_column(name, good[name])
        yield from own.filter(pc.is_valid(own["label"])).combine_chunks().to_batches()


def _write(file: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a file atomically."""
    partial = file.with_suffix(".partial")
    writer = None
    with pa.OSFile(str(partial), "wb") as sink:
        for batch in batches:
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_batch(batch)
        if writer is None:  # a shard without a labelled record
            writer = pa.ipc.new_file(sink, _OWN)
        writer.close()
    partial.replace(file)


def _mapped(file: Path) -> Iterator[pa.RecordBatch]:
    """Blocks of a memory-mapped file."""
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    return (reader.get_batch(i) for i in range(reader.num_record_batches))


def _digest(shards: Sequence[Shard], spec: PreprocessSpec, tokenizer: Path | None) -> str:
    parts = [spec.digest(), sha256_of(tokenizer) if tokenizer else ""]
    for shard in shards:
        parts.append(f"{shard.id} {shard.state.to_text() if shard.state else ''}")
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
