"""Keys of LMDB entries → the records that they are members of, many at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.sources.options import EXTENSIONS
from mmray.sources.webdataset import _META, _split

Ints = npt.NDArray[np.int64]

COLUMNS = tuple(EXTENSIONS)  # of RECORDS that hold payload
_NO_COLUMN, _NO_MEMBER = -1, -2  # an extension that no column takes; an entry that belongs to no record


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


def group_members(names: pa.BinaryArray, before: bytes, column_of: Mapping[str, str]) -> Records:
    """Neighbours `<key>.<extension>` of one key are a record.

    Args:
        names: keys of consecutive entries.
        before: key of the entry before them.
        column_of: column by extension, in lower case.
    """
    quick = _split_quickly(names)
    keys, extensions = quick or _split_each(names)
    encoded = extensions.dictionary_encode()
    known = np.array([_code(value, column_of) for value in encoded.dictionary.to_pylist()], np.int64)
    code = known[encoded.indices.to_numpy()]
    members = np.flatnonzero(code != _NO_MEMBER)
    code = code[members]
    runs = pc.run_end_encode(keys if len(members) == len(names) else keys.take(members))
    ends = runs.run_ends.to_numpy().astype(np.int64)
    begins = np.append(0, ends)[:-1]
    first, taken = members[begins], code != _NO_COLUMN
    # Names that are split quickly have no slash behind a dot: none lies among another record's entries.
    suspects = range(len(ends) if quick is None else min(1, len(ends)))
    return Records(
        keys=runs.values if quick else texts_of(runs.values),
        first=first,
        stop=members[ends - 1] + 1,
        entry=members[taken],
        row=np.repeat(np.arange(len(ends)), ends - begins)[taken],
        column=code[taken],
        doubtful=tuple(
            row
            for row in suspects
            if _lies_within(
                names[first[row] - 1].as_py() if first[row] else before, names[first[row]].as_py()
            )
        ),
    )


def each_a_record(names: pa.BinaryArray, column: str) -> Records:
    """Every entry is a record with one member in a column."""
    entry = np.arange(len(names))
    if pc.starts_with(names, "__").true_count:
        entry = np.flatnonzero([not is_note(name) for name in names.to_pylist()])
        names = names.take(entry)
    columns = np.full(len(entry), COLUMNS.index(column))
    return Records(texts_of(names), entry, entry + 1, entry, np.arange(len(entry)), columns)


def split_name(name: bytes) -> tuple[bytes, str]:
    """Key and lower-case extension, as of a tar member; no extension for what is not part of a record."""
    key, extension = _split(name.decode("utf-8", "surrogateescape"))
    return key.encode("utf-8", "surrogateescape"), extension


def is_note(name: bytes) -> bool:
    """Whether an entry is a note of whoever wrote the environment, as `__len__`; tars have the same."""
    return name.startswith(b"__") and _META.match(name.decode("utf-8", "surrogateescape")) is not None


def text_of(name: bytes) -> str:
    """A key as text; one that is not UTF-8 as "0x" and its bytes in hexadecimal."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return f"0x{name.hex()}"


def texts_of(names: pa.BinaryArray) -> pa.StringArray:
    """As `text_of`."""
    try:
        return names.cast(pa.string())
    except pa.ArrowInvalid:  # not UTF-8
        return pa.array([text_of(name) for name in names.to_pylist()], pa.string())


def _split_quickly(names: pa.BinaryArray) -> tuple[pa.StringArray, pa.StringArray] | None:
    """Keys and extensions, where each name may be split at its first dot; None where the rule says more."""
    try:
        texts = names.cast(pa.string())
    except pa.ArrowInvalid:  # not UTF-8
        return None
    halves = pc.split_pattern(texts, ".", max_splits=1).values
    if len(halves) != 2 * len(names):
        return None
    keys, extensions = (halves.take(np.arange(half, len(halves), 2)) for half in (0, 1))
    odd = (
        pc.starts_with(keys, "__"),  # a note, maybe
        pc.ends_with(keys, "/"),  # hidden, maybe
        pc.equal(keys, ""),
        pc.match_substring(extensions, "/"),  # the dot is that of a folder
    )
    return None if any(each.true_count for each in odd) else (keys, extensions)


def _split_each(names: pa.BinaryArray) -> tuple[pa.BinaryArray, pa.BinaryArray]:
    split = [split_name(name) for name in names.to_pylist()]
    extensions = [extension.encode("utf-8", "surrogateescape") for _, extension in split]
    return pa.array([key for key, _ in split], pa.binary()), pa.array(extensions, pa.binary())


def _code(extension: str | bytes, column_of: Mapping[str, str]) -> int:
    text = extension if isinstance(extension, str) else extension.decode("utf-8", "surrogateescape")
    if not text:
        return _NO_MEMBER
    column = column_of.get(text.lower())
    return COLUMNS.index(column) if column else _NO_COLUMN


def _lies_within(before: bytes, name: bytes) -> bool:
    """Whether an entry lies between the first that may be of a record and one that is."""
    return before.startswith(split_name(name)[0] + b".")
