"""The table that describes the files of a folder: `metadata.csv` or `metadata.jsonl`.

As in Hugging Face's ImageFolder and AudioFolder: its column `file_name` is the path of a file, relative to
the table; the other columns are its caption and its metadata.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmray.errors import RecordError, ShardError
from mmray.sources.lines import Rows
from mmray.storage import Location

TABLE_BYTES = 64 << 20  # it is held in memory
_FILE = "file_name"


@dataclass(frozen=True)
class Described:
    """A table's row for one file."""

    values: Mapping[str, Any]  # values of its row, without the file's name
    fault: str = ""


@dataclass(frozen=True)
class Table:
    """Rows by the directory, relative to the table, and the name of their file."""

    rows: Mapping[str, Mapping[str, Described]]
    faults: tuple[tuple[int, str], ...] = ()  # byte, and what is wrong with the row there


def read_table(place: Location) -> Table:
    """Read a whole table.

    Raises:
        ShardError: it is too large, or has no column `file_name`.
        OSError: it cannot be read.
    """
    info = place.info()
    if (info.size or 0) > TABLE_BYTES:
        reason = f"{place.name} has {info.size} bytes, more than {TABLE_BYTES}; give it as the input itself"
        raise ShardError(reason, "shard-unreadable")
    return parse_table(place.read_bytes(), place.name)


def parse_table(data: bytes, name: str) -> Table:
    """The rows of a table.

    Raises:
        ShardError: it has no column `file_name`.
    """
    rows: dict[str, dict[str, Described]] = {}
    faults: list[tuple[int, str]] = []
    for row in Rows(io.BytesIO(data), name).walk():
        try:
            if row.fault:
                raise row.fault
            path = row.values.get(_FILE)
            if not isinstance(path, str) or not path.strip():
                raise RecordError(f"a row without {_FILE}", "row-malformed")
        except RecordError as e:
            faults.append((row.start, f"{name}: {e.reason}"))
            continue
        folder, base = posixpath.split(posixpath.normpath(path.strip().replace("\\", "/")))
        there = rows.setdefault(folder, {})
        values = {field: value for field, value in row.values.items() if field != _FILE}
        twice = f"{name} has two rows of {base!r}" if base in there else ""
        there[base] = Described(values, twice)
    if not rows and faults:
        raise ShardError(f"{name}: no row has a {_FILE}: {faults[0][1]}", "shard-unreadable")
    return Table(rows, tuple(faults))


def is_table(head: bytes, name: str) -> bool:
    """Whether the first bytes of a file are those of a table of files."""
    cut = head if head.endswith(b"\n") else head[: head.rfind(b"\n") + 1] or head
    try:
        rows = Rows(io.BytesIO(cut), name)
        return _FILE in rows.names or _FILE in next((row.values for row in rows.walk() if not row.fault), {})
    except ShardError:
        return False
