"""Whether LMDBs are sound, found out by a process that may die of it: liblmdb aborts on some damaged files.

The module is also the script that this process runs, so it imports nothing but lmdb and the standard library.
It follows the keys of all databases and asks for the sizes of their values, but touches none of these.
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

_DATABASES = 1024  # named ones of an environment that are looked at
_RECORD_BYTES = 48  # of what the main database holds for a named one: the MDB_db of LMDB's mdb.c
_HEAD_BYTES = (16, 24)  # of the head of a page, of LMDB 0.9 and 1.0
_NODE_BYTES = 570  # of a key, at most, and what else lies beside a value in its page, with some to spare

#: What lmdb says where a header or a page makes no sense.
_DAMAGE = (
    *(lmdb.InvalidError, lmdb.MapResizedError, lmdb.PageNotFoundError, lmdb.CorruptedError),
    *(lmdb.VersionMismatchError, lmdb.PanicError, lmdb.CursorFullError, lmdb.BadValsizeError),
)
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_REMEDY = "; copy it again"  # of damage, and of nothing else


class Checked(NamedTuple):
    """What was found out about one LMDB."""

    transaction: int  # the last that was committed
    fault: str = ""  # why it cannot be read


def check_all(paths: Sequence[str]) -> list[Checked]:
    """Look at LMDBs one after the other, in another process: .05 s to start it, and .4 us for each entry."""
    found: list[Checked] = []
    while len(found) < len(paths):
        done = subprocess.run(
            [sys.executable, "-P", __file__],  # -P: beside this script lies a module named lmdb, too
            input=json.dumps(paths[len(found) :]),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        found += [Checked(*json.loads(line)) for line in done.stdout.splitlines()]
        if len(found) < len(paths):  # it died of the next
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
            how += _REMEDY * (-done.returncode in _CRASHES)
            found.append(Checked(0, _damage(paths[len(found)]) or f"reading it ended the process: {how}"))
    return found


def is_damage(fault: str) -> bool:
    """Whether a fault is of the bytes, and will stay: not of a writer who is busy, nor of the machine."""
    return fault.endswith(_REMEDY)


def open_environment(path: str) -> tuple[lmdb.Environment, bool]:
    """Open an environment read-only; also whether a lock keeps writers from the pages that a reader sees.

    One does where there is a lock file that can be written to. None is made: whoever reads may lack the right
    to, or have a copy that nobody writes to.
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
        # LMDB 1.0 ends names by zeros.
        yield from islice((k.rstrip(b"\0") for k in listed if is_database(opened, k)), _DATABASES)


def is_database(opened: lmdb.Environment, key: bytes) -> bool:
    """Whether a key of the main database is the name of another."""
    try:
        opened.open_db(key, create=False)
    except lmdb.Error:  # an entry like any other, or one database too many
        return False
    return True


def _damage(path: str) -> str:
    """The first fault of a file's pages. It is not opened as an LMDB, so that this cannot end a process."""
    try:
        found: list[str] = verify(path)  # type: ignore[no-untyped-call]
    except VerifyError as e:
        found = [str(e)]
    except (OSError, MemoryError) as e:
        return f"{e or type(e).__name__}"
    except Exception as e:  # it divides by what a page states, among others
        found = [f"{e} ({type(e).__name__})"]
    if not found:
        return ""
    short = "EOF" in found[0] or "end of the file" in found[0]
    return f"{'breaks off' if short else 'damaged'}: {found[0]}{_REMEDY}"


def _check(path: str) -> Checked:
    opened, locked = open_environment(path)
    with opened:
        begun = opened.info()
        size = data_file(path).stat().st_size
        # A file that is too short may be sound all the same: LMDB does not write free pages at its end.
        fault = _damage(path) if size < (begun["last_pgno"] + 1) * opened.stat()["psize"] else ""
        try:
            if not fault and _look(opened, None, size):
                for name in named_databases(opened):
                    _look(opened, name, size)
        except lmdb.CorruptedError as e:
            fault = f"damaged: {e}{_REMEDY}"
        if not locked and opened.info()["last_txnid"] != begun["last_txnid"]:
            fault = "changed while it is read; run again when its writer is done"
    return Checked(begun["last_txnid"], fault)


def _look(opened: lmdb.Environment, name: bytes | None, size: int) -> bool:
    """Look at a database of an environment; whether it may list further ones."""
    database = opened.open_db(name, create=False)
    if any(database.flags().values()):
        return False  # keys in another order: who reads it refuses it
    with opened.begin() as transaction:
        stat = transaction.stat(database)
        keys = transaction.cursor(database).iternext(values=False)
        ascending = sum(starmap(lt, pairwise(islice(keys, stat["entries"] + 1))))
    entries = stat["entries"]
    if ascending != max(0, entries - 1):
        raise lmdb.CorruptedError(f"{entries} entries, but {ascending + 1} keys in their order")
    viewed = stat["overflow_pages"] > 0  # to copy small values is faster than to make buffers of them
    with opened.begin(buffers=viewed) as transaction:  # type: ignore[call-overload]  # knows literals only
        sizes = Counter(map(len, transaction.cursor(database).iternext(keys=False)))
    page_bytes, head_bytes = stat["psize"], _HEAD_BYTES[opened.lib_version()[0]]
    pages = {
        value_bytes: -(-(head_bytes + value_bytes) // page_bytes) * n for value_bytes, n in sizes.items()
    }
    # A value may have pages of its own from a size on that depends on its key, which is not looked at.
    least, most = (
        sum(taken for value_bytes, taken in pages.items() if value_bytes > above)
        for above in (page_bytes // 2, page_bytes // 2 - _NODE_BYTES)
    )
    if max(sizes, default=0) > size or not least <= stat["overflow_pages"] <= most:
        raise lmdb.CorruptedError(f"values need {least} pages or more, not {stat['overflow_pages']}")
    return _RECORD_BYTES in sizes


def main() -> None:
    """Look at the LMDBs whose paths come in as a list in JSON; each is answered by a line."""
    for path in json.load(sys.stdin):
        try:
            checked = _check(path)
        except _DAMAGE as e:
            checked = Checked(0, _damage(path) or f"damaged: {e}{_REMEDY}")
        except (lmdb.Error, OSError, MemoryError) as e:
            checked = Checked(0, str(e).removeprefix(f"{path}: ") or type(e).__name__)
        except Exception as e:  # lmdb computes with what pages state
            checked = Checked(0, f"damaged: {e} ({type(e).__name__}){_REMEDY}")
        print(json.dumps(checked), flush=True)


if __name__ == "__main__":
    main()
