"""Chooses the columns of a Parquet file; reads their values and other values of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from mmray.errors import RecordError
from mmray.schema import MODALITIES, error
from mmray.sources.beside import CARRIED_BYTES, listed, plain
from mmray.sources.cells import carried, content_of, is_there, resolved
from mmray.sources.kinds import FITS, MAY_BE_MEDIA, has_lists, kind_of, paths_of
from mmray.sources.names import is_meta
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.sources.unlisted import modality_of
from mmray.unread import OF_TYPE, Unread

#: Column names that are used if no column has the name of an extension.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image",),
    "text": ("text", "caption"),
    "audio": ("audio",),
    "meta": ("meta", "json"),
}
KEYS = ("key", "__key__", "id")  # the first one present

_KEY_BYTES = 1 << 10  # longer keys are truncated, to bound the size of blocks
_KEY_KINDS = ("bytes", "string", "scalar")

Values = list[tuple[str, Any]]  # names and scalars of a row; a name may occur twice


class Columns:
    """Which columns of a file are read, and as what.

    They are chosen by name and type. If one is named in `columns`, or has the name of an extension, the
    built-in names are not used. Other columns are reported for each row. A column that could be a missing
    modality is examined for each row, because a row with an empty value lacks nothing.
    """

    def __init__(self, schema: pa.Schema, options: ReadOptions) -> None:
        self._types = {column.name: column.type for column in schema}
        self._kinds = kinds = {name: kind_of(type) for name, type in self._types.items()}
        self._options = options
        self._max_bytes = options.member_bytes
        self._column_of: dict[str, str] = {}
        self.fault: dict[str, str] | None = None  # why no row can be read
        seen = ", ".join(schema.names)
        for column in EXTENSIONS:
            fitting = {name.lower(): name for name, kind in kinds.items() if kind in FITS[column]}
            built_in = [name for name in NAMES[column] if name not in options.column_of]
            configured = options.columns.get(column)
            ranks = [configured] if configured else [options.extensions.get(column, ()), built_in]
            there = ([fitting[name] for name in names if name in fitting] for names in ranks)
            found = next(filter(None, there), [])
            self._column_of |= dict.fromkeys(found[:1] if configured else found, column)
            if configured and not found:
                reason = f"columns.{column}: none of {', '.join(configured)} is a suitable column of {seen}"
                self.fault = error("read", "columns-missing", reason)
        keys = {name.lower(): name for name, kind in kinds.items() if kind in _KEY_KINDS}
        self._key = next((keys[name] for name in options.columns.get("key") or KEYS if name in keys), None)
        self._key_kind = kinds[self._key] if self._key else ""
        if not self.fault and not set(self._column_of.values()) & set(MODALITIES):
            reason = f"no image, text or audio among the columns {seen}; name one in `columns`"
            self.fault = error("read", "columns-missing", reason)
        self._carried = [name for name in options.carry if name in kinds]
        self._watched: dict[str, Unread] = {}  # reported for rows in which they have a value
        self._plain: list[str] = []
        #: Columns with unknown names, which are classified by their bytes: see `classify`.
        self.doubtful: Sequence[str] = []
        if options.payload and not self.fault:
            self._sort_others()
        self._unread = listed(plain("column", self._plain))  # of each row

    @property
    def paths(self) -> list[str]:
        """Columns to read; without payload, only keys."""
        paths = [self._key] if self._key else []
        if self._options.payload:
            for name in (*self._column_of, *self._watched):
                paths += paths_of(name, self._kinds[name])
            paths += [name for name in self._carried if name not in paths]
        return paths

    @property
    def has_lists(self) -> bool:
        """Whether a row may have any number of values."""
        read = (*self._column_of, *self._watched, *self._carried, *self.doubtful)
        return any(has_lists(self._types[name]) for name in read)

    def classify(self, name: str, head: bytes) -> None:
        """Classify an unknown column by the first bytes of its first value."""
        modality = modality_of("", head)
        if modality is None or modality in self._column_of.values():
            self._plain.append(name)
            self._unread = listed(plain("column", self._plain))
        else:
            self._watched[name] = Unread(f"column {name[:40]}", name, modality)

    def fields(self, values: Values) -> dict[str, Any]:
        """Key and payload of a row, or its fault, and its other values."""
        fields: dict[str, Any] = {}
        found: dict[str, bytes] = {}
        beside: list[Unread] = []
        captions, max_bytes = self._options.captions, self._max_bytes
        try:
            keys = [resolved(value) for name, value in values if name == self._key]
            fields = next(({"key": _text(scalar, self._key_kind)} for scalar in keys if scalar.is_valid), {})
            for name, value in values:
                column = self._column_of.get(name)
                if column is None:
                    if name in self._watched and is_there(value):
                        beside.append(self._watched[name])
                    continue
                data, unread = content_of(name, value, self._kinds[name], column, captions, max_bytes)
                if unread:
                    beside.append(unread)
                if data is None:
                    continue
                if column in found:
                    reason = f"more than one {column}: {name!r} is the second; name one in `extensions`"
                    raise RecordError(reason, "repeated-member")
                if len(data) > max_bytes:
                    reason = f"{name!r}: {len(data)} bytes, more than limits.member_bytes={max_bytes}"
                    raise RecordError(reason, "member-too-large")
                found[column] = data if isinstance(data, bytes) else data.to_pybytes()
            if self._carried:
                fields["fields"] = self._carry(values, beside)
        except RecordError as e:
            return fields | {"error": error("read", e.kind, e.reason)}
        if beside:
            fields["unread"] = (self._unread or []) + (listed(beside) or [])
        elif self._unread:
            fields["unread"] = self._unread
        return fields | found

    def _sort_others(self) -> None:
        """Decide what to report for the columns that are not chosen."""
        chosen = set(self._column_of.values())
        for name, kind in self._kinds.items():
            if name in (*self._column_of, self._key, *self._carried) or kind == "null" or is_meta(name):
                continue
            modality = _modality_named(name, self._options) or ("audio" if kind == "samples" else None)
            if kind in ("scalar", "time") or modality in chosen:
                self._plain.append(name)
            elif modality:
                fits = kind in FITS[modality]
                self._watched[name] = Unread(
                    _typed(name, None if fits else self._types[name]), name, modality
                )
            elif kind in MAY_BE_MEDIA and not chosen.issuperset(("image", "audio")):
                self.doubtful = [*self.doubtful, name]
            else:
                self._plain.append(name)

    def _carry(self, values: Values, beside: list[Unread]) -> dict[str, str | None]:
        """Carried values of a row, by name; those that cannot be carried are reported."""
        small: dict[str, str | None] = {}
        for name, value in values:
            if name in self._carried:
                try:
                    small[name] = carried(value, CARRIED_BYTES)
                except RecordError:
                    beside.append(Unread(_typed(name, f"more than {CARRIED_BYTES} bytes"), name))
        return small


def _typed(name: str, type: object) -> str:
    """The kind of a column by its name and, if the type is why it is not read, its type."""
    return f"column {name[:40]}" + (f"{OF_TYPE}{str(type)[:60]}" if type else "")


def _modality_named(name: str, options: ReadOptions) -> str | None:
    """The modality that a column's name suggests, in the singular or plural."""
    name = name.lower()
    for modality in MODALITIES:
        names = (*options.extensions.get(modality, ()), *NAMES[modality])
        if name in names or name.removesuffix("s") in names:
            return modality
    return modality_of(name)


def _text(key: pa.Scalar, kind: str) -> str:
    if kind == "scalar":
        return str(key.as_py())
    return bytes(key.as_buffer()[:_KEY_BYTES]).decode(errors="backslashreplace")
