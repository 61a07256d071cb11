"""The limit: one plain process for each core, one thread each, mmray's own functions, and no framework.

    python jobs/bench/contenders/limit.py INPUT OUTPUT BUNDLE

Each process takes a whole shard at a time, largest first, reads, preprocesses and predicts it, and writes one
Parquet file of it. There is no resume, monitoring, audit or cleanup.
"""

import sys
from multiprocessing import get_context
from pathlib import Path
from time import time

import pyarrow as pa
import pyarrow.parquet as pq
from shared import CORES, finish

from mmray.bundle import FP32, Bundle
from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, Shard, list_shards, read

_COLUMNS = ("shard", "key", "label", "score", "scores")


class _Worker:
    """State of a process."""

    opened: "_Worker"  # of this process

    def __init__(self, bundle: str, output: str) -> None:
        opened = Bundle.open(bundle)
        self._output = output
        self._preprocess = open_preprocessor(opened)
        self._predict = Predictor(opened, variant=FP32, provider="cpu", threads=1, shared=True)

    def predict(self, shard: Shard) -> None:
        """Write the predictions of one shard."""
        found = []
        for records in read(shard, ReadOptions()):
            outcomes = self._predict(self._preprocess(records)).select(_COLUMNS)
            found.append(outcomes.append_column("predicted_at", [pa.array([time()] * len(outcomes))]))
        rows = pa.concat_tables(found).rename_columns({"shard": "path"})
        pq.write_table(rows, f"{self._output}/{Path(shard.name).stem}.parquet", compression="zstd")


def _open(bundle: str, output: str) -> None:
    _Worker.opened = _Worker(bundle, output)


def _predict(shard: Shard) -> None:
    _Worker.opened.predict(shard)


if __name__ == "__main__":
    folder, output, bundle = sys.argv[1:]
    Path(output).mkdir(parents=True)
    shards = sorted(list_shards([folder]), key=lambda shard: -shard.size)
    with get_context("spawn").Pool(CORES, _open, (bundle, output)) as pool:
        for _ in pool.imap_unordered(_predict, shards):
            pass
    finish(output)
