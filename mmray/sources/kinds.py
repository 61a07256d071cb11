"""What types of columns are good for."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.types as pat

#: Kinds of columns that each column of RECORDS takes, named as by `kind_of`.
FITS: Mapping[str, tuple[str, ...]] = {
    "image": ("bytes", "string", "embedded", "octets", "list"),
    "audio": ("bytes", "string", "embedded", "octets", "list", "samples"),
    "text": ("bytes", "string", "embedded", "list"),
    "meta": ("bytes", "string", "embedded", "samples", "nested"),
}
MAY_BE_MEDIA = ("bytes", "embedded", "octets", "list", "samples")  # with any name
_BYTES = (pat.is_binary, pat.is_large_binary, pat.is_binary_view, pat.is_fixed_size_binary)
_STRINGS = (pat.is_string, pat.is_large_string, pat.is_string_view)
_LISTS = (
    *(pat.is_list, pat.is_large_list, pat.is_fixed_size_list),
    *(pat.is_list_view, pat.is_large_list_view),
)
#: Sample types of `{array, sampling_rate}` and, for a WAV, format code and bytes a sample.
SAMPLES: Mapping[pa.DataType, tuple[int, str]] = {
    pa.int16(): (1, "<i2"),
    **dict.fromkeys((pa.float16(), pa.float32(), pa.float64()), (3, "<f4")),
}


def kind_of(type: pa.DataType) -> str:
    """The kind of a column, by its type.

    bytes, string   also in a dictionary or an extension type
    embedded        a struct with `bytes`, as Hugging Face's datasets have images and sounds
    samples         a struct of `array` and `sampling_rate`, as they have decoded sounds
    octets          a list of 8-bit integers
    list            of strings, bytes or embedded
    scalar, time    numbers and such; null: no value at all; nested: all else
    """
    if isinstance(type, pa.BaseExtensionType):
        return kind_of(type.storage_type)
    if pat.is_dictionary(type):
        return kind_of(type.value_type)
    if any(test(type) for test in _BYTES):
        return "bytes"
    if any(test(type) for test in _STRINGS):
        return "string"
    if pat.is_null(type):
        return "null"
    if pat.is_struct(type):
        if _kind_of_field(type, "bytes") == "bytes":
            return "embedded"
        return "samples" if _has_samples(type) else "nested"
    if is_list(type):
        if type.value_type in (pa.uint8(), pa.int8()):
            return "octets"
        kind = kind_of(type.value_type)
        return kind if kind == "null" else "list" if kind in ("bytes", "string", "embedded") else "nested"
    if pat.is_temporal(type):
        return "time"
    return "nested" if pat.is_nested(type) else "scalar"


def is_list(type: pa.DataType) -> bool:
    """Whether it is one of Arrow's types of lists."""
    return any(test(type) for test in _LISTS)


def has_lists(type: pa.DataType) -> bool:
    """Whether it contains lists, or maps, which are lists of pairs."""
    if isinstance(type, pa.BaseExtensionType):
        return has_lists(type.storage_type)
    if pat.is_struct(type):
        return any(has_lists(field.type) for field in type)
    return is_list(type) or pat.is_map(type)


def paths_of(name: str, kind: str) -> list[str]:
    """What to read of a column."""
    parts = {"embedded": ("bytes", "path"), "samples": ("array", "sampling_rate")}
    return [f"{name}.{part}" for part in parts[kind]] if kind in parts else [name]


def _kind_of_field(type: pa.DataType, name: str) -> str:
    index = type.get_field_index(name)
    return kind_of(type.field(index).type) if index >= 0 else ""


def _has_samples(type: pa.DataType) -> bool:
    array, rate = type.get_field_index("array"), type.get_field_index("sampling_rate")
    if array < 0 or rate < 0 or not pat.is_integer(type.field(rate).type):
        return False
    values = type.field(array).type
    return is_list(values) and values.value_type in SAMPLES
