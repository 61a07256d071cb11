"""Which columns of a Parquet file are read, and what a row of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from mmray.errors import RecordError, of_machine
from mmray.schema import MODALITIES, error
from mmray.sources.options import EXTENSIONS, ReadOptions

#: Columns that count where none has the name of an extension.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image",),
    "text": ("text", "caption"),
    "audio": ("audio",),
    "meta": ("meta", "json"),
}
KEYS = ("key", "__key__", "id")  # the first that is there

_KEY_BYTES = 1 << 10  # longer keys are cut: blocks are not bounded by them
_MEDIA = ("image", "audio")  # columns of bytes, not of text
_BYTES = (pat.is_binary, pat.is_large_binary, pat.is_binary_view, pat.is_fixed_size_binary)
_STRINGS = (pat.is_string, pat.is_large_string, pat.is_string_view)

Values = list[tuple[str, Any]]  # names and scalars of a row; a name may come twice


class Columns:
    """Which columns of a file are read, and as what.

    They are chosen by name and type: columns of other types, such as lists, are left out. Where one is named
    in `columns`, or has the name of an extension, the built-in names do not count.
    """

    def __init__(self, schema: pa.Schema, options: ReadOptions) -> None:
        kinds = {column.name: _kind(column.type) for column in schema}
        fitting = {name.lower(): name for name, kind in kinds.items() if kind and kind != "scalar"}
        self._max_bytes = options.member_bytes
        self._column_of: dict[str, str] = {}
        self.fault: dict[str, str] | None = None  # why no row has anything
        seen = ", ".join(schema.names)
        for column in EXTENSIONS:
            built_in = [name for name in NAMES[column] if name not in options.column_of]
            configured = options.columns.get(column)
            ranks = [configured] if configured else [options.extensions.get(column, ()), built_in]
            there = ([fitting[name] for name in names if name in fitting] for names in ranks)
            found = next(filter(None, there), [])
            self._column_of |= dict.fromkeys(found[:1] if configured else found, column)
            if configured and not found:
                reason = f"columns.{column}: none of {', '.join(configured)} is a column that fits, of {seen}"
                self.fault = error("read", "columns-missing", reason)
        keys = {name.lower(): name for name, kind in kinds.items() if kind not in (None, "struct")}
        self._key = next((keys[name] for name in options.columns.get("key") or KEYS if name in keys), None)
        if not self.fault and not set(self._column_of.values()) & set(MODALITIES):
            reason = f"no image, text or audio among the columns {seen}; name one in `columns`"
            self.fault = error("read", "columns-missing", reason)
        self.paths = [self._key] if self._key else []  # what to read: without payload, keys only
        for name in self._column_of if options.payload else ():
            self.paths += [f"{name}.bytes", f"{name}.path"] if kinds[name] == "struct" else [name]

    def fields(self, values: Values) -> dict[str, Any]:
        """Key and payload of a row, or what is wrong with it."""
        key: dict[str, str] = {}
        found: dict[str, bytes] = {}
        try:
            keys = [_plain(value) for name, value in values if name == self._key]
            key = next(({"key": _text(scalar)} for scalar in keys if scalar.is_valid), {})
            for name, value in values:
                column = self._column_of.get(name)
                data = _content(name, value, column) if column else None
                if column is None or data is None:
                    continue
                if column in found:
                    reason = f"more than one {column}: {name!r} comes second; name one in `extensions`"
                    raise RecordError(reason, "repeated-member")
                if data.size > self._max_bytes:
                    reason = f"{name!r}: {data.size} bytes, more than limits.member_bytes={self._max_bytes}"
                    raise RecordError(reason, "member-too-large")
                found[column] = data.to_pybytes()
        except RecordError as e:
            return key | {"error": error("read", e.kind, e.reason)}
        return key | found


def _content(name: str, value: pa.Scalar, column: str) -> pa.Buffer | None:
    """Bytes of a value, where they lie; None of a null."""
    scalar = _plain(value)
    only_path = column in _MEDIA and scalar.is_valid and _kind(scalar.type) == "string"
    if isinstance(scalar, pa.StructScalar):
        path, scalar = scalar.get("path"), _plain(scalar["bytes"])
        only_path = not scalar.is_valid and path is not None and path.is_valid
    if only_path:
        reason = f"{name!r} holds a path or URL, which is not followed; write the table as CSV or JSONL"
        raise RecordError(reason, "parquet-path")
    return scalar.as_buffer() if scalar.is_valid else None


def _kind(type: pa.DataType) -> str | None:
    """What a column's type is good for; None if for nothing."""
    if isinstance(type, pa.BaseExtensionType):
        return _kind(type.storage_type)
    if pat.is_dictionary(type):
        return _kind(type.value_type)
    if any(test(type) for test in _BYTES):
        return "bytes"
    if any(test(type) for test in _STRINGS):
        return "string"
    if pat.is_struct(type):
        index = type.get_field_index("bytes")
        return "struct" if index >= 0 and _kind(type.field(index).type) == "bytes" else None
    return None if pat.is_nested(type) or pat.is_temporal(type) else "scalar"


def _plain(scalar: pa.Scalar) -> pa.Scalar:
    """The value of a dictionary or of an extension type.

    Raises:
        RecordError: a damaged dictionary has no such value.
    """
    if not scalar.is_valid or not isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar):
        return scalar
    try:
        value = scalar.value
    except Exception as e:
        if of_machine(e):
            raise
        raise RecordError(f"{e} ({type(e).__name__})", "record-damaged") from e
    return _plain(value)


def _text(key: pa.Scalar) -> str:
    if _kind(key.type) == "scalar":
        return str(key.as_py())
    return bytes(key.as_buffer()[:_KEY_BYTES]).decode(errors="backslashreplace")
