"""From inputs, as people name them, to files: directories, globs, brace patterns and long lists.

Few requests, many at a time: of a store, what lies in one directory is listed once and matched here.
"""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from typing import NamedTuple

import pyarrow.fs as pafs
from braceexpand import braceexpand

from mmray.errors import InputError
from mmray.sources.folder_files import folders_among
from mmray.sources.formats import SUFFIXES, Kind, by_name
from mmray.sources.manifests import is_manifest
from mmray.sources.parallel import in_parallel
from mmray.sources.state import State
from mmray.storage import Location

#: Formats of which only the first that is there counts, where a directory is the input.
_RANKS = (
    frozenset(("webdataset", "lmdb", "tfrecord")),
    frozenset(("parquet",)),
    frozenset(("arrow",)),
    frozenset(("csv", "jsonl", "folder")),
)
_MANIFESTS = (Kind("csv"), Kind("jsonl"))
INDEX_SUFFIX = ".mmidx"  # of an index beside its shard (see mmray.sources.index)
_LMDB_DATA = "data.mdb"  # of an LMDB that is a directory, which is then the shard
_ASKED = 4  # names in a directory of a store that are asked for one by one; for more it is listed
_WEB = ("http:", "https:")  # whose listings, if there are any, tell no sizes


@dataclass(frozen=True)
class Found:
    """A shard's place, before anything is known of its content."""

    root: str  # path of the input's fixed directory: an id does not change when other inputs come or go
    place: Location
    file: Location  # that holds the bytes: of an LMDB that is a directory, one in it
    size: int
    mtime_ns: int  # 0: not told
    hint: Kind | None  # what its name promises
    indexed: bool  # whether an index lies beside it
    state: State | None = None  # of a folder of files, which its listing tells


@dataclass(frozen=True)
class Pattern:
    """One name, without braces, that an input stands for."""

    text: str
    place: Location
    root: str | None  # where the braces tell it

    @property
    def is_glob(self) -> bool:
        return glob.has_magic(self.place.path)


def expand(inputs: Sequence[str]) -> list[Found]:
    """The shards that the inputs name, in their order; one may be named more than once.

    Raises:
        InputError: names the input, or the name in a pattern, that leads to nothing.
    """
    patterns = [patterns_of(text) for text in inputs]
    every = [pattern for each in patterns for pattern in each]
    asked = _ask([pattern.place for pattern in every if not pattern.is_glob])
    folders = _list_all([folder for pattern in every if (folder := _folder_of(pattern, asked))])
    found: list[Found] = []
    for text, each in zip(inputs, patterns, strict=True):
        before = len(found)
        for pattern in each:
            folder = _folder_of(pattern, asked)
            below = folders[folder.key] if folder else []
            if pattern.is_glob:
                found += _matching(pattern, below)
            else:
                found += _named(pattern, asked[pattern.place.url], below)
        if len(found) == before:
            raise InputError(
                f"{text}: no shards ({', '.join(SUFFIXES)}) nor loose media there; check --input"
            )
    return found


def patterns_of(text: str) -> list[Pattern]:
    """What one input stands for.

    Raises:
        InputError: unbalanced braces.
    """
    try:
        names = list(braceexpand(text))
    except ValueError as e:
        raise InputError(f"{text}: unbalanced braces in the pattern") from e
    root = None
    if len(names) > 1:
        # Any name in the place of the first brace lies in the directory that all the patterns share.
        fixed = f"{text[: text.index('{')]}_{Location.parse(names[0]).query}"
        root = _directory(Location.parse(fixed).path)
    return [Pattern(name, Location.parse(name), root) for name in names]


def infos_of(places: Sequence[Location]) -> dict[str, pafs.FileInfo]:
    """Type, size and time of files, by URL; a type of NotFound where there is nothing."""
    return {url: info for url, (info, _) in _ask(places).items()}


class _Folder(NamedTuple):
    """A directory to list."""

    base: Location
    recursive: bool

    @property
    def key(self) -> tuple[str, bool]:
        return self.base.url, self.recursive


def _folder_of(pattern: Pattern, asked: Mapping[str, tuple[pafs.FileInfo, bool]]) -> _Folder | None:
    """The directory whose files a pattern takes from; None for a file."""
    place = pattern.place
    if not pattern.is_glob:
        there = asked[place.url][0].type == pafs.FileType.Directory
        return _Folder(place, recursive=True) if there else None
    parts = place.path.split("/")  # a path of http begins with its scheme, which pathlib would spoil
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = replace(place, path="/".join(parts[:fixed]) or "/")
    # An LMDB is a directory, so its data lie one level deeper; LMDBs are on local disks only.
    return _Folder(base, recursive=place.is_local or len(parts) > fixed + 1)


def _list_all(folders: Sequence[_Folder]) -> dict[tuple[str, bool], list[Found]]:
    """The shards below each directory, sorted by path."""
    once = list({folder.key: folder for folder in folders}.values())
    return dict(zip((folder.key for folder in once), in_parallel(_list, once), strict=True))


