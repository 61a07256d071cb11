"""One msgpack map → the fields of a record. Builds no objects for values that are not used.

One byte of msgpack may become a Python object of sixty bytes. So values that are neither strings nor bytes
are skipped, or read if they have at most a megabyte. Extension types, including timestamps, are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgpack

from mmray.errors import RecordError, of_machine

KIND = "lmdb-layout"  # type of every fault here: the value is not such a map
_MAX_FIELDS = 1024
_NESTED_BYTES = 1 << 20  # bytes of a field that is neither a string nor bytes
_NIL = 0xC0
#: Bytes of the length that follows the type (msgpack's spec, "str", "bin" and "map format family").
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_MAP_LENGTH_BYTES = {**dict.fromkeys(range(0x80, 0x90), 0), 0xDE: 2, 0xDF: 4}
_LIST_LENGTH_BYTES = {**dict.fromkeys(range(0x90, 0xA0), 0), 0xDC: 2, 0xDD: 4}


class Field(NamedTuple):
    """A name and its value."""

    name: str
    content: memoryview | None  # a string or bytes, as a view; None: it is something else
    packed: memoryview  # its bytes in the map, with their type

    @property
    def is_nil(self) -> bool:
        return self.packed[0] == _NIL

    @property
    def is_map(self) -> bool:
        return self.packed[0] in _MAP_LENGTH_BYTES

    @property
    def is_text(self) -> bool:
        """Whether it is a string, and not bytes."""
        return self.content is not None and not 0xC4 <= self.packed[0] <= 0xC6

    def to_json(self) -> bytes:
        """A map, list, number or boolean as JSON.

        Raises:
            RecordError: it has values that JSON lacks: bytes, extension types, infinite numbers.
        """
        try:
            value = msgpack.unpackb(self.packed)
            return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except Exception as e:  # msgpack and json have many; each is this field's fault
            if of_machine(e):
                raise
            raise RecordError(f"field {self.name!r} cannot be JSON: {e or type(e).__name__}", KIND) from e


def fields(value: memoryview) -> Iterator[Field]:
    """The fields of a map, in order.

    Raises:
        RecordError: the value is not a map, is truncated, or has bytes after its map.
    """
    count, at = _head(value, _MAP_LENGTH_BYTES, "map")
    for _ in range(count):
        label, begin = _string(value, at)
        if label is None:
            raise RecordError(f"a name at byte {at} is not a string", KIND)
        try:
            name = str(label, "utf-8")
        except UnicodeDecodeError as e:
            raise RecordError(f"the name at byte {at} is not UTF-8", KIND) from e
        content, at = _string(value, begin)
        if content is None:
            at += _nested_bytes(value[begin : begin + _NESTED_BYTES], name)
        yield Field(name, content, value[begin:at])
    _check_end(value, at, "map")


def items(value: memoryview) -> Iterator[Field]:
    """The items of a list, in order; their names are their places, from 0.

    Raises:
        RecordError: the value is not a list, is truncated, or has bytes after its list.
    """
    count, at = _head(value, _LIST_LENGTH_BYTES, "list")
    for place in range(count):
        begin = at
        content, at = _string(value, begin)
        if content is None:
            at += _nested_bytes(value[begin : begin + _NESTED_BYTES], str(place))
        yield Field(str(place), content, value[begin:at])
    _check_end(value, at, "list")


def _head(value: memoryview, length_bytes: Mapping[int, int], what: str) -> tuple[int, int]:
    """Number of fields or items, and where the first begins."""
    width = length_bytes.get(value[0]) if value else None
    if width is None:
        raise RecordError(f"not a msgpack {what}: begins with {bytes(value[:8]).hex()!r}", KIND)
    count = int.from_bytes(value[1 : 1 + width], "big") if width else value[0] & 0x0F
    if count > _MAX_FIELDS:
        raise RecordError(f"a {what} of {count} fields, more than {_MAX_FIELDS}", KIND)
    return count, 1 + width


def _check_end(value: memoryview, at: int, what: str) -> None:
    if at != len(value):
        raise RecordError(f"the {what} ends at byte {at}, the value at byte {len(value)}", KIND)


def _string(value: memoryview, at: int) -> tuple[memoryview | None, int]:
    """Content of a string or bytes, and where it ends; None and its start for another type."""
    if at >= len(value):
        raise RecordError(f"the map is truncated at byte {at}", KIND)
    code, begin = value[at], at + 1
    if 0xA0 <= code <= 0xBF:
        end = begin + (code & 0x1F)
    elif code in _LENGTH_BYTES:
        begin += _LENGTH_BYTES[code]
        end = begin + int.from_bytes(value[at + 1 : begin], "big")
    else:
        return None, at
    if end > len(value):
        raise RecordError(f"the map is truncated in the field at byte {at}", KIND)
    return value[begin:end], end


def _nested_bytes(value: memoryview, name: str) -> int:
    """Length in bytes of a value of another type."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(value)
    try:
        unpacker.skip()
    except msgpack.OutOfData as e:
        reason = f"field {name!r} is truncated, or is nested and over {_NESTED_BYTES} bytes"
        raise RecordError(reason, KIND) from e
    except Exception as e:
        if of_machine(e):
            raise
        raise RecordError(f"field {name!r} is not msgpack: {e or type(e).__name__}", KIND) from e
    return int(unpacker.tell())
