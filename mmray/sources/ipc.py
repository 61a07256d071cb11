"""Scans the heads of messages in an Arrow IPC stream or file before pyarrow allocates memory for any.

A head states how many bytes follow and their size uncompressed; pyarrow trusts it. So it is read here first:
"Serialization and Interprocess Communication" in Arrow's columnar format, Message.fbs and Schema.fbs. An IPC
file is a stream after eight bytes, with a footer that is not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mmray.errors import ShardError

MAGIC = b"ARROW1\0\0"
SCHEMA, DICTIONARY, BATCH = 1, 2, 3  # of the union MessageHeader
_CONTINUES = b"\xff\xff\xff\xff"
_HEAD_BYTES = 16 << 20  # of one message: names and types, and 16 bytes for each buffer
_BODY_BYTES = 1 << 30  # bytes of one message, which is held in memory
_INFLATED_BYTES = 1 << 30  # bytes of its buffers, uncompressed
_ROWS_PER_BYTE = 100  # rows of the file, at most; each is at least a row with an error
_MANY = 10_000_000


@dataclass(frozen=True)
class Message:
    """One message: its position, and the content of its head."""

    kind: int
    start: int
    stop: int
    rows: int  # of a batch


def messages(file: BinaryIO, size: int) -> Iterator[Message]:
    """The messages of a stream or file, in order; bodies are skipped.

    Args:
        file: seekable.
        size: its bytes.

    Raises:
        ShardError: it is truncated or damaged there, or the next message is too large.
    """
    file.seek(0)
    at = len(MAGIC) if file.read(len(MAGIC)) == MAGIC else 0
    while True:
        file.seek(at)
        mark = file.read(8)
        if mark[:4] == _CONTINUES:
            length, begin = int.from_bytes(mark[4:], "little", signed=True), at + 8
        else:  # of Arrow before 0.15
            length, begin = int.from_bytes(mark[:4], "little", signed=True), at + 4
        if len(mark) < 4 or (mark[:4] == _CONTINUES and len(mark) < 8):
            raise ShardError(f"truncated at byte {size}, without its end mark", "shard-truncated")
        if length == 0:
            return
        if not 8 <= length <= _HEAD_BYTES:
            raise ShardError(f"no message at byte {at}: a head of {length} bytes")
        if begin + length > size:
            raise ShardError(f"truncated at byte {size}, in the head of a message", "shard-truncated")
        file.seek(begin)
        message = _read_head(file, file.read(length), at, begin + length, size)
        yield message
        at = message.stop


def _read_head(file: BinaryIO, head: bytes, at: int, body: int, size: int) -> Message:
    """The checked content of a head.

    Args:
        file: whose body is examined if it is compressed.
        head: of the message.
        at: where the message begins.
        body: where its body does.
        size: of the file.
    """
    try:
        table = _Table.root(head)
        kind, body_bytes = table.number(1, "<B"), table.number(3, "<q")
        inner = table.table(2)
        batch = inner.table(1) if kind == DICTIONARY else inner
        rows = batch.number(0, "<q") if kind in (DICTIONARY, BATCH) else 0
        spans = batch.spans(2) if kind in (DICTIONARY, BATCH) else []
        compressed = kind in (DICTIONARY, BATCH) and batch.has(3)
    except (struct.error, IndexError) as e:
        raise ShardError(f"the message at byte {at} is damaged: {e}") from e
    if not 0 <= body_bytes <= _BODY_BYTES:
        reason = f"the message at byte {at} has {body_bytes} bytes, more than {_BODY_BYTES}"
        raise ShardError(reason, "shard-unreadable")
    if body + body_bytes > size:
        raise ShardError(f"truncated at byte {size}, in a message", "shard-truncated")
    if not 0 <= rows <= min(_ROWS_PER_BYTE * size, _MANY):
        raise ShardError(f"the message at byte {at} states {rows} rows")
    if any(start < 0 or length < 0 or start + length > body_bytes for start, length in spans):
        raise ShardError(f"a buffer of the message at byte {at} is outside of it")
    if compressed:
        _check_inflated(file, spans, at, body)
    return Message(kind, at, body + body_bytes, rows)


def _check_inflated(file: BinaryIO, spans: list[tuple[int, int]], at: int, body: int) -> None:
    """Refuse a message whose buffers become too large: each begins with its uncompressed size."""
    total = 0
    for start, length in spans:
        if length < 8:
            continue
        file.seek(body + start)
        stated = int.from_bytes(file.read(8), "little", signed=True)
        total += length if stated == -1 else stated
        if stated < -1 or total > _INFLATED_BYTES:
            reason = f"the message at byte {at} becomes more than {_INFLATED_BYTES} bytes"
            raise ShardError(reason, "shard-unreadable")


class _Table:
    """A table of a flatbuffer (https://flatbuffers.dev/internals): fields by their numbers."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        (back,) = struct.unpack_from("<i", data, at)
        self._fields = at - back
        if not 0 <= self._fields <= len(data) - 4:
            raise IndexError("no table")
        (self._size,) = struct.unpack_from("<H", data, self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def has(self, number: int) -> bool:
        return self._place(number) is not None

    def number(self, number: int, form: str) -> int:
        place = self._place(number)
        return 0 if place is None else int(struct.unpack_from(form, self._data, place)[0])

    def table(self, number: int) -> _Table:
        place = self._place(number)
        if place is None:
            raise IndexError(f"no field {number}")
        return _Table(self._data, place + struct.unpack_from("<I", self._data, place)[0])

    def spans(self, number: int) -> list[tuple[int, int]]:
        """A vector of two int64 each: offset and length of buffers."""
        place = self._place(number)
        if place is None:
            return []
        start = place + struct.unpack_from("<I", self._data, place)[0]
        (count,) = struct.unpack_from("<I", self._data, start)
        if start + 4 + 16 * count > len(self._data):
            raise IndexError("a vector is too long")
        return list(struct.iter_unpack("<qq", self._data[start + 4 : start + 4 + 16 * count]))

    def _place(self, number: int) -> int | None:
        entry = 4 + 2 * number
        if entry + 2 > self._size:
            return None
        (offset,) = struct.unpack_from("<H", self._data, self._fields + entry)
        return self._at + offset if offset else None
