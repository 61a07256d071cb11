"""What `prove_gpu.py` compares with the job: the same without a model, and Ray Data."""

from __future__ import annotations

import os
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import ray
from _proofs import Setting, outputs_of
from ray.data import ActorPoolStrategy, DataContext

sys.path.insert(0, str(Path(__file__).parent / "bench" / "contenders"))
from shared import opened_decoder

from mmray.batching import blank, fill
from mmray.bundle import FP32, Bundle
from mmray.config import RunConfig
from mmray.engine import Bound, Provider
from mmray.loading import open_engine
from mmray.pipeline.run import Watcher, run
from mmray.predictor import open_preprocessor
from mmray.schema import TENSOR_OF, TENSORS
from mmray.shapes import Shape, Shaper, job_ladder
from mmray.sources import ReadOptions, list_shards, read

# Ray's workers must find the contenders, too.
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])


def cpu_ceiling(setting: Setting, processes: int) -> dict[str, Any]:
    """Records a second that so many plain processes read and preprocess, without Ray and without a model."""
    with get_context("spawn").Pool(processes) as pool:
        arguments = [(str(setting.bundle.path), setting.inputs, n, processes) for n in range(processes)]
        pool.starmap(_prepare_some, [(*a, 1) for a in arguments])  # everything is imported now
        start = perf_counter()
        rows = sum(pool.starmap(_prepare_some, [(*a, 0) for a in arguments]))
        elapsed_s = perf_counter() - start
    return {"processes": processes, "rows_per_s": round(rows / elapsed_s, 1)}


def _prepare_some(bundle: str, inputs: list[str], first: int, step: int, most: int) -> int:
    """Read and preprocess every n-th shard; at most `most` blocks, if that is not 0."""
    preprocess = open_preprocessor(Bundle.open(bundle))
    rows = blocks = 0
    for shard in list_shards(inputs)[first::step]:
        for records in read(shard, ReadOptions(block_rows=64)):
            rows += int(preprocess(records).num_rows)
            blocks += 1
            if blocks == most:
                return rows
    return rows


def job(setting: Setting, variant: str, folder: Path) -> dict[str, Any]:
    """A run of the job over all inputs."""
    output = Path(tempfile.mkdtemp(dir=folder))
    config = RunConfig.model_validate(
        {
            "input": setting.inputs,
            "bundle": str(setting.bundle.path),
            "output": str(output),
            "variant": variant,
            "provider": setting.provider,
            "topology": "split",
            "max_reject_rate": 1,
        }
    )
    result = run(config, Watcher(lambda *_: None, lambda *_: None, lambda _: None))
    told = result.summary["this_run"]
    labels = ds.dataset(output / "parts", format="parquet").to_table(["shard", "row", "label"])
    return {"what": f"job, {variant}", "audit": result.audit.ok, **told, "labels": labels}


def ray_data(setting: Setting, folder: Path) -> dict[str, Any]:
    """Ray Data as in its documentation, with batches padded like ours."""
    output = Path(tempfile.mkdtemp(dir=folder))
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    tars = [shard.url for shard in list_shards(setting.inputs)]
    bundle, rows = str(setting.bundle.path), setting.batch_rows[-1]
    gpus = {"num_gpus": 1} if setting.provider == "cuda" else {"num_cpus": 0.5}

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        members = {name: value for name, value in row.items() if isinstance(value, bytes)}
        return {"key": row["__key__"], **opened_decoder(bundle)(members)}

    ray.data.read_webdataset(tars, decoder=None).map(prepare).map_batches(
        _Infer,
        fn_constructor_args=(bundle, rows, setting.provider),
        batch_size=rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
        **gpus,
    ).write_parquet(str(output))
    table = ds.dataset(output, format="parquet").to_table(["predicted_at"])
    at = np.sort(table["predicted_at"].to_numpy())
    later = at > at[0]  # the first batch is the start
    rate = later.sum() / (at[-1] - at[0]) if later.any() else 0.0
    return {"what": "Ray Data, same padding", "rows": table.num_rows, "rows_per_s": round(float(rate), 1)}


class _Infer:
    """The actor as in the documentation: one padded batch for each call."""

    def __init__(self, bundle: str, rows: int, provider: Provider) -> None:
        self._bundle = Bundle.open(bundle)
        ladder = job_ladder(self._bundle.spec, rows)
        self._engine = open_engine(self._bundle, FP32, provider=provider, threads=1, ladder=ladder)
        self._shaper = Shaper(ladder, self._bundle.spec.modalities)
        self._bounds: dict[Shape, Bound] = {}

    def __call__(self, batch: pa.Table) -> dict[str, Any]:
        spec = self._bundle.spec
        schema = pa.schema([TENSORS.field(name) for name in TENSOR_OF.values()])
        tensors = pa.table({name: batch[name] for name in schema.names}).cast(schema)
        best = np.zeros(batch.num_rows, np.int64)
        for rows, shape in self._shaper(tensors, np.arange(batch.num_rows)):
            assert shape is not None
            if shape not in self._bounds:
                self._bounds[shape] = self._engine.bound(blank(spec, shape))
            bound = self._bounds[shape]
            fill(bound.feeds, tensors, rows, spec)
            best[rows] = outputs_of(bound)["scores"][: len(rows)].argmax(axis=1)
        labels = np.array(self._bundle.labels)[best]
        return {"key": np.array(batch["key"]), "label": labels, "predicted_at": np.full(len(best), time())}
