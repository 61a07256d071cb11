"""LMDB environments, each opened once a process, read-only and without locks.

What would end the process or give wrong rows without a word is an OSError: pages that are missing or damaged
(see `pages`), keys that are not in byte order or repeat, a writer at work.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lmdb

from mmray.sources.pages import check_pages, data_file, read_header

_ANCHOR_ENTRIES = 1024  # between the keys that are remembered, to go to an entry by its ordinal


class Environment:
    """One open environment, shared by all its readers in this process; see `opened`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.header = header = read_header(path)
        self.readers = 0
        self._anchors: list[bytes] = []
        self._lock = threading.Lock()
        check_pages(path, header)
        try:
            # The data file itself, so that a directory and a file are opened alike.
            self._env: Any = lmdb.open(
                str(data_file(path)), subdir=False, readonly=True, create=False, lock=False
            )
        except lmdb.Error as e:
            raise OSError(f"{path}: cannot be opened: {e}") from e

    def close(self) -> None:
        self._env.close()

    def name_at(self, ordinal: int) -> bytes | None:
        """Key of the entry of this ordinal; None past the end.

        Every 1,024th key on the way there is remembered, so that later calls walk over at most as many.
        """
        if ordinal >= self.header.entries:
            return None
        index, rest = divmod(ordinal, _ANCHOR_ENTRIES)
        with self._lock:
            if index >= len(self._anchors):
                start, skip = (self._anchors[-1], _ANCHOR_ENTRIES) if self._anchors else (b"", 0)
                with self._cursor(start, exact=False) as cursor:
                    further = islice(cursor.iternext(values=False), skip, None, _ANCHOR_ENTRIES)
                    self._anchors += islice(further, index + 1 - len(self._anchors))
            anchors = self._anchors[index : index + 1]
        for anchor in anchors:
            with self._cursor(anchor) as cursor:
                for name in islice(cursor.iternext(values=False), rest, None):
                    return bytes(name)
        raise OSError(f"{self.path}: damaged: fewer entries than the {self.header.entries} in its header")

    def names(self, first: bytes, count: int) -> list[bytes]:
        """At most `count` keys, from this one on."""
        with self._cursor(first) as cursor:
            return list(islice(cursor.iternext(values=False), count))

    def names_from(self, start: bytes) -> Iterator[bytes]:
        """The keys from this one on, which need not be there itself."""
        with self._cursor(start, exact=False) as cursor:
            yield from cursor.iternext(values=False)

    def entries(self) -> Iterator[tuple[bytes, memoryview]]:
        """All of them, in one transaction; a value is there until the next is asked for."""
        if self.header.entries:
            with self._cursor(b"", exact=False, buffers=True) as cursor:
                for name, value in cursor:
                    yield bytes(name), value

    @contextmanager
    def values(self, first: bytes, count: int) -> Iterator[Sequence[memoryview]]:
        """At most `count` values, from that of this key on; they are gone when the context is left."""
        with self._cursor(first, buffers=True) as cursor:
            yield list(islice(cursor.iternext(keys=False), count))

    @contextmanager
    def _cursor(self, key: bytes, *, exact: bool = True, buffers: bool = False) -> Iterator[Any]:
        """A cursor at a key (or, not exact, the next), in a transaction of its own: none is held for long."""
        try:
            with self._env.begin(buffers=buffers) as transaction:
                cursor = transaction.cursor()
                found = cursor.set_key(key) if exact else cursor.set_range(key)
                if not found or transaction.id() != self.header.transaction:
                    raise OSError(f"{self.path}: changed while it is read; run again when its writer is done")
                yield cursor
        except lmdb.Error as e:
            raise OSError(f"{self.path}: damaged: {e}") from e


_environments: dict[tuple[int, ...], Environment] = {}  # by file and its state; what was used last is last
_environments_lock = threading.Lock()


@contextmanager
def opened(path: str) -> Iterator[Environment]:
    """The environment at a path. LMDB opens a file but once a process, so all its readers share it.

    A file that was replaced or written to since is opened anew. The latest is kept open when nobody reads it.

    Raises:
        OSError: it cannot be opened, or not without danger.
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
        found = data_file(path).stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _close_unread() -> None:
    """Close what nobody reads: all but the latest, and files that are no longer what they were."""
    unread = [state for state, environment in _environments.items() if not environment.readers]
    for state in unread:
        if state in unread[:-1] or _state(_environments[state].path) != state:
            _environments.pop(state).close()
