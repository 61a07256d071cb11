"""The tree of an LMDB, read in its mapped file: where keys and values lie, many at a time.

No value is touched. Every number in a page is checked before it is used as a place, so that damage is an
OSError and never a read outside of the file. The layouts are those of LMDB's mdb.c, versions 0.9 and 1.0.
A file that is cut short while it is mapped ends the process that touches what is gone, as with LMDB itself.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from mmray.sources.pages import Header, data_file

Ints = npt.NDArray[np.int64]

_HEAD_END_BYTES = 6  # at the end of a page's head: flags, where its free space begins, where that ends
_BRANCH, _LEAF = 0x01, 0x02
#: The head of a node, four numbers of two bytes: in a branch, that of a page in three parts; in a leaf, the
#: value's size in two, and flags. Then bytes of its key; key and value follow, or a large value's first page.
_NODE_BYTES = 8
_LARGE = 0x01
_NUMBER_BYTES = 8  # of a page's number: at its beginning, and in the node of a large value
_LAST_PAGE_BITS = 48  # no machine maps more
_CHUNK_PAGES = 1024  # whose nodes are looked at together
_NO_ROOT = (1 << 64) - 1  # of an empty tree
_KEYS = 0x7FFF  # flags of a database: keys that are reversed or integers, duplicates


@dataclass(frozen=True)
class Places:
    """Where keys and values of consecutive entries begin in the file, and how many bytes they have."""

    key: Ints
    key_bytes: Ints
    value: Ints
    value_bytes: Ints

    def part(self, low: int, high: int) -> Places:
        """Those of the entries from one to before another."""
        return Places(
            self.key[low:high], self.key_bytes[low:high], self.value[low:high], self.value_bytes[low:high]
        )


class Tree:
    """The leaves of an environment, found from its root; 16 bytes of memory for each.

    A sound file may be shorter than its header says, by free pages at its end. Where one is, all entries are
    looked at when it is opened; else nodes are first checked when they are read.

    Raises:
        OSError: the file breaks off, a page of the tree is damaged, or keys are not in byte order.
    """

    def __init__(self, path: str, header: Header) -> None:
        self._path = path
        self._header = header
        if header.flags & _KEYS:
            raise OSError(f"{path}: keys are reversed, integers or repeated; rewrite it with plain keys")
        with data_file(path).open("rb", buffering=0) as file:
            # Unmapped when the last that refers to it goes: blocks that outlive the environment stay whole.
            self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._pages = len(self.mapped) // header.page_bytes
        self._size = self._pages * header.page_bytes
        self.bytes = np.frombuffer(self.mapped, np.uint8, self._size)
        self._halves = self.bytes.view(np.uint16)
        self._words = self.bytes.view(np.uint64)
        # Since LMDB 1.0 positions in a page are counted from behind its head, and values begin at even ones.
        self._base = header.head_bytes if header.head_bytes > 16 else 0
        if header.last_page * header.page_bytes >> _LAST_PAGE_BITS:
            raise OSError(f"{path}: damaged: its header has {header.last_page} pages; copy it again")
        # Leaves lie far apart: to read around each, as the system does at first, would read half the file.
        self.mapped.madvise(mmap.MADV_RANDOM)
        self._leaves, self._ends = self._find_leaves()
        self.mapped.madvise(mmap.MADV_NORMAL)
        if len(self) < header.entries:
            raise OSError(f"{path}: damaged: fewer entries than the {header.entries} in its header")
        if self._pages <= header.last_page:
            for first in range(0, len(self._leaves), _CHUNK_PAGES):
                self._parse(first, min(first + _CHUNK_PAGES, len(self._leaves)))

    def __len__(self) -> int:
        """How many entries there are."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def places(self, first: int, stop: int) -> Places:
        """Of the entries from one ordinal to before another; of those that there are."""
        stop = min(stop, len(self))
        if first >= stop:
            return Places(*(np.zeros(0, np.int64) for _ in range(4)))
        low, high = np.searchsorted(self._ends, (first, stop - 1), side="right").tolist()
        begin = int(self._ends[low - 1]) if low else 0
        return self._parse(low, high + 1).part(first - begin, stop - begin)

    def find(self, key: bytes) -> int:
        """Ordinal of the first entry whose key is not before this one."""
        return bisect_left(range(len(self)), key, key=self._key)

    def _key(self, ordinal: int) -> bytes:
        one = self.places(ordinal, ordinal + 1)
        begin = int(one.key[0])
        return bytes(self.bytes[begin : begin + int(one.key_bytes[0])])

    def _find_leaves(self) -> tuple[Ints, Ints]:
        """Numbers of the leaves, in order, and the entries up to each's end: level by level from the root."""
        header = self._header
        level = np.zeros(0, np.uint64) if header.root == _NO_ROOT else np.array([header.root], np.uint64)
        seen = 0
        while len(level):
            if (missing := level[level >= self._pages]).size:
                number = int(missing[0])
                if number > header.last_page:
                    self._fail(number)
                raise OSError(f"{self._path}: breaks off: page {number} is not in the file; copy it again")
            pages = level.astype(np.int64)
            seen += len(pages)
            counts, flags = self._count_nodes(pages)
            if seen > self._pages or flags.min() != flags.max():  # a page is there twice, or too deep
                self._fail(int(pages[flags.argmin()]))
            if flags[0] == _LEAF:
                return pages, np.cumsum(counts)
            level = np.concatenate(
                [
                    self._children(pages[i : i + _CHUNK_PAGES], counts[i : i + _CHUNK_PAGES])
                    for i in range(0, len(pages), _CHUNK_PAGES)
                ]
            )
        return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def _count_nodes(self, pages: Ints) -> tuple[Ints, Ints]:
        """Number of nodes of pages that are in the file, and their flags; all found sound."""
        header = self._header
        at = pages * header.page_bytes
        flags, low, high = self._numbers(at + header.head_bytes - _HEAD_END_BYTES, 3)
        room = low + self._base - header.head_bytes
        sound = (
            (self._words[at >> 3] == pages.astype(np.uint64))
            & ((flags == _BRANCH) | (flags == _LEAF))
            & (low <= high)
            & (high <= header.page_bytes - self._base)
            & (room >= 2)
            & (room & 1 == 0)
        )
        if not sound.all():
            self._fail(int(pages[sound.argmin()]))
        return room >> 1, flags

    def _nodes(self, pages: Ints, counts: Ints) -> tuple[Ints, Ints]:
        """Where the nodes of sound pages begin, and where their pages do."""
        header = self._header
        page = np.repeat(pages * header.page_bytes, counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        nth = np.arange(len(page)) - first
        pointers = self._halves[(page + header.head_bytes >> 1) + nth].astype(np.int64)
        (least,) = self._numbers(page + header.head_bytes - 2, 1)
        most = header.page_bytes - self._base - _NODE_BYTES
        sound = (least <= pointers) & (pointers <= most) & (pointers & 1 == 0)
        if not sound.all():
            self._fail(int(page[sound.argmin()]) // header.page_bytes)
        return page + self._base + pointers, page

    def _children(self, pages: Ints, counts: Ints) -> npt.NDArray[np.uint64]:
        """Numbers of the pages below branches."""
        nodes, _ = self._nodes(pages, counts)
        low, middle, high, _ = self._numbers(nodes, 4)
        number: Ints = low | middle << 16 | high << 32
        return number.astype(np.uint64)

    def _parse(self, low: int, high: int) -> Places:
        """All entries of leaves."""
        header = self._header
        counts = np.diff(self._ends[low:high], prepend=self._ends[low - 1] if low else 0)
        nodes, page = self._nodes(self._leaves[low:high], counts)
        size_low, size_high, flags, key_bytes = self._numbers(nodes, 4)
        size = size_low | size_high << 16
        key = nodes + _NODE_BYTES
        value = key + key_bytes + (key_bytes & 1 if self._base else 0)
        large = np.flatnonzero(flags & _LARGE)
        stop = value + size
        stop[large] = value[large] + _NUMBER_BYTES
        sound = stop <= page + header.page_bytes
        if not sound.all():
            self._fail(int(page[sound.argmin()]) // header.page_bytes)
        if len(large):
            number = self.bytes[value[large, None] + np.arange(_NUMBER_BYTES)].view(np.uint64).ravel()
            there = number < self._pages
            first = np.where(there, number, 0).astype(np.int64) * header.page_bytes + header.head_bytes
            there &= first + size[large] <= self._size
            if not there.all():
                where = int(page[large[there.argmin()]]) // header.page_bytes
                raise OSError(
                    f"{self._path}: breaks off: values of page {where} are not in the file; copy it again"
                )
            value[large] = first
        return Places(key, key_bytes, value, size)

    def _numbers(self, at: Ints, count: int) -> Ints:
        """`count` numbers of two bytes from each of these places on: count x places."""
        halves: npt.NDArray[np.uint16] = self._halves[(at >> 1) + np.arange(count)[:, None]]
        return halves.astype(np.int64)

    def _fail(self, number: int) -> NoReturn:
        raise OSError(f"{self._path}: damaged: page {number} is none of its tree; copy it again")
