"""A look at the first records of some shards, before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mmray.errors import InputError
from mmray.preprocess.foreign_text import KindOf
from mmray.schema import EMPTY, MODALITIES, meta_fields
from mmray.sources import EXTENSIONS, ReadOptions, Shard, read
from mmray.sources.lmdb import layout_of
from mmray.sources.parallel import in_parallel
from mmray.unread import Tally

_SHARDS = 12  # shards that are sampled, spread over the list: they may differ in kind
_EMPTY_SHARDS = 50  # shards that are tried to find one with records
_KINDS = {
    "webdataset": "WebDataset",
    "tfrecord": "TFRecord",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "csv": "CSV",
    "jsonl": "JSONL",
    "folder": "loose files",
}


@dataclass(frozen=True)
class Census:
    """Findings in the first records of a few shards."""

    records: int
    record_bytes: float  # mean
    sets: Mapping[str, int]  # "image+text+audio": records; "unreadable" for rows with an error
    kinds: tuple[str, ...] = ()  # formats of the sampled shards, of an LMDB with its layout
    fault: str = ""  # why the first unreadable record cannot be read
    unread: Tally = field(default_factory=Tally)  # input that is not read, by kind
    fields: Collection[str] = ()  # names that `carry` may use

    @property
    def modalities(self) -> dict[str, float]:
        """Share of the sampled records that have each modality."""
        total = max(1, self.records)
        return {m: sum(n for s, n in self.sets.items() if m in s.split("+")) / total for m in MODALITIES}


class _Look(NamedTuple):
    """The first block of a shard, or why it cannot be read."""

    shard: Shard
    kind: str = ""
    block: pa.Table | None = None
    fault: str = ""


def take_census(shards: Sequence[Shard], options: ReadOptions, foreign: KindOf | None = None) -> Census:
    """Read the first block of some shards, spread over the list.

    Args:
        shards: all of them.
        options: how they are read.
        foreign: gives the language of a text that the model does not read.

    Raises:
        InputError: none of them can be read, or none has a record.
    """
    look = partial(_look, options=options)
    looks = list(in_parallel(look, spread(shards)))
    if not any(one.block and one.block.num_rows > _empty(one.block) for one in looks):
        looks += in_parallel(look, shards[:_EMPTY_SHARDS])
    found = [(one, one.block) for one in looks if one.block]
    sets = Counter(name for _, block in found for name in _sets(block))
    records = sets.total()
    if not records:
        faults = [f"{one.shard.url}: cannot be read: {one.fault}" for one in looks if one.fault]
        empty = f"{shards[0].url}: has no records, nor have the other sampled shards; check --input"
        raise InputError(f"{faults[0]}; check permissions" if faults else empty)
    unread, names = Tally(), set[str]()
    for one, block in found:
        for key, things in zip(block["key"].to_pylist(), block["unread"].to_pylist(), strict=True):
            for thing in things or ():
                unread.add(thing["kind"], f"{one.shard.name}: {thing['name'] or key}")
        for key, text in _texts(block):
            if foreign and (kind := foreign(text)):
                unread.add(kind, f"{one.shard.name}: {key}")
        names.update(name for row in block["fields"].to_pylist() for name, _ in row or ())
        if options.carry:
            names.update(name for meta in block["meta"].to_pylist() for name in meta_fields(meta))
    size = sum(_bytes(one.shard, block) for one, block in found)
    return Census(
        records,
        max(1.0, size / records),
        dict(sets.most_common()),
        tuple(sorted({one.kind for one, _ in found})),
        next((e["reason"] for _, block in found for e in _errors(block) if e and e["type"] != EMPTY), ""),
        unread,
        frozenset(names),
    )


def _texts(block: pa.Table) -> Iterable[tuple[str, str]]:
    """Key and text of each record that has a text; the run reports bytes that cannot be decoded."""
    for key, text in zip(block["key"].to_pylist(), block["text"].to_pylist(), strict=True):
        if text is not None:
            yield key, text.decode("utf-8-sig", "replace").strip()


def spread(shards: Sequence[Shard]) -> Sequence[Shard]:
    """Some shards, spread over the list."""
    return shards[:: max(1, len(shards) // _SHARDS)][:_SHARDS]


def _look(shard: Shard, options: ReadOptions) -> _Look:
    try:
        block = next(read(shard, options))
        kind = f"LMDB ({layout_of(shard, options)})" if shard.format == "lmdb" else _KINDS[shard.format]
    except OSError as e:  # the run reports it and reads the others; here one readable shard is enough
        return _Look(shard, fault=str(e))
    return _Look(shard, kind, block)


def _errors(block: pa.Table) -> list[dict[str, str] | None]:
    errors: list[dict[str, str] | None] = block["error"].to_pylist()
    return errors


def _empty(block: pa.Table) -> int:
    return sum(e is not None and e["type"] == EMPTY for e in _errors(block))


def _sets(block: pa.Table) -> Iterable[str]:
    """Modalities of each record of a block, as "image+text"."""
    valid = {m: pc.is_valid(block[m]).to_pylist() for m in MODALITIES}
    for i, failed in enumerate(_errors(block)):
        if failed is None:
            yield "+".join(m for m in MODALITIES if valid[m][i]) or "nothing"
        elif failed["type"] != EMPTY:
            yield "unreadable"


def _bytes(shard: Shard, block: pa.Table) -> int:
    """Approximate bytes of a shard that the records of its first block take."""
    last = block.slice(block.num_rows - 1)
    if last["end"][0].as_py() and not last["error"][0].is_valid:  # the block is the whole shard
        return shard.size
    if shard.format in ("webdataset", "tfrecord", "csv", "jsonl"):
        columns = [block["length"]]
    else:
        columns = [pc.binary_length(block[column]) for column in EXTENSIONS]
    return sum(pc.sum(column).as_py() or 0 for column in columns)
