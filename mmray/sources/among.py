"""What in a directory is a shard, where several kinds of files lie beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mmray.sources.formats import Kind
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
MANIFESTS = (Kind("csv"), Kind("jsonl"))


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
    doubtful: bool = False  # met in a directory, under a name that promises nothing: its bytes tell


def shards_among(below: Sequence[Found]) -> Sequence[Found]:
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
