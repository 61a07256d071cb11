"""LMDB environments, each mapped once a process, read-only and without locks.

What would give wrong rows without a word is an OSError: pages that are missing or damaged (see `tree`), keys
that are not in byte order or repeat, a writer at work.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from mmap import MADV_WILLNEED, PAGESIZE
from pathlib import Path
from stat import S_ISDIR

import numpy as np
import pyarrow as pa

from mmray.sources.pages import data_file, latest_transaction, read_header
from mmray.sources.tree import Ints, Tree
from mmray.sources.views import Source

_LARGE_BYTES = 64 << 10  # of a value that may not come with its beginning
_CHUNK_ENTRIES = 1024  # whose keys are copied together


@dataclass(frozen=True)
class Entries:
    """Consecutive entries: their keys, copied, and where their values lie in the mapped file."""

    names: pa.BinaryArray
    at: Ints
    sizes: Ints
    source: Source

    def __len__(self) -> int:
        return len(self.names)

    def name(self, entry: int) -> bytes:
        """The key of one."""
        name: bytes = self.names[entry].as_py()
        return name

    def value(self, entry: int) -> memoryview:
        """The value of one, where it lies."""
        return self.source.value(int(self.at[entry]), int(self.sizes[entry]))

    def part(self, low: int, high: int) -> Entries:
        """Those from one to before another."""
        return Entries(self.names[low:high], self.at[low:high], self.sizes[low:high], self.source)

    def emptied(self) -> Entries:
        """The same, as if all values were empty."""
        return replace(self, sizes=np.zeros_like(self.sizes))


class Environment:
    """One mapped environment, shared by all its readers in this process; see `opened`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.header = read_header(path)
        self.readers = 0
        self._tree = Tree(path, self.header)
        self.source = Source(pa.py_buffer(self._tree.mapped))
        nowhere = np.zeros(0, np.int64)
        self._latest = (0, 0), Entries(pa.array([], pa.binary()), nowhere, nowhere, self.source)

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._tree)

    def entries(self, first: int, stop: int) -> Entries:
        """The entries from one ordinal to before another; those that there are."""
        self.check_unchanged()
        span, entries = self._latest
        if span != (first, stop):
            found = self._tree.places(first, stop)
            names = self.source.column(found.key, found.key_bytes).cast(pa.binary())
            entries = Entries(names, found.value, found.value_bytes, self.source)
            self._latest = (first, stop), entries
        return entries

    def check_unchanged(self) -> None:
        """Raise an OSError where a writer has committed since: what was read may be gone."""
        if latest_transaction(self._tree.mapped, self.header) != self.header.transaction:
            raise OSError(f"{self.path}: changed while it is read; run again when its writer is done")

    def find(self, key: bytes) -> int:
        """Ordinal of the first entry whose key is not before this one."""
        return self._tree.find(key)

    def read_ahead(self, at: Ints, sizes: Ints) -> None:
        """Have the system fetch large values, so that who uses them need not wait for the disk.

        Small ones came when their beginning was looked at: the system reads 128 KiB around that.
        """
        large = np.flatnonzero(sizes > _LARGE_BYTES)
        for begin, size in zip(at[large].tolist(), sizes[large].tolist(), strict=True):
            start = begin - begin % PAGESIZE
            self._tree.mapped.madvise(MADV_WILLNEED, start, begin + size - start)

    def walk(self, first: int = 0) -> Iterator[tuple[bytes, memoryview]]:
        """Key and value of each entry from an ordinal on."""
        for start in range(first, len(self), _CHUNK_ENTRIES):
            entries = self.entries(start, start + _CHUNK_ENTRIES)
            for i, name in enumerate(entries.names.to_pylist()):
                yield name, entries.value(i)


_environments: dict[tuple[int, ...], Environment] = {}  # by file and its state; what was used last is last
_environments_lock = threading.Lock()


@contextmanager
def opened(path: str) -> Iterator[Environment]:
    """The environment at a path. Its tree is followed once for all its readers.

    A file that was replaced or written to since is opened anew. The latest is kept open when nobody reads it,
    and a file stays mapped for as long as a block refers to it.

    Raises:
        OSError: it cannot be opened, or not without danger of wrong rows.
    """
    with _environments_lock:
        state = _state(path)
        environment = _environments.pop(state, None)
        if environment is None:
            _close_unread()
            environment = Environment(path)
        _environments[state] = environment
        environment.readers += 1
    try:
        yield environment
    finally:
        with _environments_lock:
            environment.readers -= 1
            _close_unread()


def _state(path: str) -> tuple[int, ...]:
    """Which file lies at a path, and in which state; nothing of one that is gone."""
    try:
        found = Path(path).stat()
        if S_ISDIR(found.st_mode):
            found = data_file(path).stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _close_unread() -> None:
    """Close what nobody reads: all but the latest, and files that are no longer what they were."""
    unread = [state for state, environment in _environments.items() if not environment.readers]
    for state in unread:
        if state in unread[:-1] or _state(_environments[state].path) != state:
            del _environments[state]
