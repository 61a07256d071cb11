"""A cache of the footers of a run's parts in one file, so that not every part must be opened again.

The footers themselves are authoritative. An entry is valid for the part of its name while size and time are
the same as when its footer was read. A torn or altered cache is ignored; it may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mmray.pipeline.rundir import RunDirectory
from mmray.remote import StoreError

_SCHEMA = pa.schema(
    [("name", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("footer", pa.binary())]
)
_ROWS = 10_000  # rows of a row group: so many footers are in memory twice
_LEAST = 1_000  # parts that were opened, and
_SHARE = 0.5  # their share of those that were not opened: else the file would be written too often


def pays(opened: int, known: int) -> bool:
    """Whether to rewrite the file, given how many parts were opened and how many were not."""
    return opened >= max(_LEAST, _SHARE * known)


def kept(out: RunDirectory, parts: Mapping[str, pafs.FileInfo]) -> Iterator[tuple[str, bytes]]:
    """Names and footers of the parts for which the file has a valid entry.

    Raises:
        StoreError: a store does not answer.
    """
    try:
        with out.footers.open_input() as file, pq.ParquetFile(file, page_checksum_verification=True) as known:
            for batch in known.iter_batches(_ROWS):
                for name, size, mtime_ns, footer in zip(*map(pa.Array.to_pylist, batch.columns), strict=True):
                    there = parts.get(name)
                    if there and (there.size, there.mtime_ns) == (size, mtime_ns):
                        yield name, footer
    except StoreError:
        raise
    except (OSError, pa.ArrowException, TypeError, ValueError):  # missing, or not as it was written
        return


def keep(out: RunDirectory, footers: Iterable[tuple[pafs.FileInfo, bytes]]) -> None:
    """Write the file.

    Args:
        out: the run directory.
        footers: of parts, with their listing from before they were read.

    Raises:
        RunError: another run has taken the directory over.
    """
    sink, left = pa.BufferOutputStream(), iter(footers)
    with pq.ParquetWriter(sink, _SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        while some := list(islice(left, _ROWS)):
            columns = zip(*((f.base_name, f.size, f.mtime_ns, footer) for f, footer in some), strict=True)
            writer.write_table(pa.table([list(column) for column in columns], schema=_SCHEMA))
    out.check_lease()
    out.footers.write_atomically(sink.getvalue())
