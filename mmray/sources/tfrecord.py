"""A TFRecord of tf.train.Example or SequenceExample messages → Arrow blocks of RECORDS, streaming.

Frames and messages are parsed without TensorFlow, in bounded memory. A TFRecord has no end mark: a file
truncated between two records looks complete. A compressed file is a stream: offsets are of its decompressed
bytes, and a gap is reached by reading from the beginning.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import RecordError, ShardError
from mmray.magic import named
from mmray.schema import error
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.crc import masked_crc
from mmray.sources.examples import Message
from mmray.sources.features import Examples
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.sources.shards import Shard
from mmray.sources.stream import DecompressedFile

_HEAD = struct.Struct("<QI")  # length of the data, masked CRC of these eight bytes
_TAIL = struct.Struct("<I")  # masked CRC of the data
_BUFFER_BYTES = 1 << 20  # one request to an object store serves many small records
_NAMING_BYTES = 64 << 20  # bytes of a record whose names are read

_File = io.BufferedReader | DecompressedFile


def read_tfrecord(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a TFRecord as tables of RECORDS, in order.

    Reading seeks to the byte where each gap starts, and skips the data of other records. Without payload,
    wanted records are read anyway: keys and checksums are inside them.

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
    """Reads the frames of one shard and makes rows from them."""

    def __init__(self, shard: Shard, options: ReadOptions) -> None:
        self._shard_id = shard.id
        self._examples = Examples(options)
        self._most = len(EXTENSIONS) * options.member_bytes  # more than all columns of a record together
        self._max_bytes = options.member_bytes

    def read(self, file: _File, size: int | None, wanted: Sequence[Missing]) -> Iterator[dict[str, Any]]:
        """The wanted rows.

        Args:
            file: plain, or a stream.
            size: of the file, in bytes; None for a stream, whose end is unknown.
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
                    # Up to the end of the shard: no more is known.
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
        """Read the next Example, and take key and payload from it.

        Raises:
            ShardError: the file is truncated in it, after all.
            RecordError: something is wrong with it.
        """
        if data_bytes > self._most:
            what = f"the record has {data_bytes} bytes, more than {len(EXTENSIONS)} times"
            raise RecordError(f"{what} limits.member_bytes={self._max_bytes}", "member-too-large")
        data, tail = file.read(data_bytes), file.read(_TAIL.size)
        if len(tail) < _TAIL.size:
            raise _broken_off(file, "the file became shorter: it is truncated in this record")
        if _TAIL.pack(masked_crc(data)) != tail:
            raise RecordError("the data does not match its checksum", "record-damaged")
        self._examples.fill(record, data)


def _ends(file: _File, offset: int, size: int | None) -> bool:
    """Whether the file ends at an offset, without damage and truncation."""
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
        ShardError: it is damaged or truncated, so that no later frame can be found.
    """
    file.seek(offset)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        end = file.tell()
        raise _broken_off(file, f"the file is truncated at byte {end}, in the head of a record")
    data_bytes, crc = _HEAD.unpack(head)
    if crc != masked_crc(head[:8]):
        if offset == 0 and (what := named(head)):
            raise ShardError(f"not a supported TFRecord, but {what}", "shard-unreadable")
        reason = f"the length at byte {offset} does not match its checksum: later records cannot be found"
        raise ShardError(reason, "shard-damaged")
    end = offset + _HEAD.size + data_bytes + _TAIL.size
    if size is not None and end > size:
        reason = f"the file is truncated at byte {size}, in a record that ends at byte {end}"
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
