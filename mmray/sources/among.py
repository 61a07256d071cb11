"""Which files of a directory are shards, if it contains several kinds of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mmray.sources.formats import Kind
from mmray.sources.manifests import is_manifest
from mmray.sources.parallel import in_parallel
from mmray.sources.state import State
from mmray.storage import Location

#: Formats of which only the first present one counts if a directory is the input.
_RANKS = (
    frozenset(("webdataset", "lmdb", "tfrecord")),
    frozenset(("parquet",)),
    frozenset(("arrow",)),
    frozenset(("csv", "jsonl", "folder")),
)
MANIFESTS = (Kind("csv"), Kind("jsonl"))


@dataclass(frozen=True)
class Found:
    """A shard's place, before its content is known."""

    root: str  # path below the input's fixed directory: an id does not depend on other inputs
    place: Location
    file: Location  # the file with the bytes: for an LMDB directory, one in it
    size: int
    mtime_ns: int  # 0: not known
    hint: Kind | None  # what its name suggests
    indexed: bool  # whether it has an index
    state: State | None = None  # of a folder of files, from its listing
    doubtful: bool = False  # found in a directory under a name without a known suffix: its bytes decide


def shards_among(below: Sequence[Found]) -> Sequence[Found]:
    """Which files of a directory are shards: tables describe shards next to them, manifests also tables.

    Loose files are records if there is nothing else. A manifest next to them counts if it names some of them,
    unless it is the table of Hugging Face's ImageFolder, which is read with its folder.
    """
    kinds = {found.hint.format if found.hint else "" for found in below}
    for ranked in _RANKS:
        if kinds & ranked:
            chosen = [found for found in below if found.hint and found.hint.format in ranked]
            break
    else:
        return below
    if "arrow" in kinds:  # cache files of Hugging Face's datasets are next to their sources
        chosen = [found for found in chosen if not found.place.name.startswith("cache-")] or chosen
    if ranked is not _RANKS[-1] or (len(kinds) == 1 and "folder" in kinds):
        return chosen
    loose = [found for found in chosen if found.state]
    tables = [found for found in chosen if not found.state]
    look = partial(is_manifest, among_files=bool(loose))
    looks = in_parallel(look, [found.file for found in tables])
    manifests = [found for found, is_one in zip(tables, looks, strict=True) if is_one]
    return manifests or loose or chosen
