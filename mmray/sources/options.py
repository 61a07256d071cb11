"""How shards of any format are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Interleaved = Literal["strict", "regroup"]
KeySplit = Literal["first", "last"]
Captions = Literal["first", "join"]

#: Member extensions (or field names) of each column of RECORDS.
EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "gif", "jfif", "tif", "tiff", "avif", "heic", "heif"),
    "text": ("txt", "caption"),
    "audio": (
        *("ogg", "wav", "flac", "mp3", "opus", "oga", "aif", "aiff", "au"),
        *("m4a", "aac", "webm", "weba", "mka"),
    ),
    "meta": ("json",),
}


class FileOptions(BaseModel):
    """Which files a folder or a manifest may name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow_outside: bool = False  # outside the input: absolute paths, "..", links, and URLs of stores


class FetchOptions(BaseModel):
    """How http and https files of a manifest are fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow_private: bool = False  # addresses of this machine and of private networks
    connections_per_host: int = Field(4, ge=1, le=64)  # of one worker
    timeout_s: float = Field(20.0, gt=0, le=600)  # to connect, and for each read
    total_s: float = Field(60.0, gt=0, le=3600)  # for one file, at each attempt
    attempts: int = Field(3, ge=1, le=10)
    redirects: int = Field(5, ge=0, le=20)
    cache_bytes: int = Field(4 << 30, ge=0)  # of this machine, in mmray's cache directory


@dataclass(frozen=True)
class ReadOptions:
    """How a shard is cut into blocks, and limits of a record."""

    extensions: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: EXTENSIONS)
    #: Columns or features (lower-case) that are image, text, audio, meta or key; before built-in names.
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: FileOptions = field(default_factory=FileOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    member_bytes: int = 64 << 20
    block_rows: int = 64
    block_bytes: int = 32 << 20
    interleaved: Interleaved = (
        "strict"  # members of a record that are not neighbours: reject, or regroup them
    )
    regroup_rows: int = 256  # records that are open at once while members are regrouped
    key_split: KeySplit = "first"  # dot of a file name that ends the key; webdataset takes the first
    captions: Captions = "first"  # of several in one column or feature; join: all, with spaces between them
    carry: tuple[str, ...] = ()  # names of small members, columns or features to keep as `fields`
    database: str | None = None  # of an LMDB, by its name; None: the main one
    payload: bool = True  # False: addresses and errors only, to count or to index records
    #: Large payload of an LMDB stays in its memory-mapped file, and columns view it (see mmray.schema.VIEWS).
    views: bool = False

    @property
    def column_of(self) -> dict[str, str]:
        """Column of RECORDS by extension."""
        return {ext: column for column, exts in self.extensions.items() for ext in exts}
