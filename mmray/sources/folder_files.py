"""Directories of loose files as shards: their states when listed, and their records.

Used only if no file below an input is a shard of another format. A shard is the files directly in one
directory, so that a new or deleted file changes one shard. Files with the same stem are a record, like
members of a tar.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import pyarrow.fs as pafs

from mmray.errors import ShardError
from mmray.sources.files import Listed
from mmray.sources.names import split
from mmray.sources.options import EXTENSIONS
from mmray.sources.state import State
from mmray.sources.table import read_table
from mmray.storage import Location

#: Pictures, sounds and videos, read or not: a record must not lose one silently.
PICTURES = frozenset(
    (
        *EXTENSIONS["image"],
        *("tif", "tiff", "jfif", "jpe", "avif", "heic", "heif", "jp2", "jxl", "svg", "ico", "psd", "tga"),
        *("ppm", "pgm", "pbm", "pnm", "exr", "hdr", "dng", "cr2", "nef", "arw", "raw", "dcm"),
    )
)
SOUNDS = frozenset(
    (
        *EXTENSIONS["audio"],
        *("oga", "m4a", "m4b", "aac", "wma", "aif", "aiff", "aifc", "amr", "au", "caf", "mka", "wv", "ape"),
        *("ac3", "mid", "midi"),
    )
)
FILMS = frozenset(("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv"))
MEDIA = PICTURES | SOUNDS | FILMS
_BUILT_IN = {ext: column for column, exts in EXTENSIONS.items() for ext in exts}

#: Text files about a folder, not of a record, by lower-case stem.
_ABOUT = frozenset(("readme", "license", "licence", "copying", "notice", "changelog", "authors", "citation"))
_HIDDEN_FOLDERS = ("__macosx", "@eadir")
#: Names of the table in Hugging Face's ImageFolder; the first one present is used.
METADATA = ("metadata.csv", "metadata.jsonl")
_DIGEST_BYTES = 16


class Group(NamedTuple):
    """The files of one record."""

    key: str  # their common stem
    names: dict[str, str]  # by lower-case extension
    fault: str = ""  # why they are not a record


def is_own(name: str) -> bool:
    """Whether a file belongs to the data, by its name: not hidden, and not written by mmray or the system."""
    return not name.startswith(".") and not name.endswith(".mmidx") and name.lower() not in ("thumbs.db",)


def own_files(place: Location) -> dict[str, Listed]:
    """The files of a directory, without those in directories below it; by name.

    Raises:
        OSError: it cannot be listed.
    """
    return _by_name(place.files())


def _by_name(files: Iterable[pafs.FileInfo]) -> dict[str, Listed]:
    own = (info for info in files if is_own(info.base_name))
    return {info.base_name: Listed(info.size or 0, info.mtime_ns or 0) for info in own}


def state_of(files: Mapping[str, Listed]) -> State:
    """State of a directory: names, sizes and times of its files and of the table that describes them.

    The digest is of names and sizes, which a copy keeps; the version also of the times.
    """
    kept, all_of_it = blake2b(digest_size=_DIGEST_BYTES), blake2b(digest_size=_DIGEST_BYTES)
    for name, (size, mtime_ns) in sorted(files.items()):
        entry = f"{len(name)} {name} {size}".encode(errors="surrogateescape")
        kept.update(entry)
        all_of_it.update(entry + b" %d" % mtime_ns)
    total = sum(listed.size for listed in files.values())
    return State(total, version=all_of_it.hexdigest(), digest=kept.hexdigest())


def is_medium(path: str) -> bool:
    """Whether a file is a picture, a sound or a video, by its name."""
    return path.rpartition(".")[2].lower() in MEDIA


def groups(names: Iterable[str], column_of: Mapping[str, str]) -> list[Group]:
    """The records among files, sorted by key.

    The extension begins at the first dot of a name if that gives a known one, else at the last, because stems
    may have dots. A stem without a picture, sound or text is not a record.
    """
    by_key: dict[str, dict[str, str]] = defaultdict(dict)
    faults: dict[str, str] = {}
    for name in sorted(names):
        key, extension = stem(name, column_of)
        if extension in by_key[key]:
            faults[key] = f"{by_key[key][extension]!r} and {name!r} differ only in case; rename one of them"
        by_key[key][extension] = name
    return [
        Group(key, by_key[key], faults.get(key, ""))
        for key in sorted(by_key)
        if _is_record(key, by_key[key], column_of)
    ]


def stem(name: str, column_of: Mapping[str, str]) -> tuple[str, str]:
    """Stem and lower-case extension of a file."""
    key, extension = split(name)
    if extension in column_of or "." not in extension:
        return key, extension
    key, _, last = name.rpartition(".")
    return key, last.lower()


def _is_record(key: str, names: Mapping[str, str], column_of: Mapping[str, str]) -> bool:
    if any(column_of.get(ext) in ("image", "audio") or ext in MEDIA for ext in names):
        return True
    return key.lower() not in _ABOUT and any(column_of.get(ext) == "text" for ext in names)


def folders_among(base: Location, files: Sequence[pafs.FileInfo]) -> list[tuple[Location, State]]:
    """The directories at or below `base` whose own files are records, with their states.

    Empty unless there is a picture, a sound or a video somewhere, or all files are texts and metadata.

    Args:
        base: a directory.
        files: all files below it, at any depth.
    """
    own: dict[str, list[pafs.FileInfo]] = defaultdict(list)
    for info in files:
        folder = info.path.rpartition("/")[0]
        below = folder[len(base.path) :].lower().split("/")
        if is_own(info.base_name) and not any(p.startswith(".") or p in _HIDDEN_FOLDERS for p in below):
            own[folder].append(info)
    extensions = {stem(info.base_name, _BUILT_IN)[1] for each in own.values() for info in each}
    if not extensions & MEDIA and not extensions <= {*EXTENSIONS["text"], *EXTENSIONS["meta"]}:
        return []
    found = []
    holding = {f for f in own if groups((info.base_name for info in own[f]), _BUILT_IN)}
    for folder in sorted(own):
        if folder in holding or _has_orphans(replace(base, path=folder), own[folder], holding):
            tables = [own.get(up, []) for up in _above(folder, base.path)]
            place = replace(base, path=folder)
            found.append((place, state_of(_with_table(_by_name(own[folder]), map(_by_name, tables)))))
    return found


def _has_orphans(place: Location, own: Sequence[pafs.FileInfo], holding: Container[str]) -> bool:
    """Whether a directory without records has a table with rows that belong to no other directory."""
    name = next((name for name in METADATA if any(info.base_name == name for info in own)), None)
    if name is None:
        return False
    try:
        rows = read_table(place / name)
    except (ShardError, OSError):  # reported when the folder is read
        return True
    return bool(rows.faults) or any(f"{place.path}/{folder}" not in holding for folder in rows.rows)


def _above(folder: str, root: str) -> list[str]:
    """The directories above one, nearest first, to the root."""
    found = []
    while len(folder) > len(root):
        folder = folder.rpartition("/")[0]
        found.append(folder)
    return found


def _with_table(files: Mapping[str, Listed], above: Iterable[Mapping[str, Listed]]) -> dict[str, Listed]:
    """The files of a directory, and its table if that is in a parent: as "../metadata.csv"."""
    named = dict(files)
    if any(name in files for name in METADATA):
        return named
    for ups, other in enumerate(above, 1):
        if name := next((name for name in METADATA if name in other), None):
            named["../" * ups + name] = other[name]
            break
    return named


def look(place: Location, root: Location) -> dict[str, Listed]:
    """The files of a shard, its table included, as in `folders_among`.

    Raises:
        OSError: the directory cannot be listed.
    """
    files = own_files(place)
    above = _above(place.path, root.path)
    if not above or any(name in files for name in METADATA):
        return files
    paths = [f"{folder}/{name}" for folder in above for name in METADATA]
    infos = [info for info in place.infos(paths) if info.type == pafs.FileType.File]
    there: dict[str, list[pafs.FileInfo]] = defaultdict(list)
    for info in infos:
        there[info.path.rpartition("/")[0]].append(info)
    return _with_table(files, (_by_name(there[folder]) for folder in above))
