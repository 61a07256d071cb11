"""A TFRecord of tf.train.Example messages → Arrow blocks of RECORDS, streaming, in bounded memory.

Frames and messages are read by hand, so that no TensorFlow is needed. A TFRecord has no end mark: one that
breaks off between two records cannot be told from a whole one. Compressed files are refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import RecordError, ShardError
from mmray.schema import error
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.crc import masked_crc
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.sources.shards import Shard

#: Features that count where none has the name of an extension.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image/encoded", "image"),
    "text": ("text", "caption", "image/caption"),
    "audio": ("audio/encoded", "audio"),
    "meta": ("meta", "json"),
}
KEYS = ("key", "__key__", "image/filename", "id")  # the first that is there

_HEAD = struct.Struct("<QI")  # length of the data, masked CRC of these eight bytes
_TAIL = struct.Struct("<I")  # masked CRC of the data
_GZIP = b"\x1f\x8b"
_BUFFER_BYTES = 1 << 20  # one request to an object store serves many small records
_NAMING_BYTES = 64 << 20  # of a record whose names are looked at
_KEY_BYTES = 1 << 10  # longer keys are cut: blocks are not bounded by them
_MAX_FIELDS = 100_000  # of one Example, unneeded ones included: a quarter of a second
_VARINT, _LEN = 0, 2  # wire types
_FIXED_BYTES = {1: 8, 5: 4}  # by wire type

_Span = tuple[int, int]  # where a message or value begins and ends


def read_tfrecord(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a TFRecord as tables of RECORDS, in order.

    The walk goes to the byte where each gap starts, and passes over the data of what is not wanted. Where no
    payload is asked for, wanted records are read all the same: keys and checksums lie within them.

    Raises:
        OSError: the shard cannot be opened or read; anything wrong *inside* it is a row with an error.
    """
    place = shard.open()
    with place.open_input() as raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        yield from to_blocks(_Records(shard, options).read(file, wanted), options)


class _Records:
    """Walks the frames of one shard and makes rows of them."""

    def __init__(self, shard: Shard, options: ReadOptions) -> None:
        self._shard = shard
        self._max_bytes = options.member_bytes
        self._payload = options.payload
        taken = options.column_of
        built_in = {column: [name for name in NAMES[column] if name not in taken] for column in EXTENSIONS}
        self._names: dict[str, tuple[Sequence[str], ...]] = {
            name: (options.columns[name],)
            if name in options.columns
            else (options.extensions.get(name, ()), built_in[name])
            for name in EXTENSIONS
        }
        self._configured = options.columns
        self._keys = options.columns.get("key", KEYS)
        wanted = [name for ranks in self._names.values() for names in ranks for name in names]
        self._features = {name.encode(): name for name in (*wanted, *self._keys)}

    def read(self, file: io.BufferedReader, wanted: Sequence[Missing]) -> Iterator[dict[str, Any]]:
        row = offset = 0
        size = self._shard.size
        for gap in wanted:
            if gap.start > offset:
                row, offset = gap.first, gap.start
            while offset < size and (gap.last is None or row <= gap.last):
                # Without payload, and up to the end of the shard, where no more is found out.
                record = new_row(self._shard.id, row, str(row), offset, size - offset)
                try:
                    data_bytes = _frame(file, offset, size)
                    if row >= gap.first:
                        self._fill(record, file, data_bytes)
                    else:
                        record["length"] = _HEAD.size + data_bytes + _TAIL.size
                except ShardError as e:
                    record["error"] = error("shard", e.kind, e.reason)
                except RecordError as e:
                    record["error"] = error("read", e.kind, e.reason)
                offset += record["length"]
                if row >= gap.first:
                    record["end"] = offset == size
                    yield record
                row += 1
        if size == 0 and wanted[0].first == 0:  # a TFRecord of no records has no bytes
            yield empty_row(self._shard.id, "0", 0)

    def _fill(self, record: dict[str, Any], file: io.BufferedReader, data_bytes: int) -> None:
        """Read the Example that the file is at, and take key and payload out of it.

        Raises:
            ShardError: the file breaks off in it, after all.
            RecordError: something is wrong with it.
        """
        record["length"] = _HEAD.size + data_bytes + _TAIL.size
        if data_bytes > len(EXTENSIONS) * self._max_bytes:  # more than all its columns may hold
            self._refuse_size(f"the record has {data_bytes} bytes, more than {len(EXTENSIONS)} times")
        data, tail = file.read(data_bytes), file.read(_TAIL.size)
        if len(tail) < _TAIL.size:
            record["length"] = self._shard.size - record["offset"]
            raise ShardError("the file became shorter: it breaks off in this record", "shard-truncated")
        if _TAIL.pack(masked_crc(data)) != tail:
            raise RecordError("the data does not have its checksum", "record-damaged")
        values = _values(data, self._features)
        record["key"] = next((_text(values[name]) for name in self._keys if name in values), record["key"])
        found: dict[str, bytes] = {}
        for column, ranks in self._names.items():
            by_rank = ({n: v for n in names if isinstance(v := values.get(n), bytes)} for names in ranks)
            there = next(filter(None, by_rank), {})
            if column in self._configured:  # the first of them
                there = dict(list(there.items())[:1])
            if len(there) > 1:
                reason = f"more than one {column}: {', '.join(there)}; name the right one in `extensions`"
                raise RecordError(reason, "repeated-member")
            for name, value in there.items():
                if len(value) > self._max_bytes:
                    self._refuse_size(f"feature {name!r} has {len(value)} bytes, more than")
                found[column] = value
        if self._payload:
            record.update(found)

    def _refuse_size(self, what: str) -> NoReturn:
        raise RecordError(f"{what} limits.member_bytes={self._max_bytes}", "member-too-large")


