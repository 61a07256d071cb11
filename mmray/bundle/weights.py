"""Finds the external weight files of an ONNX file, from its bytes, without the onnx package.

Only messages that lead to a tensor are parsed; other contents are skipped by length. Field numbers are those
of onnx.proto (ONNX 1.20), the encoding is that of Protocol Buffers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

# By message: its fields whose messages may lead to a tensor.
_LEADS_TO: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external_data"},
    "external_data": {},
}
_KEY, _VALUE = 1, 2  # of external_data
_MOST_DEPTH = 200  # of messages; graphs in graphs


class Malformed(Exception):  # noqa: N818  (describes the file)
    """The bytes are not an ONNX model."""


def external_files(graph: Path) -> set[str]:
    """Names of the external files of an ONNX file's tensors, as stored, relative to its directory.

    Raises:
        Malformed: it is not an ONNX file.
        OSError: it cannot be read.
    """
    if not graph.stat().st_size:
        raise Malformed("empty")
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return set(_locations(data, 0, len(data), "model", 0))


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _MOST_DEPTH:
        raise Malformed(f"more than {_MOST_DEPTH} nested messages")
    key = value = b""
    for number, first, last in _fields(data, start, end):
        inner = _LEADS_TO[message].get(number)
        if inner:
            yield from _locations(data, first, last, inner, depth + 1)
        elif message == "external_data" and number == _KEY:
            key = data[first:last]
        elif message == "external_data" and number == _VALUE:
            value = data[first:last]
    if key == b"location":
        yield value.decode("utf-8", "surrogateescape")


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first and last byte of each field that has a length."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at, end)
        elif kind == 2:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise Malformed(f"a field that goes beyond its message at byte {at}")
            yield tag >> 3, at, at + length
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise Malformed(f"a field of unknown kind at byte {at}")
    if at != end:
        raise Malformed(f"a field that goes beyond its message at byte {at}")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Malformed(f"a number without an end at byte {at}")
