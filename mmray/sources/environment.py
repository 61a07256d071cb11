"""LMDB environments, each opened once a process, read-only, and what one transaction sees of them.

A writer does not disturb who reads behind a lock (see `lmdb_check.open_environment`): the pages of a snapshot
stay as they are. Without one they may be overwritten, so whoever reads then asks whether there was a commit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import chain, islice, repeat
from weakref import WeakValueDictionary

import lmdb

from mmray.sources.lmdb_check import data_file, is_database, named_databases, open_environment

Entry = tuple[memoryview, memoryview]  # key and value where they lie, as long as their snapshot is there

_MARK_ENTRIES = 4096  # between keys that are kept, to go to an entry by its number
_CHUNK_ENTRIES = 64  # that are found together: few, so that few commits can come meanwhile
_NAMES = 10  # of databases, in a message at most
_NOTHING = memoryview(b"")


class _Environment:
    """An open file, shared by all its readers in this process."""

    def __init__(self, path: str) -> None:
        self.opened, self.locked = open_environment(path)
        self.marks: dict[tuple[str | None, int], list[bytes]] = {}  # by database and transaction


class Snapshot:
    """What one transaction sees of a database; the file stays open as long as it is there.

    Raises:
        OSError: there is no such database, or its entries cannot be records.
    """

    def __init__(self, environment: _Environment, path: str, database: str | None) -> None:
        self.path = path
        self._environment = environment
        self._opened = environment.opened
        found = self._database(database)
        if any(found.flags().values()):
            raise OSError(f"{path}: keys are reversed, integers or repeated; rewrite it with plain keys")
        self._transaction = self._opened.begin(db=found, buffers=True)
        self.transaction = self._transaction.id()
        self._entries: int = self._transaction.stat(found)["entries"]
        if database is None:
            self._refuse_a_list()
        self._marked = (database, self.transaction)
        if self._marked not in environment.marks:
            environment.marks = {key: m for key, m in environment.marks.items() if key[1] == self.transaction}

    def __len__(self) -> int:
        """How many entries there are."""
        return self._entries

    def walk(self, first: int = 0, *, values: bool = True) -> Iterator[Entry]:
        """The entries from a number on; where values are not asked for, these are empty."""
        return chain.from_iterable(self._chunks(first, values=values))

    def keys_from(self, key: bytes) -> Iterator[bytes]:
        """The first key that is not before this one, and all that follow."""
        cursor = self._transaction.cursor()
        return map(bytes, cursor.iternext(values=False)) if cursor.set_range(key) else iter(())

    def check_unchanged(self) -> None:
        """Raise an OSError where a writer has committed since, and may have overwritten what was read."""
        if not self._environment.locked and self._opened.info()["last_txnid"] != self.transaction:
            raise OSError(f"{self.path}: changed while it is read; run again when its writer is done")

    def _chunks(self, first: int, *, values: bool) -> Iterator[list[Entry]]:
        if first >= self._entries:
            return
        cursor = self._cursor_at(first)
        entries = cursor.iternext() if values else zip(cursor.iternext(values=False), repeat(_NOTHING))
        while True:
            self.check_unchanged()
            chunk = list(islice(entries, _CHUNK_ENTRIES))
            self.check_unchanged()
            if not chunk:
                return
            yield chunk

    def _cursor_at(self, entry: int) -> lmdb.Cursor[memoryview]:
        """A cursor at an entry that is there."""
        number, further = divmod(entry, _MARK_ENTRIES)
        cursor = self._transaction.cursor()
        marks = self._environment.marks.get(self._marked, [])
        if number >= len(marks):
            if marks:
                cursor.set_range(marks[-1])
            every = islice(cursor.iternext(values=False), 0, None, _MARK_ENTRIES)
            marks = [*marks[:-1], *map(bytes, islice(every, number + 1 - len(marks[:-1])))]
            self._environment.marks[self._marked] = marks
        cursor.set_range(marks[number])
        for _ in range(further):
            cursor.next()
        return cursor

    def _database(self, name: str | None) -> lmdb._Database:
        try:
            return self._opened.open_db(None if name is None else name.encode(), create=False)
        except lmdb.Error as e:
            raise OSError(f"{self.path}: no database {name!r} ({e}); there are: {self._names()}") from e

    def _refuse_a_list(self) -> None:
        """Refuse a main database that only lists others."""
        cursor = self._transaction.cursor()
        if not cursor.first() or not is_database(self._opened, bytes(cursor.key())):
            return
        if sum(1 for _ in named_databases(self._opened)) == self._entries:
            reason = f"its main database only lists others: {self._names()}"
            raise OSError(f"{self.path}: {reason}; choose one by lmdb.database in the config")

    def _names(self) -> str:
        names = islice(named_databases(self._opened), _NAMES)
        return ", ".join(name.decode(errors="replace") for name in names) or "none"


#: By device and inode.
_environments: WeakValueDictionary[tuple[int, ...], _Environment] = WeakValueDictionary()
_latest: dict[tuple[int, ...], _Environment] = {}  # at most one, by its file's state: it stays open unread
_lock = threading.Lock()


def opened(path: str, database: str | None = None) -> Snapshot:
    """What is there now at a path, in the main database or a named one.

    A file that was replaced is opened anew. lmdb refuses to open one twice, so that one which was written to
    stays open for as long as somebody reads it.

    Raises:
        OSError: it cannot be opened, or its entries cannot be records.
    """
    with _lock:
        found = data_file(path).stat()
        file = found.st_dev, found.st_ino
        state = *file, found.st_size, found.st_mtime_ns
        if state not in _latest:
            _latest.clear()
        try:
            environment = _environments.get(file) or _Environment(path)
            _environments[file] = _latest[state] = environment
            return Snapshot(environment, path, database)
        except lmdb.Error as e:
            raise OSError(f"{path}: {e}") from e
