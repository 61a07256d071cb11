"""The features of a tf.train.Example or SequenceExample, parsed without TensorFlow.

As in TensorFlow's core/example/example.proto and feature.proto. Field 1 of both messages is Features, whose
field 1 is a map; an entry is a name (1) and a Feature (2), which is a bytes_list (1), a float_list (2) or an
int64_list (3), with its values in field 1. Field 2 of a SequenceExample is FeatureLists, a map of names to
FeatureLists, whose field 1 are Features.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from mmray.errors import RecordError

BYTES, FLOATS, INTS = 1, 2, 3  # kinds of a Feature
KINDS = {BYTES: "bytes_list", FLOATS: "float_list", INTS: "int64_list"}

_MAX_FIELDS = 100_000  # of one message, unneeded ones included: a quarter of a second
_MAX_VALUES = 100_000
_VARINT, _LEN = 0, 2  # wire types
_FIXED_BYTES = {1: 8, 5: 4}  # by wire type

_Span = tuple[int, int]  # where a message or value begins and ends
Value = bytes | float


class Feature(NamedTuple):
    """A name, and the position of its value."""

    name: bytes
    spans: list[_Span]  # one Feature; of a feature list any number
    is_list: bool


class Message:
    """An Example or SequenceExample.

    Raises:
        RecordError: from any method, if the bytes are not such a message.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MAX_FIELDS

    def features(self) -> Iterator[Feature]:
        """All its features, in byte order."""
        for number, part in self._fields((0, len(self._data)), 1, 2):
            for _, entry in self._fields(part, 1):
                parts = dict(self._fields(entry, 1, 2))
                if 2 in parts:
                    spans = [parts[2]] if number == 1 else [span for _, span in self._fields(parts[2], 1)]
                    yield Feature(self._data[slice(*parts.get(1, (0, 0)))], spans, number == 2)

    def values(self, span: _Span, most: int = _MAX_VALUES) -> tuple[int, list[Value]]:
        """Kind and first values of a Feature; 0 if it has none."""
        for kind, values in self._fields(span, BYTES, FLOATS, INTS):
            found: list[Value] = []
            for _, (start, stop) in self._fields(values, 1):  # numbers are packed
                if kind == BYTES:
                    found.append(self._data[start:stop])
                elif kind == FLOATS:
                    count = min((stop - start) // 4, most)
                    found += struct.unpack_from(f"<{count}f", self._data, start)
                else:
                    while start < stop and len(found) < most:
                        number, start = self._varint(start, stop)
                        found.append((number & (1 << 64) - 1 ^ 1 << 63) - (1 << 63))  # two's complement
                if len(found) >= most:
                    break
            if found:
                return kind, found[:most]
        return 0, []

    def _fields(self, message: _Span, *wanted: int) -> Iterator[tuple[int, _Span]]:
        """Number and value of the wanted fields with a length: bytes, messages, packed numbers."""
        start, stop = message
        while start < stop:
            self._left -= 1
            if self._left < 0:
                _refuse(f"more than {_MAX_FIELDS} fields")
            tag, start = self._varint(start, stop)
            kind = tag & 7
            if kind == _VARINT:
                _, end = self._varint(start, stop)
            elif kind == _LEN:
                size, start = self._varint(start, stop)
                end = start + size
            elif kind in _FIXED_BYTES:
                end = start + _FIXED_BYTES[kind]
            else:
                _refuse(f"wire type {kind} before byte {start}")
            if end > stop:
                _refuse(f"a field ends at byte {end}, its message at byte {stop}")
            if kind == _LEN and tag >> 3 in wanted:
                yield tag >> 3, (start, end)
            start = end

    def _varint(self, start: int, stop: int) -> tuple[int, int]:
        """An unsigned number of at most ten bytes, and where it ends."""
        if start < stop and (byte := self._data[start]) < 0x80:  # most
            return byte, start + 1
        value = 0
        for place, byte in enumerate(self._data[start : min(stop, start + 10)]):
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value, start + place + 1
        return _refuse(f"no number at byte {start}")


def _refuse(reason: str) -> NoReturn:
    raise RecordError(f"not a tf.train.Example: {reason}", "record-malformed")
