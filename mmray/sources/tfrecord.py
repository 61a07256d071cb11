"""A TFRecord of tf.train.Example or SequenceExample messages → Arrow blocks of RECORDS, streaming.

Frames and messages are read by hand, so that no TensorFlow is needed, and in bounded memory. A TFRecord has
no end mark: one that breaks off between two records cannot be told from a whole one. A compressed one is a
stream: offsets are of the bytes in it, and a gap is gone to from its beginning.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import RecordError, ShardError
from mmray.magic import named
from mmray.schema import MODALITIES, error
from mmray.sources.beside import CARRIED_BYTES, as_text, listed, plain, several_captions
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.crc import masked_crc
from mmray.sources.examples import BYTES, FLOATS, INTS, KINDS, Feature, Message, Value
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.sources.shards import Shard
from mmray.sources.stream import DecompressedFile
from mmray.unread import OF_TYPE, SEVERAL, Unread

#: Features that count where none has the name of an extension.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image/encoded", "image", "image/data"),
    "text": ("text", "caption", "image/caption"),
    "audio": ("audio/encoded", "audio"),
    "meta": ("meta", "json"),
}
KEYS = ("key", "__key__", "image/filename", "id", "image/image_id")  # the first that is there

_HEAD = struct.Struct("<QI")  # length of the data, masked CRC of these eight bytes
_TAIL = struct.Struct("<I")  # masked CRC of the data
_BUFFER_BYTES = 1 << 20  # one request to an object store serves many small records
_NAMING_BYTES = 64 << 20  # of a record whose names are looked at
_KEY_BYTES = 1 << 10  # longer keys are cut: blocks are not bounded by them
_SETS = 1024  # of names of features that are not read, which are remembered

_File = io.BufferedReader | DecompressedFile


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
    with place.open_input() as raw:
        if shard.compressed:
            stream = DecompressedFile(raw, shard.compression)
            yield from to_blocks(_Records(shard, options).read(stream, None, wanted), options)
            return
        with io.BufferedReader(raw, _BUFFER_BYTES) as file:
            yield from to_blocks(_Records(shard, options).read(file, shard.size, wanted), options)


class _Records:
    """Walks the frames of one shard and makes rows of them."""

    def __init__(self, shard: Shard, options: ReadOptions) -> None:
        self._shard_id = shard.id
        self._examples = Examples(options)
        self._most = len(EXTENSIONS) * options.member_bytes  # more than all columns of a record may hold
        self._max_bytes = options.member_bytes

    def read(self, file: _File, size: int | None, wanted: Sequence[Missing]) -> Iterator[dict[str, Any]]:
        """The wanted rows.

        Args:
            file: plain, or a stream.
            size: of the file, in bytes; None of a stream, whose end is not known.
            wanted: gaps.
        """
        row = offset = 0
        for gap in wanted:
            if gap.start > offset:
                row, offset = gap.first, gap.start
            while (gap.last is None or row <= gap.last) and not _ends(file, offset, size):
                record = new_row(self._shard_id, row, str(row), offset, 0)
                try:
                    data_bytes = _frame(file, offset, size)
                    record["length"] = _HEAD.size + data_bytes + _TAIL.size
                    if row >= gap.first:
                        self._fill(record, file, data_bytes)
                except ShardError as e:
                    # Up to the end of the shard, where no more is found out.
                    size = max(offset, file.tell()) if size is None else size
                    record["length"] = size - offset
                    record["error"] = error("shard", e.kind, e.reason)
                except RecordError as e:
                    record["error"] = error("read", e.kind, e.reason)
                offset += record["length"]
                if row >= gap.first:
                    record["end"] = _ends(file, offset, size)
                    yield record
                row += 1
        if row == 0 and wanted[0].first == 0:  # a TFRecord of no records has no bytes
            yield empty_row(self._shard_id, "0", 0)

    def _fill(self, record: dict[str, Any], file: _File, data_bytes: int) -> None:
        """Read the Example that the file is at, and take key and payload out of it.

        Raises:
            ShardError: the file breaks off in it, after all.
            RecordError: something is wrong with it.
        """
        if data_bytes > self._most:
            what = f"the record has {data_bytes} bytes, more than {len(EXTENSIONS)} times"
            raise RecordError(f"{what} limits.member_bytes={self._max_bytes}", "member-too-large")
        data, tail = file.read(data_bytes), file.read(_TAIL.size)
        if len(tail) < _TAIL.size:
            raise _broken_off(file, "the file became shorter: it breaks off in this record")
        if _TAIL.pack(masked_crc(data)) != tail:
            raise RecordError("the data does not have its checksum", "record-damaged")
        self._examples.fill(record, data)


class Examples:
    """What goes into the columns of a row, by the names of features."""

    def __init__(self, options: ReadOptions) -> None:
        self._max_bytes = options.member_bytes
        self._payload = options.payload
        self._captions = options.captions
        self._carried = {name.encode("utf-8", "surrogateescape"): name for name in options.carry}
        taken = options.column_of
        built_in = {column: [name for name in NAMES[column] if name not in taken] for column in EXTENSIONS}
        self._configured = options.columns
        self._keys = options.columns.get("key", KEYS)
        self._names: dict[str, tuple[Sequence[str], ...]] = {
            name: (options.columns[name],)
            if name in options.columns
            else (options.extensions.get(name, ()), built_in[name])
            for name in EXTENSIONS
        }
        #: By the name of a feature, as bytes: the same as text, and the column that may take it.
        self._known: dict[bytes, tuple[str, str | None]] = {
            name.encode(): (name, None) for name in self._keys
        }
        for column, ranks in self._names.items():
            self._known |= {name.encode(): (name, column) for names in ranks for name in names}
        self._said: dict[tuple[bytes, ...], list[dict[str, Any]] | None] = {}  # one for all rows alike

    def fill(self, record: dict[str, Any], data: bytes) -> None:
        """Take key and payload, and what is beside them, out of a message.

        Raises:
            RecordError: something is wrong with it.
        """
        message = Message(data)
        keys: dict[str, str] = {}
        found: dict[str, list[bytes]] = {}  # values by name, of the columns
        small: dict[str, str | None] = {}
        others: list[bytes] = []
        beside: list[Unread] = []
        for feature in message.features():
            if feature.name in self._carried:
                self._carry(message, feature, small, beside)
            known = self._known.get(feature.name.lower())
            if known is None:
                if feature.name not in self._carried:
                    others.append(feature.name)
                continue
            name, column = known
            kind, values = _values_of(message, feature, column)
            if name in self._keys and kind in (BYTES, INTS):
                keys[name] = _text(values[0])
            if column and kind == BYTES:
                found[name] = [value for value in values if isinstance(value, bytes)]
            elif column in MODALITIES and kind and (len(values) > 1 or kind == FLOATS):
                beside.append(Unread(f"feature {name[:40]}{OF_TYPE}{KINDS[kind]}", name, column))
            elif kind and name not in keys and feature.name not in self._carried:
                others.append(feature.name)
        chosen = next((name for name in self._keys if name in keys), None)
        if chosen:
            record["key"] = keys.pop(chosen)
        payload: dict[str, bytes] = {}
        for column in EXTENSIONS:
            content = self._choose(column, found, beside)
            if content is not None:
                payload[column] = content
        if self._payload:
            record.update(payload)
        others += (name.encode() for name in (*found, *keys) if name not in small)  # that were not chosen
        record["fields"] = small or None
        record["unread"] = self._unread(tuple(others), beside)

    def _choose(self, column: str, found: dict[str, list[bytes]], beside: list[Unread]) -> bytes | None:
        """What goes into a column; takes the feature that it is of out of those that were found."""
        by_rank = ([name for name in names if name in found] for names in self._names[column])
        there = next(filter(None, by_rank), [])
        if not there:
            return None
        if column in self._configured:
            there = there[:1]
        if len(there) > 1:
            reason = f"more than one {column}: {', '.join(there)}; name the right one in `extensions`"
            raise RecordError(reason, "repeated-member")
        (name,) = there
        values = found.pop(name)
        content: bytes | None = values[0]
        if column == "text":
            content, further = several_captions(name, values, self._captions)
            beside += [further] if further else []
        elif len(values) > 1:
            beside.append(Unread(f"feature {name[:40]}{SEVERAL}", name))
        if content is not None and len(content) > self._max_bytes:
            reason = f"feature {name!r} has {len(content)} bytes, more than limits.member_bytes"
            raise RecordError(f"{reason}={self._max_bytes}", "member-too-large")
        return content

    def _carry(
        self, message: Message, feature: Feature, small: dict[str, str | None], beside: list[Unread]
    ) -> None:
        """One value as it is, several as a list in JSON, none as null."""
        name = self._carried[feature.name]
        values = [value for span in feature.spans for value in _short(*message.values(span))]
        if sum(len(value) if isinstance(value, bytes) else 8 for value in values) > CARRIED_BYTES:
            beside.append(Unread(f"feature {name[:40]}{OF_TYPE}more than {CARRIED_BYTES} bytes", name))
        else:
            small[name] = as_text(values if len(values) > 1 else next(iter(values), None))

    def _unread(self, others: tuple[bytes, ...], beside: list[Unread]) -> list[dict[str, Any]] | None:
        """What is said of a row; rows with the same features share it."""
        if others not in self._said:
            if len(self._said) >= _SETS:
                self._said.clear()
            names = [name.decode("utf-8", "backslashreplace") for name in others]
            self._said[others] = listed(plain("feature", names))
        said = self._said[others]
        return (said or []) + (listed(beside) or []) if beside else said


def _values_of(message: Message, feature: Feature, column: str | None) -> tuple[int, list[Value]]:
    """Kind and values of a feature; of a feature list of words, the one text that they are."""
    if not feature.is_list:
        return message.values(feature.spans[0]) if column == "text" else message.values(feature.spans[0], 2)
    parts = [message.values(span) for span in feature.spans]
    kind = max((kind for kind, _ in parts), default=0)
    values = [value for part, some in parts if part == kind for value in some]
    if kind == BYTES and column == "text":
        return kind, [b" ".join(value for value in values if isinstance(value, bytes))]
    return kind, values


def _short(kind: int, values: list[Value]) -> list[Value]:
    """Values with no more digits than 32-bit floats have."""
    return [float(str(np.float32(value))) for value in values] if kind == FLOATS else values


def _ends(file: _File, offset: int, size: int | None) -> bool:
    """Whether there is nothing more at an offset; damage of a stream is something, and so is a cut."""
    if size is not None or not isinstance(file, DecompressedFile):
        return size is not None and offset >= size
    file.seek(offset)
    return not file.read(1) and not file.fault and file.tell() == offset


def _broken_off(file: _File, reason: str) -> ShardError:
    fault = file.fault if isinstance(file, DecompressedFile) else None
    return ShardError(fault, "shard-damaged") if fault else ShardError(reason, "shard-truncated")


def _frame(file: _File, offset: int, size: int | None) -> int:
    """Size of the data of the frame at `offset`, in bytes; leaves the file there.

    A frame is a length, its CRC, the data and its CRC, the numbers in little endian ("TFRecords format
    details" in TensorFlow's guide "TFRecord and tf.train.Example").

    Raises:
        ShardError: it is damaged or breaks off, so that no frame after it can be found.
    """
    file.seek(offset)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        end = file.tell()
        raise _broken_off(file, f"the file breaks off at byte {end}, in the head of a record")
    data_bytes, crc = _HEAD.unpack(head)
    if crc != masked_crc(head[:8]):
        if offset == 0 and (what := named(head)):
            raise ShardError(f"no TFRecord that is read, but {what}", "shard-unreadable")
        reason = f"the length at byte {offset} does not have its checksum: what follows cannot be found"
        raise ShardError(reason, "shard-damaged")
    end = offset + _HEAD.size + data_bytes + _TAIL.size
    if size is not None and end > size:
        reason = f"the file breaks off at byte {size}, in a record that ends at byte {end}"
        raise ShardError(reason, "shard-truncated")
    return int(data_bytes)


def names_in(shard: Shard) -> list[str]:
    """Names of the features of the first record; none where it cannot be read.

    Raises:
        OSError: the shard cannot be opened or read.
    """
    with shard.open().open_input() as raw:
        file: _File = DecompressedFile(raw, shard.compression) if shard.compressed else io.BufferedReader(raw)
        try:
            size = _frame(file, 0, None if shard.compressed else shard.size)
            features = list(Message(file.read(min(size, _NAMING_BYTES))).features())
        except (ShardError, RecordError):
            return []
    return [feature.name.decode(errors="replace") for feature in features]


def _text(key: Value) -> str:
    return key[:_KEY_BYTES].decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)
