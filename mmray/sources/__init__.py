"""Sources of records: shards of any format, on disks and object stores → Arrow blocks of RECORDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.sources.formats import Format
from mmray.sources.listing import Listing, list_shards, take_listing
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.sources.shards import Shard
from mmray.sources.unchanged import changes, while_unchanged

__all__ = [
    "EXTENSIONS",
    "Format",
    "Listing",
    "ReadOptions",
    "Shard",
    "changes",
    "list_shards",
    "read",
    "take_listing",
]

Reader = Callable[[Shard, ReadOptions, Sequence[Missing]], Iterator[pa.Table]]

#: The reader of each format, imported when the first shard of that format is read.
_READERS: dict[Format, str] = {
    "webdataset": "mmray.sources.webdataset:read_webdataset",
    "lmdb": "mmray.sources.lmdb:read_lmdb",
    "tfrecord": "mmray.sources.tfrecord:read_tfrecord",
    "parquet": "mmray.sources.parquet:read_parquet",
    "arrow": "mmray.sources.arrow:read_arrow",
    "csv": "mmray.sources.manifest:read_manifest",
    "jsonl": "mmray.sources.manifest:read_manifest",
    "folder": "mmray.sources.folder:read_folder",
}


def read(shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)) -> Iterator[pa.Table]:
    """Yield the wanted rows of a shard as tables of RECORDS, in order, in bounded memory.

    Other rows are skipped without reading their payload. `wanted` is sorted and does not overlap; each gap's
    `start` is the address of its first row, so that the reader can seek there.

    Raises:
        ChangedError: an OSError: the shard has changed since it was listed.
        OSError: the shard cannot be opened or read; anything wrong *inside* it is a row with an error.
    """
    module, _, name = _READERS[shard.format].partition(":")
    reader: Reader = getattr(import_module(module), name)
    return while_unchanged(shard, reader(shard, options, wanted), wanted)
