"""Shards of any format as a dataset of Ray Data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from mmray.config import RunConfig, with_assignments
from mmray.errors import ConfigError
from mmray.pipeline.survey import read_options
from mmray.schema import EMPTY, MODALITIES
from mmray.sources import ReadOptions, Shard, list_shards
from mmray.sources import read as read_shard

#: Columns of the dataset.
COLUMNS = ("shard", "row", "key", *MODALITIES, "meta", "error")

#: Keys of a run's config for reading shards.
SETTINGS = (
    "block_bytes",
    "block_rows",
    "captions",
    "columns",
    "extensions",
    "fetch",
    "files",
    "interleaved",
    "key_split",
    "limits",
    "lmdb",
    "regroup_rows",
)


def read(paths: str | PathLike[str] | Sequence[str | PathLike[str]], **settings: Any) -> ray.data.Dataset:  # noqa: ANN401
    """The records of shards: WebDataset tars, LMDBs, TFRecords, Parquet, Arrow, CSV, JSONL, folders.

        mmray.read("s3://bucket/shards/*.tar").filter(lambda row: row["text"] is not None).count()

    Args:
        paths: files, directories, patterns, URLs, as `input` of a run's config.
        settings: keys of a run's config for reading shards, as `captions="join"`: see `SETTINGS`.

    Returns:
        A row for each record: `shard` (its id) and `row` (its number there), which identify it permanently;
        `key`; `image`, `text`, `audio`, `meta`: bytes as stored, None where it lacks them; `error`: None, or
        a dict of `stage`, `type`, `reason` where it cannot be read. Each block is of one shard.

    Raises:
        InputError: there are no shards.
        ConfigError: a setting is wrong, or not for reading.
    """
    if unknown := set(settings) - set(SETTINGS):
        raise ConfigError(f"read: {', '.join(sorted(unknown))}: settings are {', '.join(SETTINGS)}")
    listed = [paths] if isinstance(paths, str | PathLike) else list(paths)
    inputs = [str(path) for path in listed]
    config = with_assignments(
        RunConfig, {"input": inputs, "bundle": "", "output": "", **settings}, (), "read"
    )
    shards = [{"shard": json.dumps(shard.to_list())} for shard in list_shards(inputs)]
    return ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        _Reader(read_options(config)), batch_size=1, batch_format="pyarrow"
    )


class _Reader:
    """Reads one shard for each row."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for text in rows["shard"].to_pylist():
            for records in read_shard(Shard.from_list(json.loads(text)), self._options):
                kinds = pc.struct_field(records["error"], "type")
                yield records.select(COLUMNS).filter(pc.fill_null(pc.not_equal(kinds, EMPTY), True))
