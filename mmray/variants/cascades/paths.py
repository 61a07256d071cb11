"""Times the real path: records as read → `Preprocessor` → `Predictor`, on one thread.

All paths are run in turns, block by block, and the fastest run of each block counts. CPU time of the process
is measured, so that other load on the machine matters little.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from time import process_time

import numpy as np
import pyarrow as pa

from mmray.bundle import Bundle
from mmray.evaluation import LabelledTensors
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess import Preprocessor
from mmray.schema import Modality
from mmray.sources import ReadOptions, list_shards, read

_BLOCK_ROWS = 64  # as a run reads them
_ROUNDS = 2


@dataclass(frozen=True)
class Way:
    """One way to answer records."""

    variant: str | None  # None: records are only decoded
    modalities: tuple[Modality, ...] | None = None  # that are looked at; None: all


def time_ways(
    bundle: Bundle,
    ways: Mapping[str, Way],
    blocks: Sequence[pa.Table],
    *,
    batch_rows: int,
    rounds: int = _ROUNDS,
) -> dict[str, float]:
    """Milliseconds of a record by the name of the path, decoding included.

    Args:
        bundle: with the variants of all paths, none of which failed its gate.
        ways: by name.
        blocks: tables of RECORDS, at least one row in all.
        batch_rows: records of one inference, as in the job.
        rounds: of all paths in turn.

    Raises:
        BundleError: no such variant, or one that failed.
        EngineError: a graph does not load.
    """
    variants = {way.variant for way in ways.values() if way.variant}
    predictors = {
        variant: Predictor(bundle, variant=variant, provider="cpu", threads=1, batch_rows=batch_rows)
        for variant in sorted(variants)
    }
    preprocessors: dict[Collection[Modality] | None, Preprocessor] = {
        way.modalities: open_preprocessor(bundle, modalities=way.modalities) for way in ways.values()
    }
    best = {name: np.full(len(blocks), np.inf) for name in ways}
    for _ in range(rounds):
        for i, block in enumerate(blocks):
            for name, way in ways.items():
                preprocess, predict = preprocessors[way.modalities], predictors.get(way.variant or "")
                start = process_time()
                tensors = preprocess(block, predict.later if predict else ())
                if predict:
                    predict(tensors, preprocess.complete)
                best[name][i] = min(best[name][i], process_time() - start)
    rows = sum(block.num_rows for block in blocks)
    return {name: float(1e3 * seconds.sum() / rows) for name, seconds in best.items()}


def record_blocks(inputs: Sequence[str], records: LabelledTensors, rows: int) -> list[pa.Table]:
    """Tables of RECORDS, as a run reads them: the first of the given records, an equal share of each shard.

    Args:
        inputs: shards that hold them.
        records: those that count.
        rows: how many at most.
    """
    names = (records.tensors[name].to_pylist() for name in ("shard", "row"))
    wanted = set(zip(*names, strict=True))
    kept: list[pa.Table] = []
    shards = [shard for shard in list_shards(list(inputs)) if shard.id in {name for name, _ in wanted}]
    for number, shard in enumerate(shards):
        share = (rows - sum(table.num_rows for table in kept)) // (len(shards) - number)
        for block in read(shard, ReadOptions(block_rows=_BLOCK_ROWS)):
            is_wanted = [(shard.id, row) in wanted for row in block["row"].to_pylist()]
            found = block.filter(pa.array(is_wanted, pa.bool_())).slice(0, share)
            share -= found.num_rows
            kept.append(found)
            if not share:
                break
    table = pa.concat_tables(kept)
    return [table.slice(i, _BLOCK_ROWS) for i in range(0, table.num_rows, _BLOCK_ROWS)]
