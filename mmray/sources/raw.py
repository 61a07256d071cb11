"""Records with all their members, known or not, one at a time, for conversions.

Members are grouped into records like in the readers. Records that those reject are lost here, too, and are
listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from mmray.errors import InputError, RecordError, ShardError
from mmray.magic import HEAD_BYTES, named
from mmray.sources.foreign import AnyLayout
from mmray.sources.links import Links, Payload
from mmray.sources.lmdb import open_layout
from mmray.sources.members import Members
from mmray.sources.names import COLUMNS, encoded, is_meta, of_system, split, text_of
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard
from mmray.sources.tar import ALL_BYTES, Damage, Member, Other, walk
from mmray.sources.webdataset import opened_tar
from mmray.unread import DANGLING, NAMELESS, PACKED_LINK, SPECIAL, SYSTEM, Unread

MEMBER_BYTES = 1 << 30  # bytes of one member; records are held in memory

#: Extensions for values stored without one, by their kind; for others by the column.
_EXTENSIONS = {
    "a PNG picture": "png",
    "a WebP picture": "webp",
    "a GIF picture": "gif",
    "a BMP picture": "bmp",
    "a TIFF picture": "tif",
    "an AVIF picture": "avif",
    "an HEIC picture": "heic",
    "a WAV sound": "wav",
    "a FLAC sound": "flac",
    "an MP3 sound": "mp3",
    "an MP3 sound with an ID3 tag": "mp3",
    "an AIFF sound": "aiff",
    "an AU sound": "au",
    "an AAC sound": "aac",
    "an M4A sound": "m4a",
    "a WebM or Matroska video or sound": "webm",
}
_OF_COLUMNS = {"image": "jpg", "text": "txt", "audio": "ogg", "meta": "json"}


@dataclass(frozen=True)
class Record:
    """One record, whole."""

    key: bytes
    members: dict[str, bytes]  # payload by extension, unchanged

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return sum(map(len, self.members.values()))

    def digest(self) -> bytes:
        """SHA-256 of key and members, independent of the order of members."""
        total = hashlib.sha256()
        for part in (self.key, *(p for e, data in sorted(self.members.items()) for p in (encoded(e), data))):
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)
        return total.digest()


@dataclass(frozen=True)
class Lost:
    """A record that cannot be converted."""

    key: str
    reason: str


def read_raw(shard: Shard, layout: AnyLayout | None = None) -> Iterator[Record | Lost | Unread]:
    """The records of a tar or an LMDB, in order, and members of no record between them.

    Args:
        shard: one of these formats.
        layout: of the LMDB; None: decided by its first entries.

    Raises:
        InputError: another format, or an LMDB with an unknown layout.
        OSError: the shard cannot be opened or read.
    """
    if shard.format == "webdataset":
        return _of_tar(shard)
    if shard.format != "lmdb":
        raise InputError(f"{shard.url}: a {shard.format} cannot be converted; give tars or LMDBs")
    return _of_lmdb(shard, layout)


def extension_of(column: str, data: bytes | memoryview) -> str:
    """Extension for payload of a column of RECORDS, by its first bytes."""
    known = named(bytes(data[:HEAD_BYTES])) if column in ("image", "audio") else ""
    return _EXTENSIONS.get(known, _OF_COLUMNS[column])


@dataclass
class _Open:
    """A record whose members are being collected."""

    key: bytes
    members: dict[str, bytes] = field(default_factory=dict)
    fault: str | None = None  # why it cannot be converted; the first reason is kept

    def add(self, extension: str, data: bytes | memoryview | None, size: int) -> None:
        if extension in self.members:
            self.fault = self.fault or f"more than one member .{extension}"
        elif data is None or size > MEMBER_BYTES:
            self.fault = self.fault or f"member .{extension} has {size} bytes, more than {MEMBER_BYTES}"
        elif self.fault is None:
            self.members[extension] = bytes(data)

    def close(self) -> Record | Lost:
        return Lost(text_of(self.key), self.fault) if self.fault else Record(self.key, self.members)


def _of_tar(shard: Shard) -> Iterator[Record | Lost | Unread]:
    open_record: _Open | None = None
    after: str | None = None  # damage in which the next record may have lost members
    with opened_tar(shard) as file:
        size = None if shard.compressed else shard.size
        links = Links(file, size) if size is not None else None
        for part in walk(file, size, max_bytes=MEMBER_BYTES, wanted=_wanted):
            key = split(part.name)[0] if part.name else None
            if not isinstance(part, Damage) and not _wanted(part.name):
                if not is_meta(part.name):
                    yield Unread(SYSTEM if of_system(part.name) else NAMELESS, part.name)
                continue
            if isinstance(part, Other) and part.target is None:
                yield Unread(SPECIAL, part.name)
                continue
            if open_record is None or (key is not None and encoded(key) != open_record.key):
                if open_record is not None:
                    yield open_record.close()
                fault = f"may lack members lost just before it: {after}" if after else None
                open_record, after = _Open(encoded(key or ""), fault=fault), None
            if isinstance(part, Damage):
                after = part.reason
                open_record.fault = open_record.fault or after
                continue
            after = None
            found = part if isinstance(part, Member) else links.find(part.target or "") if links else None
            if found is None:
                kind = DANGLING if links else PACKED_LINK
                open_record.fault = open_record.fault or Unread(kind, part.name).reason
                continue
            data = part.data if isinstance(part, Member) else None
            if isinstance(found, Payload) and found.size <= MEMBER_BYTES:
                file.seek(found.offset)
                data = file.read(found.size)
            if isinstance(part, Member) and part.is_sparse:
                open_record.fault = open_record.fault or f"{part.name!r} is a sparse file without its holes"
            open_record.add(part.name[len(key or "") + 1 :], data, found.size)
    if open_record is not None:
        yield open_record.close()


def _wanted(name: str) -> int:
    return ALL_BYTES if split(name)[1] and not of_system(name) else 0


def _of_lmdb(shard: Shard, layout: AnyLayout | None) -> Iterator[Record | Lost | Unread]:
    options = ReadOptions(member_bytes=MEMBER_BYTES)
    try:
        with open_layout(shard, options, layout, whole=True) as (_, opened):
            for found in opened.group(0):
                record = _Open(found[0])
                try:
                    for name, data in opened.contents(found).items():
                        column = name in COLUMNS and not isinstance(opened, Members)
                        record.add(extension_of(name, data) if column else name, data, len(data))
                except RecordError as e:
                    record.fault = e.reason
                yield record.close()
                yield from opened.orphans
                opened.orphans = []
    except ShardError as e:  # part of a database would be taken for the whole
        raise OSError(f"{shard.url}: {e.reason}") from e