def _frame(file: io.BufferedReader, offset: int, size: int) -> int:
    """Size of the data of the frame at `offset`, in bytes; leaves the file there.

    A frame is a length, its CRC, the data and its CRC, the numbers in little endian ("TFRecords format
    details" in TensorFlow's guide "TFRecord and tf.train.Example").

    Raises:
        ShardError: it is damaged or breaks off, so that no frame after it can be found.
    """
    file.seek(offset)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise ShardError(f"the file breaks off at byte {size}, in the head of a record", "shard-truncated")
    data_bytes, crc = _HEAD.unpack(head)
    if crc != masked_crc(head[:8]):
        if offset == 0 and head.startswith(_GZIP):
            raise ShardError("compressed with gzip, which is not read; unpack it", "shard-compressed")
        reason = f"the length at byte {offset} does not have its checksum: what follows cannot be found"
        raise ShardError(reason, "shard-damaged")
    end = offset + _HEAD.size + data_bytes + _TAIL.size
    if end > size:
        reason = f"the file breaks off at byte {size}, in a record that ends at byte {end}"
        raise ShardError(reason, "shard-truncated")
    return int(data_bytes)


def names_in(shard: Shard) -> list[str]:
    """Names of the features of the first record; none where it cannot be read.

    Raises:
        OSError: the shard cannot be opened or read.
    """
    with shard.open().open_input() as raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        try:
            data = file.read(min(_frame(file, 0, shard.size), _NAMING_BYTES))
            wire, found = _Wire(data), []
            for _, features in wire.fields((0, len(data)), 1):
                for _, entry in wire.fields(features, 1):
                    found += [data[slice(*span)] for number, span in wire.fields(entry, 1) if number == 1]
        except (ShardError, RecordError):
            return []
    return [name.decode(errors="replace") for name in found]


def _values(data: bytes, names: Mapping[bytes, str]) -> dict[str, bytes | int]:
    """The first value of each named feature of an Example, where it is bytes or an integer.

    As in TensorFlow's core/example/example.proto and feature.proto: field 1 of an Example is Features, whose
    field 1 is a map; an entry is a name (1) and a Feature (2), which is a bytes_list (1), a float_list (2) or
    an int64_list (3), with its values in field 1.
    """
    found: dict[str, bytes | int] = {}
    wire = _Wire(data)
    for _, features in wire.fields((0, len(data)), 1):
        for _, entry in wire.fields(features, 1):
            parts = dict(wire.fields(entry, 1, 2))
            name = names.get(data[slice(*parts.get(1, (0, 0)))].lower())
            value = wire.first(parts[2]) if name and 2 in parts else None
            if name and value is not None:
                found[name] = value
    return found


class _Wire:
    """The fields of a message and of those within it (https://protobuf.dev/programming-guides/encoding)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MAX_FIELDS

    def fields(self, message: _Span, *wanted: int) -> Iterator[tuple[int, _Span]]:
        """Number and value of the wanted fields that have a length: bytes, messages, packed numbers."""
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

    def first(self, feature: _Span) -> bytes | int | None:
        """First value of a Feature that is a bytes_list, or an int64_list as it is written: packed."""
        for kind, values in self.fields(feature, 1, 3):
            for _, (start, stop) in self.fields(values, 1):
                if kind == 1:
                    return self._data[start:stop]
                number, _ = self._varint(start, stop)
                return (number & (1 << 64) - 1 ^ 1 << 63) - (1 << 63)  # from two's complement
        return None

    def _varint(self, start: int, stop: int) -> tuple[int, int]:
        """An unsigned number of at most ten bytes, and where it ends."""
        value = 0
        for place, byte in enumerate(self._data[start : min(stop, start + 10)]):
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value, start + place + 1
        return _refuse(f"no number at byte {start}")


def _refuse(reason: str) -> NoReturn:
    raise RecordError(f"not a tf.train.Example: {reason}", "record-malformed")


def _text(key: bytes | int) -> str:
    return key[:_KEY_BYTES].decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)
