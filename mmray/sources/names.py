"""Keys of LMDB entries → the records that they are members of, many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.sources.options import EXTENSIONS
from mmray.sources.webdataset import _META, _split

Ints = npt.NDArray[np.int64]

COLUMNS = tuple(EXTENSIONS)  # of RECORDS that hold payload


@dataclass(frozen=True)
class Records:
    """Records among consecutive entries, in order; entries and rows are counted from the first of those."""

    keys: pa.StringArray
    first: Ints  # entry that each record begins with
    stop: Ints  # just past its last entry
    # Of each member that a column takes:
    entry: Ints
    row: Ints
    column: Ints
    doubtful: tuple[int, ...] = ()  # rows that may be the rest of a record: others' entries lie before them

    def __len__(self) -> int:
        return len(self.first)

    def part(self, low: int, high: int) -> Records:
        """The records from row `low` to before `high`."""
        begin = self.first[low]
        a, b = np.searchsorted(self.row, (low, high))
        return Records(
            self.keys[low:high],
            self.first[low:high] - begin,
            self.stop[low:high] - begin,
            self.entry[a:b] - begin,
            self.row[a:b] - low,
            self.column[a:b],
            tuple(row - low for row in self.doubtful if low <= row < high),
        )


def group_members(names: Sequence[bytes], before: bytes, column_of: Mapping[str, str]) -> Records:
    """Neighbours `<key>.<extension>` of one key are a record.

    Args:
        names: keys of consecutive entries.
        before: key of the entry before them.
        column_of: column by extension, in lower case.
    """
    keys: list[bytes] = []
    first, stop, entry, cell, doubtful = [], [], [], [], []
    codes: dict[bytes, int] = {}  # of extensions, as they are written
    start, size, base = b"", 0, 0  # the open record's key and dot, their length, and its first cell
    for i, name in enumerate(names):
        code = codes.get(name[size:]) if name.startswith(start) else None
        if code is None:
            key, extension = split_name(name)
            if not extension:
                continue
            code = _code(extension, column_of)
            if not name.endswith(b"__"):  # or it may be a note, with another key
                codes[name[len(key) + 1 :]] = code
            if not keys or key != keys[-1]:
                start = key + b"."
                if (names[i - 1] if i else before).startswith(start):
                    doubtful.append(len(keys))
                size, base = len(start), len(keys) * len(COLUMNS)
                keys.append(key)
                first.append(i)
                stop.append(i)
        stop[-1] = i + 1
        if code >= 0:
            entry.append(i)
            cell.append(base + code)
    row, column = np.divmod(np.array(cell, np.int64), len(COLUMNS))
    return Records(
        texts_of(keys),
        np.array(first, np.int64),
        np.array(stop, np.int64),
        np.array(entry, np.int64),
        row,
        column,
        tuple(doubtful),
    )


def each_a_record(names: list[bytes], column: str) -> Records:
    """Every entry is a record with one member in a column."""
    entry = np.arange(len(names))
    if any(name.startswith(b"__") for name in names):
        entry = np.flatnonzero([not is_note(name) for name in names])
        names = [names[i] for i in entry]
    columns = np.full(len(entry), COLUMNS.index(column))
    return Records(texts_of(names), entry, entry + 1, entry, np.arange(len(entry)), columns)


def split_name(name: bytes) -> tuple[bytes, str]:
    """Key and lower-case extension, as of a tar member; no extension for what is not part of a record."""
    key, _, rest = name.partition(b".")
    if key and b"/" not in rest and not key.startswith(b"__") and not key.endswith(b"/"):  # almost always
        return key, rest.decode("utf-8", "surrogateescape").lower()
    text, extension = _split(name.decode("utf-8", "surrogateescape"))
    return text.encode("utf-8", "surrogateescape"), extension


def is_note(name: bytes) -> bool:
    """Whether an entry is a note of whoever wrote the environment, as `__len__`; tars have the same."""
    return name.startswith(b"__") and _META.match(name.decode("utf-8", "surrogateescape")) is not None


def text_of(name: bytes) -> str:
    """A key as text; one that is not UTF-8 as "0x" and its bytes in hexadecimal."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return f"0x{name.hex()}"


def texts_of(names: list[bytes]) -> pa.StringArray:
    """As `text_of`."""
    try:
        return pa.array(names, pa.string())
    except pa.ArrowInvalid:  # not UTF-8
        return pa.array([text_of(name) for name in names], pa.string())


def _code(extension: str, column_of: Mapping[str, str]) -> int:
    """The column that takes members of an extension, by number; -1 for none."""
    column = column_of.get(extension)
    return COLUMNS.index(column) if column else -1
