"""One msgpack map → the fields of a record, without copying what they hold.

The map and its strings are read by hand, so that payloads stay where they are. Everything else is the msgpack
package's work, on at most a megabyte: one byte of msgpack may stand for a Python object of sixty. Extension
types, timestamps among them, are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import msgpack

from mmray.errors import RecordError

KIND = "lmdb-layout"  # of every fault here: the value is not such a map
_MAX_FIELDS = 1024
_NESTED_BYTES = 1 << 20  # of a field that is neither a string nor bytes
NIL = 0xC0
#: Bytes of the length that follows the type byte (msgpack's spec, "str format family", "bin format family").
LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_MAP_LENGTH_BYTES = {0xDE: 2, 0xDF: 4}


class Field(NamedTuple):
    """A name and what it holds."""

    name: str
    span: range | None  # where in the map its content lies, a string or bytes; None: it is something else
    packed: memoryview  # as it lies in the map, with its type

    @property
    def is_nil(self) -> bool:
        return self.packed[0] == NIL

    @property
    def is_map(self) -> bool:
        return 0x80 <= self.packed[0] <= 0x8F or self.packed[0] in _MAP_LENGTH_BYTES

    def to_json(self) -> bytes:
        """A map, list, number or boolean as JSON.

        Raises:
            RecordError: it holds what JSON does not know: bytes, extension types, infinite numbers.
        """
        try:
            value = msgpack.unpackb(self.packed)
            return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError) as e:  # msgpack's own errors are ValueErrors
            raise RecordError(f"field {self.name!r} cannot be JSON: {e}", KIND) from e


def fields(value: memoryview) -> Iterator[Field]:
    """The fields of a map, in order.

    Raises:
        RecordError: the value is no map, breaks off, or goes on after its map.
    """
    count, at = _map_head(value)
    for _ in range(count):
        span = _span(value, at)
        if span is None:
            raise RecordError(f"a name at byte {at} is not a string", KIND)
        try:
            name = str(value[span.start : span.stop], "utf-8")
        except UnicodeDecodeError as e:
            raise RecordError(f"the name at byte {at} is not UTF-8", KIND) from e
        begin, span = span.stop, _span(value, span.stop)
        if span is None:
            at = begin + _nested_size(value[begin:], name)
            yield Field(name, None, value[begin:at])
        else:
            at = span.stop
            yield Field(name, span, value[begin:at])
    if at != len(value):
        raise RecordError(f"{len(value) - at} bytes follow after the map", KIND)


def _map_head(value: memoryview) -> tuple[int, int]:
    """Number of fields, and where the first begins."""
    code = value[0] if len(value) else NIL
    if 0x80 <= code <= 0x8F:
        return code & 0x0F, 1
    width = _MAP_LENGTH_BYTES.get(code)
    if width is None or len(value) < 1 + width:
        raise RecordError(f"not a msgpack map: begins with {bytes(value[:8]).hex()!r}", KIND)
    count = int.from_bytes(value[1 : 1 + width], "big")
    if count > _MAX_FIELDS:
        raise RecordError(f"a map of {count} fields, more than {_MAX_FIELDS}", KIND)
    return count, 1 + width


def _span(value: memoryview, at: int) -> range | None:
    """Where the content of a string or of bytes lies; None for other types."""
    code = value[at] if at < len(value) else _breaks_off(at)
    if 0xA0 <= code <= 0xBF:
        span = range(at + 1, at + 1 + (code & 0x1F))
    elif width := LENGTH_BYTES.get(code):
        start = at + 1 + width
        span = range(start, start + int.from_bytes(value[at + 1 : start], "big"))
    else:
        return None
    return span if span.stop <= len(value) else _breaks_off(at)


def _nested_size(value: memoryview, name: str) -> int:
    """Bytes that something of another type takes."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(value[:_NESTED_BYTES])
    try:
        unpacker.skip()
    except msgpack.OutOfData as e:
        raise RecordError(
            f"field {name!r} breaks off, or is nested and over {_NESTED_BYTES} bytes", KIND
        ) from e
    except ValueError as e:
        raise RecordError(f"field {name!r} is no msgpack: {e or type(e).__name__}", KIND) from e
    return int(unpacker.tell())


def _breaks_off(at: int) -> NoReturn:
    raise RecordError(f"the map breaks off in the field at byte {at}", KIND)
