"""Indexes: where every few records of a shard begin, so that several tasks can share one large shard.

An index is a small file next to its shard (`mmray index` writes it). Formats with fast addressing need none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmray.coverage import Missing
from mmray.errors import InputError, ShardError, of_machine
from mmray.sources import ReadOptions, Shard, read
from mmray.sources.expand import INDEX_SUFFIX
from mmray.sources.folder import count_rows
from mmray.sources.manifest import starts
from mmray.sources.parquet import read_integers
from mmray.storage import Location

_STRIDE = 64  # rows between anchors: 16 bytes each, so 250 kB for a million records
_MAX_ANCHORS = 4 << 20  # rows between anchors for a quarter of a billion rows
_MAX_BYTES = 128 << 20  # bytes of an index: twice those of so many anchors, uncompressed
_BLOCK_ROWS = 4096  # rows of a block of addresses, which are small
_METADATA = b"mmray"
_QUICK = ("csv", "jsonl", "folder")  # formats whose rows are found without reading the files that they name


@dataclass(frozen=True)
class Index:
    """Anchors into one shard."""

    shard_id: str
    rows: int  # of the whole shard
    anchors: npt.NDArray[np.int64]  # [A, 2]: row, and the offset where it begins; both increase
    digest: str = ""  # of the shard's head and tail; "": not known

    def cut(self, gap: Missing, rows: Callable[[], int]) -> Iterator[Missing]:
        """Cut a gap at anchors.

        The last piece ends where the gap does, so that its reader still sees the end of the shard.

        Args:
            gap: to cut.
            rows: gives the approximate number of rows of the next piece.
        """
        last = self.rows - 1 if gap.last is None else gap.last
        first, start = gap.first, gap.start
        while True:
            following = int(np.searchsorted(self.anchors[:, 0], first + max(1, rows())))
            if following == len(self.anchors) or self.anchors[following, 0] > last:
                break
            after, there = map(int, self.anchors[following])
            yield Missing(first, after - 1, start)
            first, start = after, there
        yield Missing(first, gap.last, start)

    def write(self, shard: Shard) -> Location:
        """Write the index next to its shard."""
        table = pa.table({"row": self.anchors[:, 0], "offset": self.anchors[:, 1]})
        about = json.dumps({"shard": self.shard_id, "rows": self.rows, "digest": self.digest}).encode()
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({_METADATA: about}), sink, compression="zstd")
        place = shard.open().beside(INDEX_SUFFIX)
        place.write_atomically(sink.getvalue())
        return place

    @classmethod
    def load(cls, shard: Shard) -> Index:
        """Read the index of a shard.

        Raises:
            InputError: it is unreadable, or was made for an earlier content of the shard.
        """
        place = shard.open().beside(INDEX_SUFFIX)
        remedy = "run `mmray index` again, or delete it"
        if (size := place.info().size or 0) > _MAX_BYTES:
            raise InputError(f"{place}: {size} bytes, more than any index of mmray; {remedy}")
        data = place.read_bytes()
        try:
            metadata, columns = read_integers(data, ("row", "offset"), _MAX_ANCHORS)
            about = json.loads(metadata[_METADATA])
            anchors = np.stack(columns, axis=1)
            shard_id, rows, digest = str(about["shard"]), int(about["rows"]), str(about.get("digest", ""))
            if not (np.diff(anchors, axis=0, prepend=-1) > 0).all():
                raise ValueError("its anchors do not increase")
        except Exception as e:  # whatever pyarrow and json make of foreign bytes
            if of_machine(e):
                raise
            raise InputError(f"{place}: not an index of mmray: {e} ({type(e).__name__}); {remedy}") from e
        if shard_id.rpartition("@")[2] != shard.id.rpartition("@")[2]:
            raise InputError(f"{place}: was made for {shard_id}, but the shard is now {shard.id}; {remedy}")
        if digest and digest != (_digest(shard) or digest):
            raise InputError(f"{place}: was made for an earlier content of {shard_id}; {remedy}")
        return cls(shard.id, rows, anchors, digest)


def build_index(shard: Shard, options: ReadOptions) -> Index:
    """Scan a shard for the addresses of its records; payload is skipped.

    Raises:
        InputError: the shard cannot be read from its middle: compressed, or with scattered members.
        OSError: it cannot be read at all.
    """
    if shard.compressed:
        raise InputError(f"{shard.url}: is compressed, so it can only be read from its beginning; unpack it")
    rows, offsets = 0, []
    for block in read(shard, replace(options, interleaved="strict", payload=False, block_rows=_BLOCK_ROWS)):
        kinds = pc.struct_field(block["error"].combine_chunks(), "type")
        if pc.any(pc.equal(kinds, "interleaved-members")).as_py():
            raise InputError(
                f"{shard.url}: members of records are not neighbours, so it can only be read from the start; "
                "rewrite it, for example with `mmray convert` to LMDB and back"
            )
        offsets.append(block["offset"].to_numpy())
        rows += block.num_rows
    ordinals = np.arange(0, rows, _STRIDE)
    every = np.concatenate(offsets)[ordinals] if rows else ordinals
    return Index(shard.id, rows, np.stack([ordinals, every], axis=1), _digest(shard))


def _digest(shard: Shard) -> str:
    return shard.state.digest if shard.state else ""


def index_of(shard: Shard, options: ReadOptions) -> Index | None:
    """The index to split a shard with: the one next to it, or one made now if that is fast.

    Raises:
        InputError: its index is unusable.
    """
    if options.interleaved == "regroup" and shard.format == "webdataset":
        return None
    if shard.indexed and options.database is None:  # an index of an LMDB is of its main database
        return Index.load(shard)
    if shard.format in _QUICK:
        with suppress(OSError, ShardError):
            return _of_some_rows(_quick_index(shard, options))
        return None
    if shard.format != "lmdb":  # whose addresses cost little compared with reading it
        return None
    with suppress(OSError):  # reported when the shard is read
        return _of_some_rows(build_index(shard, options))
    return None


def _of_some_rows(index: Index) -> Index | None:
    """An index without anchors, which splits nothing."""
    return index if index.rows else None


def _quick_index(shard: Shard, options: ReadOptions) -> Index:
    """An index of a manifest or a folder, whose rows are found without reading their files."""
    if shard.format == "folder":
        rows = count_rows(shard, options)
        every = np.arange(0, rows, _STRIDE)
        return Index(shard.id, rows, np.stack([every, every], axis=1))
    offsets = np.fromiter(starts(shard), np.int64)
    every = np.arange(0, len(offsets), _STRIDE)
    return Index(shard.id, len(offsets), np.stack([every, offsets[every]], axis=1))


def write_index(shard: Shard) -> Index:
    """Make the index of a shard and write it next to the shard; a valid index is kept.

    Raises:
        InputError, OSError: as `build_index`.
    """
    if shard.format in _QUICK:  # these formats need none
        try:
            return _quick_index(shard, ReadOptions())
        except ShardError as e:
            raise InputError(f"{shard.url}: {e.reason}") from e
    if shard.indexed:
        with suppress(InputError):  # of an earlier content of the shard
            return Index.load(shard)
    index = build_index(shard, ReadOptions())
    index.write(shard)
    return index
