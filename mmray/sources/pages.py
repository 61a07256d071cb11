"""The header of an LMDB: the two meta pages at its beginning, as LMDB's mdb.c lays them out, 0.9 and 1.0."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from mmap import mmap
from pathlib import Path

_DATA = "data.mdb"  # in an environment that is a directory
_MAGIC = 0xBEEFC0DE
_PAGE_BYTES = tuple(1 << power for power in range(8, 17))
_HEAD_BYTES = (16, 24)  # of the head of a page, of LMDB 0.9 and 1.0
#: MDB_meta: magic number; page bytes; the main database's flags, entries, root; last page, transaction.
_META = struct.Struct("=I20xI44x4xH26xQQQQ")


@dataclass(frozen=True)
class Header:
    """What the newer of the two meta pages says."""

    head_bytes: int  # of the head of a page
    page_bytes: int
    flags: int  # of the main database; 0: keys in byte order, each once
    entries: int
    root: int  # number of the page that the tree begins with
    last_page: int
    transaction: int  # the last that was committed


def data_file(path: str) -> Path:
    """The file that holds the pages of an environment, given its directory or that file."""
    place = Path(path)
    return place / _DATA if place.is_dir() else place


def read_header(path: str) -> Header:
    """Read the header of an environment.

    Raises:
        OSError: it cannot be read, is damaged, or is not an LMDB of a 64-bit machine of this byte order.
    """
    with data_file(path).open("rb", buffering=0) as file:
        for head_bytes in _HEAD_BYTES:
            metas = list(_metas(file, head_bytes))
            if metas and metas[0].page_bytes not in _PAGE_BYTES:
                raise OSError(f"{path}: damaged: pages of {metas[0].page_bytes} bytes; copy it again")
            if len(metas) == 2:
                return max(metas, key=lambda meta: meta.transaction)
            if metas:
                raise OSError(f"{path}: breaks off within its header; copy it again")
    raise OSError(f"{path}: not an LMDB of this kind of machine: no magic number in its first page")


def latest_transaction(data: mmap, header: Header) -> int:
    """The last that was committed to a mapped environment: not the header's, where a writer is at work."""
    places = header.head_bytes, header.page_bytes + header.head_bytes
    return max(Header(header.head_bytes, *_META.unpack_from(data, at)[1:]).transaction for at in places)


def _metas(file: FileIO, head_bytes: int) -> Iterator[Header]:
    """The meta pages: none where the file has other heads, one where it breaks off."""
    at = head_bytes
    for _ in range(2):
        data = _read(file, at, _META.size)
        if len(data) < _META.size or _META.unpack(data)[0] != _MAGIC:
            return
        header = Header(head_bytes, *_META.unpack(data)[1:])
        at = header.page_bytes + head_bytes
        yield header


def _read(file: FileIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
