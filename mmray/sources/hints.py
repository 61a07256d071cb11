"""Hints on settings if a table has the missing modality under another name; looks at first values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import islice

from mmray.coverage import Missing
from mmray.magic import HEAD_BYTES, modality_of
from mmray.sources import ReadOptions, Shard, read
from mmray.sources.columns import NAMES
from mmray.sources.formats import Format
from mmray.sources.manifest import first_rows
from mmray.sources.naming import NEAR, Naming, is_url

_NAMES = 64  # number of columns that are examined
_ROWS = 8
_TEXT_CHARS = 2000  # characters of a path or URL, at most

_MANIFESTS = ("csv", "jsonl")  # formats whose paths are followed
#: How to read the names in a shard of each other format that has names.
_NAMES_IN: Mapping[Format, str] = {
    "parquet": "mmray.sources.parquet:names_in",
    "arrow": "mmray.sources.arrow:names_in",
    "tfrecord": "mmray.sources.tfrecord:names_in",
}
_WORDS = {"image": "pictures", "audio": "sound", "text": "text"}


def hints(shards: Sequence[Shard], options: ReadOptions, missed: Collection[str]) -> list[str]:
    """Lines such as "column `img` contains pictures: set …", for modalities that no sampled record has.

    Args:
        shards: sampled ones; one of each format is examined.
        options: of the run.
        missed: columns of RECORDS.
    """
    once = {shard.format: shard for shard in reversed(shards) if shard.format in (*_NAMES_IN, *_MANIFESTS)}
    found: list[str] = []
    for shard in once.values():
        try:
            found += _of_shard(shard, options, missed)
        except OSError:  # reported when the shard is read
            continue
    return found


def _of_shard(shard: Shard, options: ReadOptions, missed: Collection[str]) -> list[str]:
    naming = Naming(options)
    found: dict[str, str] = {}
    for name, values in _samples(shard, options):
        for column, holds in _holds(name, values, shard.format in _MANIFESTS, naming).items():
            if column in missed and column not in found:
                found[column] = f"column `{name}` of {shard.name} {holds}"
    return list(found.values())


def _samples(shard: Shard, options: ReadOptions) -> Iterator[tuple[str, list[bytes]]]:
    """The first values of each column of bytes or text, by name."""
    if shard.format in _MANIFESTS:
        rows = first_rows(shard)
        for name in islice(dict.fromkeys(name for row in rows for name in row), _NAMES):
            yield (
                name,
                [v.encode(errors="replace") for row in rows if isinstance(v := row.get(name), str) and v],
            )
        return
    module, _, function = _NAMES_IN[shard.format].partition(":")
    names_in: Callable[[Shard], list[str]] = getattr(import_module(module), function)
    for name in names_in(shard)[:_NAMES]:
        probe = replace(options, columns={"text": (name.lower(),)}, extensions={}, block_rows=_ROWS)
        blocks = read(shard, probe, [Missing(0, _ROWS - 1, 0)])
        yield name, [value for block in blocks for value in block["text"].to_pylist() if value]


def _holds(name: str, values: Sequence[bytes], followed: bool, naming: Naming) -> dict[str, str]:
    """The column of RECORDS that a table's column could be, and the hint."""
    media = {medium for value in values if (medium := modality_of(value[:HEAD_BYTES]))}
    if len(media) == 1:
        column = media.pop()
        return {column: f"contains {_WORDS[column]}: set `columns: {{{column}: {name}}}`"}
    texts = [value.decode(errors="replace") for value in values if len(value) <= _TEXT_CHARS]
    for column in ("image", "audio"):
        if texts and all(naming.kind_of(text) == column for text in texts):
            what = "URLs" if is_url(texts[0]) else "paths"
            remedy = f"set `columns: {{{column}: {name}}}`"
            if not followed:
                remedy = "not followed in this format; write the table as CSV or JSONL, where they are"
            return {column: f"contains {what} of {_WORDS[column]}: {remedy}"}
    if texts and name.lower() in (*NAMES["text"], *NEAR["text"]):
        return {"text": f"contains text: set `columns: {{text: {name}}}`"}
    return {}