def _list(folder: _Folder) -> list[Found]:
    base, found = folder.base, []
    files = base.files(recursive=folder.recursive)
    paths = {file.path for file in files}
    for file in files:
        hint = by_name(file.path)
        if hint is None:
            continue
        path = _directory(file.path) if file.base_name == _LMDB_DATA else file.path
        found.append(_found(base.path, replace(base, path=path), file, hint, path + INDEX_SUFFIX in paths))
    if folder.recursive and all(one.hint in _MANIFESTS for one in found):
        for place, state in folders_among(base, files):
            found.append(Found(base.path, place, place, state.size, 0, Kind("folder"), False, state))
    return found


def _found(root: str, place: Location, info: pafs.FileInfo, hint: Kind | None, indexed: bool) -> Found:
    file = replace(place, path=info.path)
    return Found(root, place, file, info.size, info.mtime_ns or 0, hint, indexed)


def _matching(pattern: Pattern, below: Sequence[Found]) -> Iterator[Found]:
    """Those that match a glob, on any filesystem."""
    parts = pattern.place.path.split("/")
    several = any(
        one.hint not in (*_MANIFESTS, Kind("folder")) and _matches(one.place.path.split("/"), parts)
        for one in below
    )
    for found in below:
        names = found.place.path.split("/")
        if several and found.hint in _MANIFESTS:  # a table beside the shards
            continue
        if found.hint != Kind("folder") and _matches(names, parts):
            yield replace(found, root=pattern.root or found.root)


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    return len(names) == len(parts) and all(fnmatchcase(n, p) for n, p in zip(names, parts, strict=True))


def _named(pattern: Pattern, asked: tuple[pafs.FileInfo, bool], below: Sequence[Found]) -> Iterator[Found]:
    """The shard that a path names, or those in the directory that it names."""
    info, indexed = asked
    place = pattern.place
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"{pattern.text}: not found; check --input")
    if info.type == pafs.FileType.File:
        yield _found(pattern.root or _directory(place.path), place, info, by_name(place.path), indexed)
        return
    lmdbs = (found for found in below if found.place.path == place.path and not found.state)
    if alone := next(lmdbs, None):
        yield replace(alone, root=pattern.root or _directory(place.path), indexed=indexed)
        return
    for found in _shards_among(below):
        yield replace(found, root=pattern.root or found.root)


def _shards_among(below: Sequence[Found]) -> Sequence[Found]:
    """What in a directory is a shard: tables beside shards are about them, and manifests beside tables too.

    Loose files are records where there is nothing else. A manifest beside them counts if it names some,
    unless it is the table that Hugging Face's ImageFolder has, which its folder reads.
    """
    kinds = {found.hint.format if found.hint else "" for found in below}
    for ranked in _RANKS:
        if kinds & ranked:
            chosen = [found for found in below if found.hint and found.hint.format in ranked]
            break
    else:
        return below
    if "arrow" in kinds:  # what Hugging Face's datasets computed earlier lies beside what it did so from
        chosen = [found for found in chosen if not found.place.name.startswith("cache-")] or chosen
    if ranked is not _RANKS[-1] or (len(kinds) == 1 and "folder" in kinds):
        return chosen
    loose = [found for found in chosen if found.state]
    tables = [found for found in chosen if not found.state]
    look = partial(is_manifest, among_files=bool(loose))
    looks = in_parallel(look, [found.file for found in tables])
    manifests = [found for found, is_one in zip(tables, looks, strict=True) if is_one]
    return manifests or loose or chosen


def _ask(places: Sequence[Location]) -> dict[str, tuple[pafs.FileInfo, bool]]:
    """What is at each place, by URL, and whether an index lies beside it."""
    groups: dict[tuple[str, str, str], list[Location]] = defaultdict(list)
    for place in places:
        groups[place.prefix, place.query, "" if place.is_local else _directory(place.path)].append(place)
    single: list[list[Location]] = []
    listed: list[list[Location]] = []
    for group in groups.values():
        if group[0].is_local:
            single.append(group)  # a call for all of them
        elif len(group) > _ASKED and not group[0].url.startswith(_WEB):
            listed.append(group)
        else:
            single += [[place] for place in group]
    told: dict[str, tuple[pafs.FileInfo, bool]] = {}
    for infos in chain(in_parallel(_infos_by_listing, listed), in_parallel(_infos_by_asking, single)):
        told |= infos
    return told


def _infos_by_asking(group: Sequence[Location]) -> dict[str, tuple[pafs.FileInfo, bool]]:
    paths = [path for place in group for path in (place.path, place.path + INDEX_SUFFIX)]
    infos = group[0].infos(paths)
    return {
        place.url: (info, index.type == pafs.FileType.File)
        for place, info, index in zip(group, infos[::2], infos[1::2], strict=True)
    }


def _infos_by_listing(group: Sequence[Location]) -> dict[str, tuple[pafs.FileInfo, bool]]:
    """The same for places in one directory."""
    there = {info.path: info for info in replace(group[0], path=_directory(group[0].path)).entries()}
    return {
        place.url: (
            there.get(place.path) or pafs.FileInfo(place.path, pafs.FileType.NotFound),
            place.path + INDEX_SUFFIX in there,
        )
        for place in group
    }


def _directory(path: str) -> str:
    return path.rpartition("/")[0]
