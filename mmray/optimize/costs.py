"""What each modality costs a record on this machine: its preprocessing, and its own part of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from mmray.batching import Feeds, pack
from mmray.bundle import Bundle
from mmray.engine import Engine
from mmray.optimize.outputs import LabelledTensors
from mmray.predictor import open_preprocessor
from mmray.sources import ReadOptions, list_shards, read

_RECORDS = 64
_RUNS = 3


def modality_costs(
    inputs: Sequence[str], bundle: Bundle, engine: Engine, records: LabelledTensors
) -> dict[str, float]:
    """Milliseconds a record by modality, on one thread; what a record lacks costs nothing.

    Args:
        inputs: shards whose first records are preprocessed.
        bundle: whose preprocessing.
        engine: the whole graph.
        records: some that it is run on.
    """
    costs = _preprocessing(inputs, bundle)
    rows = np.arange(min(_RECORDS, len(records)))
    tensors = records.tensors.take(rows)
    blank = pack(tensors.slice(0, 0), bundle.spec)
    for modality in bundle.spec.modalities:
        feeds = {**blank, **pack(tensors, bundle.spec, take=(modality,), seen=(modality,))}
        costs[modality] += 1e3 * min(_seconds(engine, feeds) for _ in range(_RUNS)) / len(rows)
    return costs


def _preprocessing(inputs: Sequence[str], bundle: Bundle) -> dict[str, float]:
    preprocess = open_preprocessor(bundle)
    rows = 0
    for shard in list_shards(inputs):
        for block in read(shard, ReadOptions(block_rows=_RECORDS)):
            preprocess(block)
            rows += block.num_rows
            if rows >= _RECORDS:
                return {m: 1e3 * preprocess.seconds[m] / rows for m in bundle.spec.modalities}
    return {m: 1e3 * preprocess.seconds[m] / max(1, rows) for m in bundle.spec.modalities}


def _seconds(engine: Engine, feeds: Feeds) -> float:
    start = perf_counter()
    engine(feeds)
    return perf_counter() - start
