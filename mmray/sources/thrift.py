"""Reads integers from structs in Thrift's compact protocol, which Parquet uses for its metadata.

As in thrift's doc/specs/thrift-compact-protocol.md. Only the requested fields are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

#: Requested fields of a struct, by number: an integer (int), a struct (its own shape), or a list of structs
#: (a list of one shape).
Shape: TypeAlias = "Mapping[int, type[int] | Shape | list[Shape]]"

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
)
_INTEGERS = (4, 5, 6)  # of 16, 32 and 64 bits, with the same encoding
_FIXED_BYTES = {_BYTE: 1, _DOUBLE: 8, _UUID: 16}
_DEPTH = 32


class Compact:
    """Reads structs from bytes.

    Raises:
        EOFError: from any method, if the bytes end too early.
        ValueError: if they do not follow the protocol.
    """

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self._data = data
        self.at = at  # the next byte

    def struct(self, shape: Shape, depth: int = _DEPTH) -> dict[int, Any]:
        """The requested fields of a struct, by number; fields of another type are left out."""
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else _signed(self._varint())
            wanted = shape.get(number)
            if wanted is int and kind in _INTEGERS:
                found[number] = _signed(self._varint())
            elif isinstance(wanted, Mapping) and kind == _STRUCT:
                found[number] = self.struct(wanted, _deeper(depth))
            elif isinstance(wanted, list) and kind == _LIST:
                count, kind = self._list_head()
                if kind != _STRUCT:
                    raise ValueError("a list whose elements are not structs")
                found[number] = [self.struct(wanted[0], _deeper(depth)) for _ in range(count)]
            elif kind not in (_TRUE, _FALSE):  # which have no bytes of their own
                self._skip(kind, depth)
        return found

    def _skip(self, kind: int, depth: int) -> None:
        depth = _deeper(depth)
        if kind in _INTEGERS:
            self._varint()
        elif kind in _FIXED_BYTES:
            self._pass(_FIXED_BYTES[kind])
        elif kind == _BINARY:
            self._pass(self._varint())
        elif kind in (_LIST, _SET):
            count, kind = self._list_head()
            self._skip_all((kind,), count, depth)
        elif kind == _MAP:
            if count := self._varint():
                kinds = self._byte()
                self._skip_all((kinds >> 4, kinds & 15), count, depth)
        elif kind == _STRUCT:
            self.struct({}, depth)
        else:
            raise ValueError(f"type {kind} before byte {self.at}")

    def _skip_all(self, kinds: tuple[int, ...], count: int, depth: int) -> None:
        for _ in range(count):
            for kind in kinds:
                self._skip(_BYTE if kind in (_TRUE, _FALSE) else kind, depth)

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        count = head >> 4
        return (self._varint() if count == 15 else count), head & 15

    def _byte(self) -> int:
        try:
            byte = self._data[self.at]
        except IndexError as e:
            raise EOFError from e
        self.at += 1
        return byte

    def _pass(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise EOFError

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError(f"no number before byte {self.at}")


def _signed(value: int) -> int:
    """From zigzag: 0, -1, 1, -2 … as 0, 1, 2, 3 …"""
    return value >> 1 ^ -(value & 1)


def _deeper(depth: int) -> int:
    if not depth:
        raise ValueError(f"nested more than {_DEPTH} deep")
    return depth - 1
