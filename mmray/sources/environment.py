"""LMDB environments, each opened once in a process, read-only, and the snapshot of one transaction.

With a lock (see `lmdb_check.open_environment`), a writer leaves the pages of a snapshot unchanged. Without
one it may overwrite them, so the reader checks for a commit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import lmdb

from mmray.errors import ShardError, of_machine
from mmray.sources.lmdb_check import data_file, is_database, named_databases, open_environment

#: Key and value. A large value is a view of the file, valid as long as its snapshot.
Entry = tuple[bytes, bytes | memoryview]
_MARK_ENTRIES = 4096  # entries between stored keys, which are used to find an entry by its number
_CHUNK_ENTRIES = 64  # entries that are found together: few, so that few commits happen meanwhile
_CLOSING_TRIES, _CLOSING_S = 100, 0.01
_NAMES = 10  # names of databases in a message, at most
#: Errors of lmdb if memory, the disk or reader slots run out.
_MACHINE = (
    *(lmdb.MemoryError, lmdb.DiskError, lmdb.LockError, lmdb.ReadersFullError, lmdb.TlsFullError),
    lmdb.MapResizedError,  # by a writer: it was intact when the file was opened
)
_BESIDE_BYTES = 1024  # a value up to this size is in the same page as its key


class _Environment:
    """An open file, shared by all its readers in this process."""

    def __init__(self, path: str) -> None:
        self.opened, self.locked = open_environment(path)


class Snapshot:
    """A database as seen by one transaction; the file stays open as long as this object exists.

    Raises:
        OSError: there is no such database, or its entries cannot be records.
    """

    def __init__(
        self, environment: _Environment, state: tuple[int, ...], path: str, database: str | None
    ) -> None:
        self.path = path
        self._environment = environment
        self._opened = environment.opened
        found = self._database(database)
        if any(found.flags().values()):
            raise OSError(f"{path}: keys are reversed, integers or repeated; rewrite it with plain keys")
        with self._opened.begin() as transaction:
            # Copying values that share pages with their keys is faster than making buffers.
            self._viewed = transaction.stat(found)["overflow_pages"] > 0
        begin: Any = self._opened.begin  # its types accept only literals
        self._transaction: lmdb.Transaction[Any] = begin(db=found, buffers=self._viewed)
        self.transaction = self._transaction.id()
        self._entries: int = self._transaction.stat(found)["entries"]
        if database is None:
            self._refuse_a_list()
        self._state = (*state, database, self.transaction)

    def __len__(self) -> int:
        """Number of entries."""
        return self._entries

    def walk(self, first: int = 0, *, values: bool = True) -> Iterator[Entry]:
        """The entries from a number on; values are empty unless requested.

        Raises:
            ShardError: the pages that follow cannot be read.
            OSError: see `check_unchanged`.
        """
        return chain.from_iterable(self._chunks(first, values=values))

    def get(self, key: bytes) -> bytes | memoryview | None:
        """The value of a key; None if there is none."""
        try:
            value: Any = self._transaction.get(key) if key else None
        except Exception as e:
            self._refuse(e)
        return bytes(value) if value is not None and len(value) <= _BESIDE_BYTES else value

    def keys_from(self, key: bytes) -> Iterator[bytes]:
        """All keys from the first one that is not before this one."""
        try:
            cursor = self._transaction.cursor()
            if cursor.set_range(key):
                yield from map(bytes, cursor.iternext(values=False))
        except Exception as e:
            self._refuse(e)

    def check_unchanged(self) -> None:
        """Raise an OSError if a writer has committed since and may have overwritten pages that were read."""
        if not self._environment.locked and self._opened.info()["last_txnid"] != self.transaction:
            raise OSError(f"{self.path}: changed while it was read; run again when its writer has finished")

    def _chunks(self, first: int, *, values: bool) -> Iterator[list[Entry]]:
        if first >= self._entries:
            return
        entries: Iterator[Entry] | None = None
        while True:
            self.check_unchanged()
            try:
                if entries is None:
                    cursor = self._cursor_at(first)
                    entries = cursor.iternext() if values else zip(cursor.iternext(values=False), repeat(b""))
                chunk: list[Entry] = list(islice(entries, _CHUNK_ENTRIES))
                if self._viewed:
                    chunk = [(bytes(k), v if len(v) > _BESIDE_BYTES else bytes(v)) for k, v in chunk]
            except Exception as e:
                self._refuse(e)
            self.check_unchanged()
            if not chunk:
                return
            yield chunk

    def _refuse(self, failure: Exception) -> NoReturn:
        """Raise the error for a failure of lmdb: a commit, a fault of the machine, or damage."""
        self.check_unchanged()
        if isinstance(failure, _MACHINE):
            raise OSError(f"{self.path}: {failure}") from failure
        if of_machine(failure):
            raise failure
        raise ShardError.of(failure, "its further pages cannot be read") from failure

    def _cursor_at(self, entry: int) -> lmdb.Cursor[Any]:
        """A cursor at an existing entry."""
        number, further = divmod(entry, _MARK_ENTRIES)
        cursor = self._transaction.cursor()
        cursor.first()
        if number:
            marks = _marks.get(self._state, [])
            if number > len(marks):
                if marks:
                    cursor.set_range(marks[-1])
                every = islice(cursor.iternext(values=False), _MARK_ENTRIES, None, _MARK_ENTRIES)
                marks = [*marks, *map(bytes, islice(every, number - len(marks)))]
                _marks.clear()
                _marks[self._state] = marks
            cursor.set_range(marks[number - 1])
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
_environments: WeakValueDictionary[tuple[int, int], _Environment] = WeakValueDictionary()
_lock = threading.Lock()
#: Keys of the database last read far into, one every few thousand entries. They remain after it is closed.
_marks: dict[tuple[object, ...], list[bytes]] = {}


def opened(path: str, database: str | None = None) -> Snapshot:
    """The current snapshot of the file at a path, of its main database or a named one.

    A replaced file is opened again. lmdb refuses to open a file twice, so a modified file stays open as long
    as it is read. Unused files are closed: opening one again takes .08 ms.

    Raises:
        OSError: it cannot be opened, or its entries cannot be records.
        ShardError: lmdb fails on its contents.
    """
    with _lock:
        found = data_file(path).stat()
        file = found.st_dev, found.st_ino
        try:
            environment = _environments.get(file) or _opened_now(path)
            _environments[file] = environment
            return Snapshot(environment, (*file, found.st_size, found.st_mtime_ns), path, database)
        except lmdb.Error as e:
            raise OSError(f"{path}: {e}") from e
        except Exception as e:
            if isinstance(e, OSError) or of_machine(e):
                raise
            raise ShardError.of(e, "it cannot be opened") from e


def _opened_now(path: str) -> _Environment:
    """Open a file that is not in use. If another thread is just closing it, lmdb still reports it as open."""
    for _ in range(_CLOSING_TRIES):
        try:
            return _Environment(path)
        except lmdb.Error as e:
            if "already open" not in str(e):
                raise
            time.sleep(_CLOSING_S)
    return _Environment(path)
