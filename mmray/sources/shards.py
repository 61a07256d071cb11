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
from mmray.sources.lmdb_check import check_all
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
    fault: str = ""  # why this LMDB is not read: it is damaged, or changes

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
    matches: list[tuple[str, _Found]] = []
    for text in inputs:
        before = len(matches)
        matches += _expand(text)
        if len(matches) == before:
            raise InputError(f"{text}: no shards ({', '.join(SUFFIXES)}) there; check --input")
    shards: dict[str, Shard] = {}
    for (root, found), (state, fault) in zip(matches, _states([f for _, f in matches]), strict=True):
        id = f"{found.place.path[len(root) :].lstrip('/')}@{state}"
        shard = Shard(id, found.place.url, found.size, found.format, found.indexed, fault)
        if shards.setdefault(shard.id, shard).url != shard.url:
            raise InputError(
                f"{shard.url} and {shards[shard.id].url} have the same name and size below their inputs; "
                "give their common directory as the one input instead"
            )
    return [shards[id] for id in sorted(shards)]


def _states(shards: Sequence[_Found]) -> Iterator[tuple[str, str]]:
    """What changes with each one's content, and what is wrong with it.

    That is its size; of an LMDB, whose size may stay, also its transaction, where nothing is wrong.
    """
    lmdbs = [found.place for found in shards if found.format == "lmdb"]
    for place in lmdbs:
        if not place.is_local:
            raise InputError(
                f"{place}: an LMDB is read from a local disk only; copy it there, or convert it to tars "
                "where it was made: mmray convert --to webdataset"
            )
    checked = iter(check_all([place.path for place in lmdbs]))
    for found in shards:
        transaction, fault = next(checked) if found.format == "lmdb" else (None, "")
        state = f"{found.size}" if transaction is None or fault else f"{found.size}t{transaction}"
        yield state, fault and f"{found.place}: {fault}"


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
        for found in [found for found in below if found.format != "parquet"] or below:
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
