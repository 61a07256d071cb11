"""Which shards there are, and what to call them. Identity comes from path and size, never from position."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import pyarrow.fs as pafs
from braceexpand import braceexpand

from mmray.errors import InputError
from mmray.storage import Location

SUFFIXES = (".tar",)


@dataclass(frozen=True)
class Shard:
    """One tar of records."""

    id: str  # path relative to the input root, '@', size in bytes
    url: str  # what Location.parse opens
    size: int  # bytes

    @property
    def name(self) -> str:
        """The relative path alone, for people."""
        return self.id.rpartition("@")[0]

    def open(self) -> Location:
        return Location.parse(self.url)


def list_shards(inputs: Sequence[str]) -> list[Shard]:
    """List the shards that the inputs name, sorted by id.

    Args:
        inputs: directories (searched recursively for .tar files), files, globs, or brace patterns such as
            ``data/train-{000000..000099}.tar``; paths or URLs.

    Raises:
        InputError: an input that names nothing, or two shards that would get the same id.
    """
    shards: dict[str, Shard] = {}
    for text in inputs:
        matches = list(_expand(text))
        if not matches:
            raise InputError(f"{text}: no {' or '.join(SUFFIXES)} shards there; check --input")
        for root, place, size in matches:
            shard = Shard(f"{place.path[len(root) :].lstrip('/')}@{size}", _url(place), size)
            if shards.setdefault(shard.id, shard).url != shard.url:
                raise InputError(
                    f"{shard.url} and {shards[shard.id].url} have the same name and size below their inputs; "
                    "give their common directory as the one input instead"
                )
    return [shards[id] for id in sorted(shards)]


def _expand(text: str) -> Iterable[tuple[str, Location, int]]:
    """Root, location and size of each shard that one input names.

    The root is the input's fixed directory, so that an id does not change when other inputs come or go.
    """
    try:
        patterns = list(braceexpand(text))
    except ValueError as e:
        raise InputError(f"{text}: unbalanced braces in the pattern") from e
    fixed = text[: text.index("{")] if len(patterns) > 1 else None
    for pattern in patterns:
        place = Location.parse(pattern)
        # Any name in the place of the first brace lies in the directory that all the patterns share.
        root = None if fixed is None else _directory(Location.parse(f"{fixed}_").path)
        if glob.has_magic(pattern):
            yield from _glob(place, root)
            continue
        info = place.info()
        if info.type == pafs.FileType.Directory:
            for file in place.files(recursive=True):
                if file.path.endswith(SUFFIXES):
                    yield root or place.path, Location(place.filesystem, file.path), file.size
        elif info.type == pafs.FileType.File:
            yield root or _directory(place.path), place, info.size
        else:
            raise InputError(f"{pattern}: not found; check --input")


def _directory(path: str) -> str:
    return path.rpartition("/")[0]


def _glob(place: Location, root: str | None) -> Iterable[tuple[str, Location, int]]:
    """Files that match a glob, on any filesystem: list from the last directory without a wildcard."""
    parts = PurePosixPath(place.path).parts
    depth = len(parts)
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Location(place.filesystem, str(PurePosixPath(*parts[:fixed])))
    for file in base.files(recursive=depth > fixed + 1):
        names = PurePosixPath(file.path).parts
        matches = len(names) == depth and all(fnmatchcase(n, p) for n, p in zip(names, parts, strict=True))
        if matches and file.path.endswith(SUFFIXES):
            yield root or base.path, Location(place.filesystem, file.path), file.size


def _url(place: Location) -> str:
    scheme = re.sub("^gcs$", "gs", str(place.filesystem.type_name))
    return place.path if place.is_local else f"{scheme}://{place.path}"
