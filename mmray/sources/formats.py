"""Detects the format of a file by its first bytes, or by its name if these do not decide.

A name is only a hint. The end of a URL is not even that: options of the store may follow the path.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from mmray.sources.crc import masked_crc

Format = Literal["webdataset", "lmdb", "tfrecord", "parquet", "arrow", "csv", "jsonl", "folder"]
Compression = Literal["", "gzip", "bz2", "zstd"]


@dataclass(frozen=True)
class Kind:
    """The format and compression of a shard."""

    format: Format
    compression: Compression = ""  # if set, it is read as a stream: no seeking, no splitting

    def __str__(self) -> str:
        return f"{_NAMES[self.format]}{self.compression and f' in {self.compression}'}"


#: By the end of a name.
SUFFIXES: dict[str, Kind] = {
    ".tar": Kind("webdataset"),
    ".tar.gz": Kind("webdataset", "gzip"),
    ".tgz": Kind("webdataset", "gzip"),
    ".tar.bz2": Kind("webdataset", "bz2"),
    ".tar.zst": Kind("webdataset", "zstd"),
    ".lmdb": Kind("lmdb"),
    ".mdb": Kind("lmdb"),
    ".tfrecord": Kind("tfrecord"),
    ".tfrecord.gz": Kind("tfrecord", "gzip"),
    ".tfrecords": Kind("tfrecord"),
    ".tfrecords.gz": Kind("tfrecord", "gzip"),
    ".parquet": Kind("parquet"),
    ".arrow": Kind("arrow"),
    ".csv": Kind("csv"),
    ".tsv": Kind("csv"),
    ".jsonl": Kind("jsonl"),
    ".ndjson": Kind("jsonl"),
}

_NAMES: dict[Format, str] = {
    "webdataset": "a tar",
    "lmdb": "an LMDB",
    "tfrecord": "a TFRecord",
    "parquet": "a Parquet file",
    "arrow": "an Arrow file",
    "csv": "a CSV",
    "jsonl": "JSON Lines",
    "folder": "a folder of files",
}
#: Readable formats in words, as in the help of --input (`mmray.cli`).
READABLE = (
    "tars (plain, gzip, bzip2, zstd)",
    "LMDBs",
    "TFRecords (plain, gzip)",
    "Parquet, Arrow, CSV, TSV and JSONL files",
    "folders of loose files",
)
_READ = f"{', '.join(READABLE[:-1])} and {READABLE[-1]} are read"
_STREAMS: tuple[Format, ...] = ("webdataset", "tfrecord")  # formats that are also read compressed
#: The number of a shard, as in TensorFlow Datasets: "….tfrecord-00000-of-00002".
_PIECE = re.compile(r"-\d{5}-of-\d{5}$")
_NOTHING = Kind("lmdb")  # a hint without information; compared by identity
_LOCK = "lock.mdb"  # of an LMDB that is a directory

#: Other files that are often given as shards, by their first bytes, and the remedy.
_OTHERS: dict[bytes, str] = {
    b"PK\x03\x04": "a zip archive; repack it as a tar",
    b"PK\x05\x06": "an empty zip archive",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it",
    b"\x04\x22\x4d\x18": "compressed with lz4; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; repack it as a tar",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file; write its records as a tar",
    b"Obj\x01": "an Avro file; write it as Parquet",
    b"ORC": "an ORC file; write it as Parquet",
    b"\x93NUMPY": "a NumPy array; write its records as a tar",
    b"SQLite format 3\x00": "an SQLite database; write its records as a tar",
    b"version https://git-lfs.github.com/": "a Git LFS pointer, not the file; run `git lfs pull`",
}
_ARROW = b"ARROW1\x00\x00"  # of an IPC file; the start of a stream is not specific
_GZIP = b"\x1f\x8b\x08"
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte of 0x50 to 0x5f: pzstd begins with such a frame
_MDB_MAGIC = b"\xde\xc0\xef\xbe"  # of LMDB's mdb.c, 0xBEEFC0DE, after the head of the first page
_MDB_AT = (16, 24)  # of LMDB 0.9 and 1.0


def by_name(path: str) -> Kind | None:
    """The format that the end of a path suggests; None if it suggests no shard.

    Args:
        path: without a URL's options.
    """
    name = _PIECE.sub("", path.rpartition("/")[2])
    if name == _LOCK:
        return None
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def may_be_shard(path: str) -> bool:
    """Whether only its bytes decide if a file is a shard: the name ends in a shard number only."""
    name = path.rpartition("/")[2]
    plain = _PIECE.sub("", name)
    return not name.startswith((".", "_")) and ("." not in plain or plain != name)


def recognized(head: bytes) -> Kind | None:
    """The format of a file without a known suffix, if its first bytes are those of a readable shard."""
    kind, fault = by_bytes(head, _NOTHING)
    return None if fault or kind is _NOTHING else kind


def by_bytes(head: bytes, hint: Kind) -> tuple[Kind, str]:
    """The format of a file, and why it cannot be read: "" if it can, judging by its first bytes.

    Args:
        head: its first bytes; 64 KiB show what a stream contains.
        hint: format suggested by the name, used if the bytes do not decide.
    """
    compression = _compression(head)
    found = _plain(_decompressed(head, compression) if compression else head)
    if not compression:
        return (found, "") if isinstance(found, Kind) else (hint, found and f"is {found}; {_READ}")
    # The first block of a stream may be larger than the head; then its content is unknown.
    if isinstance(found, Kind) and found.format in _STREAMS:
        return Kind(found.format, compression), ""
    if not found and hint.format in _STREAMS:
        return Kind(hint.format, compression), ""
    what = f"is {found or 'something'} in {compression}"
    return hint, f"{what}; only tars and TFRecords are read compressed: unpack it"


def _plain(head: bytes) -> Kind | str:
    """What uncompressed bytes are: a format, something else in words, or "" if unknown."""
    if _is_header(
        head[: tarfile.BLOCKSIZE]
    ):  # first, because a tar begins with a name, which may be any bytes
        return Kind("webdataset")
    if head.startswith((b"PAR1", b"PARE")):
        return Kind("parquet")
    if head.startswith(_ARROW):
        return Kind("arrow")
    if any(head[at : at + 4] == _MDB_MAGIC for at in _MDB_AT):
        return Kind("lmdb")
    if len(head) >= 12 and masked_crc(head[:8]) == int.from_bytes(head[8:12], "little"):
        return Kind("tfrecord")
    if head[257:262] == b"ustar":  # of a damaged header
        return Kind("webdataset")
    return next((what for magic, what in _OTHERS.items() if head.startswith(magic)), "")


def _is_header(block: bytes) -> bool:
    """Whether a block has the checksum of a tar's header; before POSIX.1-1988 headers had nothing else."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _compression(head: bytes) -> Compression:
    if head.startswith(_GZIP):
        return "gzip"
    if _BZIP2.match(head):
        return "bz2"
    skippable = head[1:4] == _ZSTD_SKIPPABLE and head[0] >> 4 == 5
    return "zstd" if head.startswith(_ZSTD) or skippable else ""


def _decompressed(head: bytes, compression: Compression) -> bytes:
    """The first block of a stream; fewer bytes, or none, if it is damaged or its first block is large."""
    try:
        if compression == "gzip":
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, tarfile.BLOCKSIZE)
        with pa.CompressedInputStream(pa.BufferReader(head), compression) as stream:
            return bytes(stream.read(tarfile.BLOCKSIZE))
    except (zlib.error, OSError):
        return b""
