"""From inputs to files: directories, globs, brace patterns and long lists.

Few requests, many in parallel: a directory of a store is listed once, and patterns are matched here.
"""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import pyarrow.fs as pafs

from mmray.errors import InputError
from mmray.magic import HEAD_BYTES, what_is
from mmray.sources.among import MANIFESTS, Found, shards_among
from mmray.sources.folder_files import folders_among, is_medium
from mmray.sources.formats import SUFFIXES, Kind, by_name, may_be_shard
from mmray.sources.names import of_system
from mmray.sources.parallel import in_parallel
from mmray.sources.patterns import Pattern, patterns_of
from mmray.storage import Location
from mmray.unread import SYSTEM, Tally, kind_of_file

INDEX_SUFFIX = ".mmidx"  # of an index beside its shard (see mmray.sources.index)
_BESIDE = (INDEX_SUFFIX, "lock.mdb", ".captions.tsv", ".crc", "/_SUCCESS")  # files that belong to shards
_KINDS = 5  # other files, which are named if there is no shard
_LMDB_DATA = "data.mdb"  # of an LMDB that is a directory, which is then the shard
_ASKED = 4  # up to so many names in a directory of a store are requested one by one; for more it is listed
_WEB = ("http:", "https:")  # whose listings, if any, have no sizes


@dataclass(frozen=True)
class Expanded:
    """What the inputs name."""

    found: list[Found]  # shards, in the order of the inputs; may contain duplicates
    unread: Tally  # files in the directories that are not shards


def expand(inputs: Sequence[str]) -> Expanded:
    """What the inputs name.

    Raises:
        InputError: names the input, or the name in a pattern, that does not exist.
    """
    patterns = [patterns_of(text) for text in inputs]
    every = [pattern for each in patterns for pattern in each]
    asked = _ask([pattern.place for pattern in every if not pattern.is_glob])
    folders = _list_all([folder for pattern in every if (folder := _folder_of(pattern, asked))])
    found: list[Found] = []
    unread = Tally()
    for text, each in zip(inputs, patterns, strict=True):
        before = len(found)
        for pattern in each:
            folder = _folder_of(pattern, asked)
            below, others = folders[folder.key] if folder else ([], [])
            if pattern.is_glob:
                found += _matching(pattern, below)
            else:
                named = list(_named(pattern, asked[pattern.place.url], below))
                found += named
                kept = {one.place.path for one in named}
                tables = any(one.hint in MANIFESTS for one in named)
                others += [one.place.path for one in below if one.place.path not in kept and not one.state]
                for path in others:
                    # A folder's reader counts its own files; files of a manifest are known when it is read.
                    if _directory(path) not in kept and not (tables and is_medium(path)):
                        kind = SYSTEM if of_system(path) else kind_of_file(path)
                        unread.add(kind, replace(pattern.place, path=path).url)
        if len(found) == before:
            raise InputError(_nothing_in(text, unread))
    return Expanded(found, unread)


def _nothing_in(text: str, unread: Tally) -> str:
    """The error for an input without a shard: its other files, with an example of each kind."""
    said = []
    for kind, count in unread.most_common()[:_KINDS]:
        with suppress(OSError), Location.parse(count.example).open_input() as file:
            kind = f"{kind} ({what_is(bytes(file.read(HEAD_BYTES)))})"
        said.append(f"{kind}: {count.number}, as {count.example}")
    there = f"; found: {'; '.join(said)}" if said else ""
    return f"{text}: no shards ({', '.join(SUFFIXES)}) and no loose media files; check --input{there}"


def infos_of(places: Sequence[Location]) -> dict[str, pafs.FileInfo]:
    """Type, size and time of files, by URL; the type is NotFound if there is nothing."""
    return {url: info for url, (info, _) in _ask(places).items()}


class _Folder(NamedTuple):
    """A directory to list."""

    base: Location
    recursive: bool

    @property
    def key(self) -> tuple[str, bool]:
        return self.base.url, self.recursive


def _folder_of(pattern: Pattern, asked: Mapping[str, tuple[pafs.FileInfo, bool]]) -> _Folder | None:
    """The directory in which a pattern matches; None for a file."""
    place = pattern.place
    if not pattern.is_glob:
        there = asked[place.url][0].type == pafs.FileType.Directory
        return _Folder(place, recursive=True) if there else None
    parts = place.path.split("/")  # an http path begins with its scheme, which pathlib would break
    fixed = next(i for i, part in enumerate(parts) if i >= pattern.literal and glob.has_magic(part))
    base = replace(place, path="/".join(parts[:fixed]) or "/")
    # An LMDB is a directory, so its data are one level deeper; LMDBs are on local disks only.
    return _Folder(base, recursive=place.is_local or len(parts) > fixed + 1)


def _list_all(folders: Sequence[_Folder]) -> dict[tuple[str, bool], tuple[list[Found], list[str]]]:
    """The shards below each directory, sorted by path, and the paths of other files."""
    once = list({folder.key: folder for folder in folders}.values())
    return dict(zip((folder.key for folder in once), in_parallel(_list, once), strict=True))


def _list(folder: _Folder) -> tuple[list[Found], list[str]]:
    base, found, others = folder.base, [], []
    files = base.files(recursive=folder.recursive)
    paths = {file.path for file in files}
    for file in files:
        hint = by_name(file.path)
        doubtful = hint is None and may_be_shard(file.path)
        if of_system(file.path) or (hint is None and not doubtful):
            others += [file.path] * (not file.path.endswith(_BESIDE))
            continue
        path = _directory(file.path) if file.base_name == _LMDB_DATA else file.path
        one = _found(base.path, replace(base, path=path), file, hint, path + INDEX_SUFFIX in paths)
        found.append(replace(one, doubtful=doubtful))
    if folder.recursive and all(one.hint in MANIFESTS or one.doubtful for one in found):
        for place, state in folders_among(base, files):
            found.append(Found(base.path, place, place, state.size, 0, Kind("folder"), False, state))
    return found, others


def _found(root: str, place: Location, info: pafs.FileInfo, hint: Kind | None, indexed: bool) -> Found:
    file = replace(place, path=info.path)
    return Found(root, place, file, info.size, info.mtime_ns or 0, hint, indexed)


def _matching(pattern: Pattern, below: Sequence[Found]) -> Iterator[Found]:
    """The files that match a glob, on any filesystem."""
    parts = pattern.place.path.split("/")
    several = any(
        one.hint not in (*MANIFESTS, Kind("folder")) and pattern.matches(one.place.path.split("/"), parts)
        for one in below
    )
    for found in below:
        names = found.place.path.split("/")
        if several and found.hint in MANIFESTS:  # a table next to the shards
            continue
        if found.hint != Kind("folder") and pattern.matches(names, parts):
            yield replace(found, root=pattern.root or found.root)


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
    doubtful = [found for found in below if found.doubtful]
    for found in [*shards_among([found for found in below if not found.doubtful]), *doubtful]:
        yield replace(found, root=pattern.root or found.root)


def _ask(places: Sequence[Location]) -> dict[str, tuple[pafs.FileInfo, bool]]:
    """The file at each place, by URL, and whether it has an index."""
    groups: dict[tuple[str, str, str], list[Location]] = defaultdict(list)
    for place in places:
        groups[place.prefix, place.query, "" if place.is_local else _directory(place.path)].append(place)
    single: list[list[Location]] = []
    listed: list[list[Location]] = []
    for group in groups.values():
        if group[0].is_local:
            single.append(group)  # one call for all of them
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
