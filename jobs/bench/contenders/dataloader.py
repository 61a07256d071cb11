"""The webdataset package and PyTorch's DataLoader workers before ONNX Runtime in the main process.

    python jobs/bench/contenders/dataloader.py INPUT OUTPUT BUNDLE

Workers read, decode and collate, as the package's documentation shows it (batches are made in the workers, so
the loader has batch_size=None); arrays come as torch tensors, through shared memory. One session of ONNX
Runtime with a thread a core, and one worker a core.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset as wds
from shared import BATCH_ROWS, CORES, Collator, Model, finish, opened_decoder, shards_of
from torch.utils.data import DataLoader

_PREFETCHED = 2  # batches a worker; torch's default


def decode(sample: Mapping[str, Any], bundle: str) -> dict[str, Any]:
    """A sample → its address and its tensors."""
    return {"path": sample["__url__"], "key": sample["__key__"], **opened_decoder(bundle)(sample)}


class Collate:
    """Samples → paths, keys, and the arrays of one batch as torch tensors."""

    def __init__(self, bundle: str) -> None:
        self._collate = Collator(bundle)

    def __call__(self, samples: list[dict[str, Any]]) -> tuple[list[str], list[str], dict[str, torch.Tensor]]:
        columns = {name: [sample[name] for sample in samples] for name in samples[0]}
        feeds = {name: torch.from_numpy(array) for name, array in self._collate(columns).items()}
        return columns["path"], columns["key"], feeds


def predict(batches: Iterable[Any], model: Model) -> Iterator[pa.Table]:
    """Tables of predictions, one a batch."""
    for paths, keys, feeds in batches:
        found = model({name: np.asarray(tensor) for name, tensor in feeds.items()})
        yield pa.table({"path": paths, "key": keys, **found})


def load(shards: list[str], bundle: str) -> DataLoader[Any]:
    """Batches of the shards, which the workers share among them."""
    samples = wds.WebDataset(shards, shardshuffle=False).map(partial(decode, bundle=bundle))
    batches = samples.batched(BATCH_ROWS, collation_fn=Collate(bundle), partial=True)
    return DataLoader(
        batches, batch_size=None, num_workers=min(CORES, len(shards)), prefetch_factor=_PREFETCHED
    )


if __name__ == "__main__":
    folder, output, bundle = sys.argv[1:]
    Path(output).mkdir(parents=True)
    loader = load(shards_of(folder), bundle)
    tables = predict(loader, Model(bundle, threads=CORES))
    first = next(tables)
    with pq.ParquetWriter(f"{output}/predictions.parquet", first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)
    finish(output)
