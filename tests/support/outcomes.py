"""Outcomes and run directories without a model, for those who only count rows."""

from pathlib import Path

from mmray.coverage import Interval
from mmray.pipeline.guide import NONE
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import write_part
from mmray.schema import OutputColumns, error, outcomes, table
from mmray.sources import Shard

COLUMNS = OutputColumns(classes=2)
ROW_BYTES = 1024
KINDS = ("preprocess", "image-undecodable"), ("read", "shard-damaged")


def shard(name, rows):
    """A shard of so many rows."""
    size = ROW_BYTES * rows
    return Shard(f"{name}@{size}", f"/data/{name}", size)


def rows_of(shard, rows=None):
    """(shard, row) pairs: those given, or all."""
    total = shard.size // ROW_BYTES
    return [(shard, row) for row in (range(total) if rows is None else rows)]


def fails(row):
    """Every third row is rejected."""
    return row % 3 == 1


def outcomes_of(rows):
    """OUTCOMES of (shard, row) pairs, in the order given; the same row always gives the same outcome."""
    made = [
        {
            "shard": shard.id,
            "row": row,
            "key": f"{shard.name}-{row}",
            "end": (row + 1) * ROW_BYTES == shard.size,
            "offset": row * ROW_BYTES,
            "length": ROW_BYTES,
            "label": None if fails(row) else f"label {row % 2}",
            "score": None if fails(row) else 0.75,
            "scores": [0.25, 0.75],
            "modalities": ["image", "text"] if row % 2 else ["image"],
            "damaged": [],
            "variant": "fp32",
            "bundle": "0" * 64,
            "error": error(*KINDS[row % 2], f"row {row} is bad") if fails(row) else None,
        }
        for shard, row in rows
    ]
    schema = outcomes(COLUMNS)
    return table({name: [row.get(name) for row in made] for name in schema.names}, schema)


def write(out, rows):
    """Write (shard, row) pairs as one part."""
    return write_part(out, outcomes_of(rows), COLUMNS)


def begin(folder, *shards, variant="auto", bundle=None):
    """A run directory whose plan names these shards."""
    out = RunDirectory.at(str(folder))
    identity = {"bundle": bundle} if bundle else {}
    listed = [shard.to_list() for shard in shards]
    out.begin({"identity": identity, "config": {}, "variant": variant, "shards": listed})
    return out


def interval(first, last):
    return Interval(first, last, (last + 1) * ROW_BYTES)


def files(out):
    """Names below parts/ and rejects/ with their bytes, of files that are in place and have rows."""
    files = [file for file in Path(out.root.path).glob("*/[!.]*.parquet") if file.name != NONE]
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files}
