"""How shards are read, whatever their format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Interleaved = Literal["strict", "regroup"]
KeySplit = Literal["first", "last"]
Captions = Literal["first", "join"]

#: Member extensions (or field names) of each column of RECORDS.
EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "gif"),
    "text": ("txt", "caption"),
    "audio": ("ogg", "wav", "flac", "mp3", "opus"),
    "meta": ("json",),
}


@dataclass(frozen=True)
class ReadOptions:
    """How a shard is cut into blocks, and what a record may hold."""

    extensions: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: EXTENSIONS)
    member_bytes: int = 64 << 20
    block_rows: int = 64
    block_bytes: int = 32 << 20
    interleaved: Interleaved = (
        "strict"  # members of a record that lie apart: reject them, or bring them together
    )
    regroup_rows: int = 256  # records that are open at once while members are brought together
    key_split: KeySplit = "first"  # dot of a file name that ends the key; webdataset takes the first
    captions: Captions = "first"  # of several in one column or feature; join: all, with spaces between them
    carry: tuple[str, ...] = ()  # names of small members, columns or features to keep as `fields`
    database: str | None = None  # of an LMDB, by its name; None: the main one
    payload: bool = True  # False: addresses and errors only, to count or to index records
    #: Large payload of an LMDB stays in its mapped file, and columns view it (see mmray.schema.VIEWS).
    views: bool = False

    @property
    def column_of(self) -> dict[str, str]:
        """Column of RECORDS by extension."""
        return {ext: column for column, exts in self.extensions.items() for ext in exts}
