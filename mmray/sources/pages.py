"""The header of an LMDB, and the pages of its tree, read before LMDB maps them: damage would end the process.

What is wrong with them is an OSError here. Entries within a page, and the pages of large values, are trusted
as LMDB itself trusts them. The layouts are those of its mdb.c, versions 0.9 and 1.0.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

_DATA = "data.mdb"  # in an environment that is a directory
_MAGIC = 0xBEEFC0DE
_PAGE_BYTES = tuple(1 << power for power in range(8, 17))
_HEAD_BYTES = (16, 24)  # of the head of a page, of LMDB 0.9 and 1.0
#: MDB_meta: magic number; page bytes; the main database's flags, entries, root; last page, transaction.
_META = struct.Struct("=I20xI44x4xH26xQQQQ")
#: The end of a page's head: flags, where its free space begins, where that ends.
_HEAD_END = struct.Struct("=HHH")
_NUMBER = struct.Struct("=Q")  # of the page itself, at its beginning
#: The beginning of a node: in a branch, the number of a page in three parts; in a leaf, a value's size in two
#: and flags. Then bytes of its key; key and value follow, or the number of a large value's first page.
_NODE = struct.Struct("=HHHH")
_LARGE = 0x01
_BRANCH, _LEAF = 0x01, 0x02
_FLAGS = 0x7FFF  # of a database: keys that are reversed or integers, duplicates
_NO_ROOT = (1 << 64) - 1  # of an empty tree


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


def check_pages(path: str, header: Header) -> None:
    """Follow the tree from its root to its leaves.

    A sound file may be shorter than its header says, by free pages at its end. Where one is, large values are
    followed too.

    Raises:
        OSError: the file breaks off, a page of the tree is damaged, or keys are not in byte order.
    """
    if header.flags & _FLAGS:
        raise OSError(f"{path}: keys are reversed, integers or repeated; rewrite it with plain keys")
    with data_file(path).open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        short = size < (header.last_page + 1) * header.page_bytes
        level = [] if header.root == _NO_ROOT else [header.root]
        seen = 0
        while level:
            below: list[int] = []
            for number in level:
                start, stop = number * header.page_bytes, (number + 1) * header.page_bytes
                if stop > size and number <= header.last_page:
                    raise OSError(f"{path}: breaks off: page {number} is not in the file; copy it again")
                seen += 1
                page = _Page(header, _read(file, start, header.page_bytes)) if stop <= size else None
                if page is None or not page.is_sound(number) or seen * header.page_bytes > size:
                    raise OSError(f"{path}: damaged: page {number} is none of its tree; copy it again")
                if page.flags == _BRANCH:
                    below += page.children()
                elif short and page.values_end() * header.page_bytes > size:
                    raise OSError(
                        f"{path}: breaks off: values of page {number} are not in the file; copy it again"
                    )
            level = below


class _Page:
    """A page of the tree."""

    def __init__(self, header: Header, data: bytes) -> None:
        self._header = header
        self._data = data
        # Since LMDB 1.0 positions in a page are counted from behind its head.
        self._base = header.head_bytes if header.head_bytes > _HEAD_BYTES[0] else 0
        (self._number,) = _NUMBER.unpack_from(data)
        self.flags, self._low, self._high = _HEAD_END.unpack_from(data, header.head_bytes - _HEAD_END.size)
        self._nodes: tuple[int, ...] = ()  # where they begin, once they are found sound

    def is_sound(self, number: int) -> bool:
        """Whether it is the page of this number, and has nodes, and has them within itself."""
        end = self._header.page_bytes - self._base
        if self._number != number or self.flags not in (_BRANCH, _LEAF) or not self._low <= self._high <= end:
            return False
        count, odd = divmod(self._base + self._low - self._header.head_bytes, 2)
        if odd or count < 1:
            return False
        self._nodes = struct.unpack_from(f"={count}H", self._data, self._header.head_bytes)
        return self._high <= min(self._nodes) and max(self._nodes) <= end - _NODE.size

    def children(self) -> list[int]:
        """Numbers of the pages below a branch."""
        nodes = (_NODE.unpack_from(self._data, self._base + node) for node in self._nodes)
        return [low | high << 16 | flags << 32 for low, high, flags, _ in nodes]

    def values_end(self) -> int:
        """Number of the page just past the last of those that hold large values of a leaf."""
        end = 0
        for node in self._nodes:
            low, high, flags, key_bytes = _NODE.unpack_from(self._data, self._base + node)
            at = self._base + node + _NODE.size + key_bytes
            if flags & _LARGE and at + _NUMBER.size <= len(self._data):
                (number,) = _NUMBER.unpack_from(self._data, at)
                held = self._header.head_bytes + (low | high << 16)
                end = max(end, number - (-held // self._header.page_bytes))
        return end
