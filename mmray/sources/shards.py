"""Which shards there are, and what to call them. Identity comes from path and size, never from position."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import pyarrow.fs as pafs
from braceexpand import braceexpand

from mmray.errors import InputError, OutputError
from mmray.sources.pages import read_header
from mmray.storage import Location

Format = Literal["webdataset", "lmdb", "tfrecord", "parquet"]

#: The format of a shard, by the end of its name.
SUFFIXES: dict[str, Format] = {
    ".tar": "webdataset",
    ".tar.gz": "webdataset",
    ".tgz": "webdataset",
    ".tar.zst": "webdataset",
    ".lmdb": "lmdb",
    ".mdb": "lmdb",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".parquet": "parquet",
}
COMPRESSED = (".tar.gz", ".tgz", ".tar.zst")  # read as a stream: no seeking, no splitting
INDEX_SUFFIX = ".mmidx"  # of an index beside its shard (see mmray.sources.index)
_LMDB_DATA = "data.mdb"  # of an LMDB that is a directory, which is then the shard


@dataclass(frozen=True)
class Shard:
    """One file of records, or one LMDB."""

    id: str  # path relative to the input root, '@', size in bytes; of an LMDB also 't', last transaction
    url: str  # what Location.parse opens
    size: int  # bytes
    format: Format = "webdataset"
    indexed: bool = False  # whether an index lies beside it

    @property
    def name(self) -> str:
        """The relative path alone, for people."""
        return self.id.rpartition("@")[0]

    @property
    def compressed(self) -> bool:
        return self.url.endswith(COMPRESSED)

    def to_list(self) -> list[Any]:
        """As plan.json holds it: a run may have a million."""
        return [self.id, self.url, self.size, self.format]

    @classmethod
    def from_list(cls, values: list[Any]) -> Shard:
        """Reverse of `to_list`.

        Raises:
            OutputError: the list is none of this version's.
        """
        try:
            return cls(*values)
        except TypeError as e:
            reason = f"plan.json lists a shard as {values}, which this version of mmray does not know"
            raise OutputError(f"{reason}; choose another --output") from e

    def open(self) -> Location:
        return Location.parse(self.url)


@dataclass(frozen=True)
class _Found:
    """A shard's place, before it has an id."""

    place: Location
    size: int
    format: Format
    indexed: bool


def list_shards(inputs: Sequence[str]) -> list[Shard]:
    """List the shards that the inputs name, sorted by id.

    Args:
        inputs: directories (searched recursively), files, LMDBs, globs, or brace patterns such as
            ``data/train-{000000..000099}.tar``; paths or URLs. In a directory that also holds other shards,
            Parquet files are taken for something else (tables of metadata).

    Raises:
        InputError: an input that names nothing, two shards that would get the same id, or an LMDB that is not
            on a local disk.
    """
    shards: dict[str, Shard] = {}
    for text in inputs:
        matches = list(_expand(text))
        if not matches:
            raise InputError(f"{text}: no shards ({', '.join(SUFFIXES)}) there; check --input")
        for root, found in matches:
            id = f"{found.place.path[len(root) :].lstrip('/')}@{_state(found)}"
            shard = Shard(id, found.place.url, found.size, found.format, found.indexed)
            if shards.setdefault(shard.id, shard).url != shard.url:
                raise InputError(
                    f"{shard.url} and {shards[shard.id].url} have the same name and size below their inputs; "
                    "give their common directory as the one input instead"
                )
    return [shards[id] for id in sorted(shards)]


def _state(found: _Found) -> str:
    """What changes with a shard's content: its size; of an LMDB, whose size may stay, its transaction too."""
    if found.format != "lmdb":
        return str(found.size)
    if not found.place.is_local:
        raise InputError(
            f"{found.place}: an LMDB is read from a local disk only; copy it there, or convert it to tars "
            "where it was made: mmray convert --to webdataset"
        )
    try:
        return f"{found.size}t{read_header(found.place.path).transaction}"
    except OSError:  # not an LMDB, or not readable: whoever reads it says so, and goes on with the others
        return str(found.size)


def _expand(text: str) -> Iterator[tuple[str, _Found]]:
    """Root and place of each shard that one input names.

    The root is the input's fixed directory, so that an id does not change when other inputs come or go.
    """
    try:
        patterns = list(braceexpand(text))
    except ValueError as e:
        raise InputError(f"{text}: unbalanced braces in the pattern") from e
    root = None
    if len(patterns) > 1:
        # Any name in the place of the first brace lies in the directory that all the patterns share.
        fixed = f"{text[: text.index('{')]}_{Location.parse(patterns[0]).query}"
        root = _directory(Location.parse(fixed).path)
    for pattern in patterns:
        place = Location.parse(pattern)
        if glob.has_magic(place.path):
            yield from _glob(place, root)
            continue
        info = place.info()
        if info.type == pafs.FileType.NotFound:
            raise InputError(f"{pattern}: not found; check --input")
        alone = _single(place, info)
        if alone is not None:
            yield root or _directory(place.path), alone
            continue
        below = list(_below(place, recursive=True))
        if any(found.format != "parquet" for found in below):
            below = [found for found in below if found.format != "parquet"]
        for found in below:
            yield root or place.path, found


def _single(place: Location, info: pafs.FileInfo) -> _Found | None:
    """The shard that a path names by itself; None for a directory of shards."""
    size = info.size
    if info.type == pafs.FileType.Directory:
        data = (place / _LMDB_DATA).info()
        if data.type != pafs.FileType.File:
            return None
        size, format = data.size, _format(_LMDB_DATA)
    else:
        format = _format(place.path)
    # A file that is named is read, whatever it is called.
    return _Found(place, size, format or "webdataset", place.beside(INDEX_SUFFIX).exists())


def _below(base: Location, *, recursive: bool) -> Iterator[_Found]:
    """Shards in a directory, sorted by path."""
    files = base.files(recursive=recursive)
    paths = {file.path for file in files}
    for file in files:
        format = _format(file.path)
        if format is None:
            continue
        path = _directory(file.path) if file.base_name == _LMDB_DATA else file.path
        yield _Found(replace(base, path=path), file.size, format, path + INDEX_SUFFIX in paths)


def _format(path: str) -> Format | None:
    name = path.rpartition("/")[2]
    if name == "lock.mdb":
        return None
    return next((format for suffix, format in SUFFIXES.items() if name.endswith(suffix)), None)


def _directory(path: str) -> str:
    return path.rpartition("/")[0]


def _glob(place: Location, root: str | None) -> Iterable[tuple[str, _Found]]:
    """Shards that match a glob, on any filesystem: list from the last directory without a wildcard."""
    parts = place.path.split("/")  # a path of http begins with its scheme, which pathlib would spoil
    depth = len(parts)
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = replace(place, path="/".join(parts[:fixed]) or "/")
    # An LMDB is a directory, so its data lie one level deeper; LMDBs are on local disks only.
    for found in _below(base, recursive=place.is_local or depth > fixed + 1):
        names = found.place.path.split("/")
        if len(names) == depth and all(fnmatchcase(n, p) for n, p in zip(names, parts, strict=True)):
            yield root or base.path, found
