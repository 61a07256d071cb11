"""LMDB environments, each opened once a process, read-only, and what one transaction sees of them.

A writer does not disturb who reads behind a lock (see `lmdb_check.open_environment`): the pages of a snapshot
stay as they are. Without one they may be overwritten, so whoever reads then asks whether there was a commit.
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

#: Key and value. A large value lies in the file, for as long as its snapshot is there.
Entry = tuple[bytes, bytes | memoryview]
_MARK_ENTRIES = 4096  # between keys that are kept, to go to an entry by its number
_CHUNK_ENTRIES = 64  # that are found together: few, so that few commits can come meanwhile
_CLOSING_TRIES, _CLOSING_S = 100, 0.01
_NAMES = 10  # of databases, in a message at most
#: What lmdb says where memory, the disk or places for readers ran out.
_MACHINE = (
    *(lmdb.MemoryError, lmdb.DiskError, lmdb.LockError, lmdb.ReadersFullError, lmdb.TlsFullError),
    lmdb.MapResizedError,  # by a writer: it was not so when the file was opened
)
_BESIDE_BYTES = 1024  # a value up to this size is in memory once its key is: it lies in the same page


class _Environment:
    """An open file, shared by all its readers in this process."""

    def __init__(self, path: str) -> None:
        self.opened, self.locked = open_environment(path)


class Snapshot:
    """What one transaction sees of a database; the file stays open as long as it is there.

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
            # To copy values that share their pages with keys is faster than to make buffers of them.
            self._viewed = transaction.stat(found)["overflow_pages"] > 0
        begin: Any = self._opened.begin  # its types know literals only
        self._transaction: lmdb.Transaction[Any] = begin(db=found, buffers=self._viewed)
        self.transaction = self._transaction.id()
        self._entries: int = self._transaction.stat(found)["entries"]
        if database is None:
            self._refuse_a_list()
        self._state = (*state, database, self.transaction)

    def __len__(self) -> int:
        """How many entries there are."""
        return self._entries

    def walk(self, first: int = 0, *, values: bool = True) -> Iterator[Entry]:
        """The entries from a number on; where values are not asked for, these are empty.

        Raises:
            ShardError: the pages that follow cannot be read.
            OSError: see `check_unchanged`.
        """
        return chain.from_iterable(self._chunks(first, values=values))

    def get(self, key: bytes) -> bytes | memoryview | None:
        """The value of a key; None where there is none."""
        try:
            value: Any = self._transaction.get(key) if key else None
        except Exception as e:
            self._refuse(e)
        return bytes(value) if value is not None and len(value) <= _BESIDE_BYTES else value

    def keys_from(self, key: bytes) -> Iterator[bytes]:
        """The first key that is not before this one, and all that follow."""
        try:
            cursor = self._transaction.cursor()
            if cursor.set_range(key):
                yield from map(bytes, cursor.iternext(values=False))
        except Exception as e:
            self._refuse(e)

    def check_unchanged(self) -> None:
        """Raise an OSError where a writer has committed since, and may have overwritten what was read."""
        if not self._environment.locked and self._opened.info()["last_txnid"] != self.transaction:
            raise OSError(f"{self.path}: changed while it is read; run again when its writer is done")

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
        """Raise what a failure of lmdb means: a commit, a fault of the machine, or damage."""
        self.check_unchanged()
        if isinstance(failure, _MACHINE):
            raise OSError(f"{self.path}: {failure}") from failure
        if of_machine(failure):
            raise failure
        raise ShardError.of(failure, "its pages cannot be read on") from failure

    def _cursor_at(self, entry: int) -> lmdb.Cursor[Any]:
        """A cursor at an entry that is there."""
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
#: Keys of the database that was gone far into last, one every few thousand entries. They outlive its closing.
_marks: dict[tuple[object, ...], list[bytes]] = {}


def opened(path: str, database: str | None = None) -> Snapshot:
    """What is there now at a path, in the main database or a named one.

    A file that was replaced is opened anew. lmdb refuses to open one twice, so that one which was written to
    stays open for as long as somebody reads it. What nobody reads is closed: to open it again takes .08 ms.

    Raises:
        OSError: it cannot be opened, or its entries cannot be records.
        ShardError: lmdb trips over what it states.
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
    """One that nobody reads. Where another thread is just closing it, lmdb takes it for open."""
    for _ in range(_CLOSING_TRIES):
        try:
            return _Environment(path)
        except lmdb.Error as e:
            if "already open" not in str(e):
                raise
            time.sleep(_CLOSING_S)
    return _Environment(path)
