"""Checks LMDBs for damage in a separate process, because liblmdb aborts on some damaged files.

The module is also the script of this process, so it imports only lmdb and the standard library. It iterates
over the keys of all databases and requests the sizes of values, but does not read them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress, islice, pairwise, starmap
from operator import lt
from pathlib import Path
from typing import NamedTuple

import lmdb
from lmdb.verify import VerifyError, verify

_DATABASES = 1024  # named databases of an environment that are checked
_RECORD_BYTES = 48  # size of the main database's entry for a named one: the MDB_db of LMDB's mdb.c
_HEAD_BYTES = (16, 24)  # of the head of a page, of LMDB 0.9 and 1.0
_NODE_BYTES = 570  # bytes of a key, at most, and of other data in a value's page, with some to spare

#: Errors of lmdb for an invalid header or page.
_DAMAGE = (
    *(lmdb.InvalidError, lmdb.MapResizedError, lmdb.PageNotFoundError, lmdb.CorruptedError),
    *(lmdb.VersionMismatchError, lmdb.PanicError, lmdb.CursorFullError, lmdb.BadValsizeError),
)
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_REMEDY = "; copy it again"  # only after damage


class Checked(NamedTuple):
    """Result for one LMDB."""

    transaction: int  # the last that was committed
    fault: str = ""  # why it cannot be read


def check_all(paths: Sequence[str]) -> list[Checked]:
    """Check LMDBs one after the other, in another process: .05 s to start it, and .4 us for each entry."""
    found: list[Checked] = []
    while len(found) < len(paths):
        done = subprocess.run(
            [sys.executable, "-P", __file__],  # -P: this script's directory also has a module named lmdb
            input=json.dumps(paths[len(found) :]),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        found += [Checked(*json.loads(line)) for line in done.stdout.splitlines()]
        if len(found) < len(paths):  # it died at the next one
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
            how += _REMEDY * (-done.returncode in _CRASHES)
            found.append(Checked(0, _damage(paths[len(found)]) or f"reading it ended the process: {how}"))
    return found


def is_damage(fault: str) -> bool:
    """Whether a fault is permanent damage: not a busy writer, and not the machine."""
    return fault.endswith(_REMEDY)


def open_environment(path: str) -> tuple[lmdb.Environment, bool]:
    """Open an environment read-only; also returns whether a lock protects the pages of a reader.

    It does if there is a writable lock file. None is created: the reader may lack the permission, or read a
    copy without writers.
    """
    place = Path(path)
    subdir = place.is_dir()
    locked = os.access(place / "lock.mdb" if subdir else f"{path}-lock", os.R_OK | os.W_OK)
    opened = lmdb.open(path, subdir=subdir, readonly=True, create=False, lock=locked, max_dbs=_DATABASES)
    return opened, locked


def data_file(path: str) -> Path:
    """The file that holds the pages of an environment, given its directory or that file."""
    place = Path(path)
    return place / "data.mdb" if place.is_dir() else place


def named_databases(opened: lmdb.Environment) -> Iterator[bytes]:
    """Names of the databases that the main one lists."""
    with opened.begin(buffers=True) as transaction:
        sizes = map(len, transaction.cursor().iternext(keys=False))
        keys = transaction.cursor().iternext(values=False)
        listed = map(bytes, compress(keys, map(_RECORD_BYTES.__eq__, sizes)))
        # LMDB 1.0 ends names with zeros.
        yield from islice((k.rstrip(b"\0") for k in listed if is_database(opened, k)), _DATABASES)


def is_database(opened: lmdb.Environment, key: bytes) -> bool:
    """Whether a key of the main database is the name of another database."""
    try:
        opened.open_db(key, create=False)
    except lmdb.Error:  # an ordinary entry, or one database too many
        return False
    return True


def _damage(path: str) -> str:
    """The first fault of a file's pages. Does not open it as an LMDB, which could abort the process."""
    try:
        found: list[str] = verify(path)  # type: ignore[no-untyped-call]
    except VerifyError as e:
        found = [str(e)]
    except (OSError, MemoryError) as e:
        return f"{e or type(e).__name__}"
    except Exception as e:  # for example a division by a value from a page
        found = [f"{e} ({type(e).__name__})"]
    if not found:
        return ""
    short = "EOF" in found[0] or "end of the file" in found[0]
    return f"{'truncated' if short else 'damaged'}: {found[0]}{_REMEDY}"


def _check(path: str) -> Checked:
    opened, locked = open_environment(path)
    with opened:
        begun = opened.info()
        size = data_file(path).stat().st_size
        # A file that is too short may still be intact: LMDB does not write free pages at its end.
        fault = _damage(path) if size < (begun["last_pgno"] + 1) * opened.stat()["psize"] else ""
        try:
            if not fault and _look(opened, None, size):
                for name in named_databases(opened):
                    _look(opened, name, size)
        except lmdb.CorruptedError as e:
            fault = f"damaged: {e}{_REMEDY}"
        if not locked and opened.info()["last_txnid"] != begun["last_txnid"]:
            fault = "changed while it was read; run again when its writer has finished"
    return Checked(begun["last_txnid"], fault)


def _look(opened: lmdb.Environment, name: bytes | None, size: int) -> bool:
    """Check a database of an environment; returns whether it may list further ones."""
    database = opened.open_db(name, create=False)
    if any(database.flags().values()):
        return False  # keys in another order: the reader refuses it
    with opened.begin() as transaction:
        stat = transaction.stat(database)
        keys = transaction.cursor(database).iternext(values=False)
        ascending = sum(starmap(lt, pairwise(islice(keys, stat["entries"] + 1))))
    entries = stat["entries"]
    if ascending != max(0, entries - 1):
        raise lmdb.CorruptedError(f"{entries} entries, but {ascending + 1} keys in order")
    viewed = stat["overflow_pages"] > 0  # copying small values is faster than making buffers
    with opened.begin(buffers=viewed) as transaction:  # type: ignore[call-overload]  # accepts only literals
        sizes = Counter(map(len, transaction.cursor(database).iternext(keys=False)))
    page_bytes, head_bytes = stat["psize"], _HEAD_BYTES[opened.lib_version()[0]]
    pages = {
        value_bytes: -(-(head_bytes + value_bytes) // page_bytes) * n for value_bytes, n in sizes.items()
    }
    # The size from which a value has its own pages depends on its key, which is not examined.
    least, most = (
        sum(taken for value_bytes, taken in pages.items() if value_bytes > above)
        for above in (page_bytes // 2, page_bytes // 2 - _NODE_BYTES)
    )
    if max(sizes, default=0) > size or not least <= stat["overflow_pages"] <= most:
        raise lmdb.CorruptedError(f"values need {least} pages or more, not {stat['overflow_pages']}")
    return _RECORD_BYTES in sizes


def main() -> None:
    """Check the LMDBs whose paths are read as a JSON list; writes a line for each."""
    for path in json.load(sys.stdin):
        try:
            checked = _check(path)
        except _DAMAGE as e:
            checked = Checked(0, _damage(path) or f"damaged: {e}{_REMEDY}")
        except (lmdb.Error, OSError, MemoryError) as e:
            checked = Checked(0, str(e).removeprefix(f"{path}: ") or type(e).__name__)
        except Exception as e:  # lmdb computes with values from pages
            checked = Checked(0, f"damaged: {e} ({type(e).__name__}){_REMEDY}")
        print(json.dumps(checked), flush=True)


if __name__ == "__main__":
    main()
