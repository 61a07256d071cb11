"""One msgpack map → the fields of a record. Nothing is built of bytes that no field of a record asks for.

One byte of msgpack may stand for a Python object of sixty, so that what is neither a string nor bytes is
passed over, or read where it has at most a megabyte. Extension types, timestamps among them, are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import msgpack

from mmray.errors import RecordError

KIND = "lmdb-layout"  # of every fault here: the value is not such a map
_MAX_FIELDS = 1024
_NESTED_BYTES = 1 << 20  # of a field that is neither a string nor bytes
_NIL = 0xC0
_STRINGS = {*range(0xA0, 0xC0), 0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB}  # first bytes of strings and of bytes
_MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}


class Field(NamedTuple):
    """A name and what it holds."""

    name: str
    content: bytes | None  # of a string or bytes; None: it is something else
    packed: memoryview  # as it lies in the map, with its type

    @property
    def is_nil(self) -> bool:
        return self.packed[0] == _NIL

    @property
    def is_map(self) -> bool:
        return self.packed[0] in _MAPS

    def to_json(self) -> bytes:
        """A map, list, number or boolean as JSON.

        Raises:
            RecordError: it holds what JSON does not know: bytes, extension types, infinite numbers.
        """
        if len(self.packed) > _NESTED_BYTES:
            raise RecordError(f"field {self.name!r} is nested and over {_NESTED_BYTES} bytes", KIND)
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
    if not value or value[0] not in _MAPS:
        raise RecordError(f"not a msgpack map: begins with {bytes(value[:8]).hex()!r}", KIND)
    unpacker = msgpack.Unpacker(raw=True, max_buffer_size=len(value))
    unpacker.feed(value)
    try:
        count = unpacker.read_map_header()
        if count > _MAX_FIELDS:
            raise RecordError(f"a map of {count} fields, more than {_MAX_FIELDS}", KIND)
        for _ in range(count):
            if value[unpacker.tell()] not in _STRINGS:
                raise RecordError(f"a name at byte {unpacker.tell()} is not a string", KIND)
            name = unpacker.unpack().decode()
            start = unpacker.tell()
            content = unpacker.unpack() if value[start] in _STRINGS else unpacker.skip()
            yield Field(name, content, value[start : unpacker.tell()])
    except UnicodeDecodeError as e:
        raise RecordError("the name of a field is not UTF-8", KIND) from e
    except (msgpack.OutOfData, IndexError) as e:
        raise RecordError(f"the map breaks off behind byte {unpacker.tell()}", KIND) from e
    except ValueError as e:
        reason = f"no msgpack behind byte {unpacker.tell()}: {e or type(e).__name__}"
        raise RecordError(reason, KIND) from e
    if unpacker.tell() != len(value):
        raise RecordError(f"{len(value) - unpacker.tell()} bytes follow after the map", KIND)
