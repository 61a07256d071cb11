"""The measurements of `prove_gpu.py`, one function each."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import ray
from ray.data import ActorPoolStrategy, DataContext

sys.path.insert(0, str(Path(__file__).parent / "bench" / "contenders"))
from shared import opened_decoder

from mmray.batching import blank, fill
from mmray.bundle import FP32, Bundle
from mmray.config import RunConfig
from mmray.engine import Bound, Engine, Provider
from mmray.errors import MmrayError
from mmray.evaluation.outputs import LabelledTensors, Outputs, run_outputs
from mmray.golden import output_difference
from mmray.loading import open_engine
from mmray.pipeline.run import Watcher, run
from mmray.predictor import open_preprocessor
from mmray.schema import TENSOR_OF, TENSORS
from mmray.shapes import Ladder, Shape, Shaper, job_ladder
from mmray.sources import ReadOptions, list_shards, read
from mmray.variants.gate.compare import Thresholds, compare

# Ray's workers must find the contenders, too.
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])
_RUNS = 10
_LEFT_BYTES = 300 << 20  # of a device's memory that another process takes


@dataclass(frozen=True)
class Setting:
    """What is proved, and how long it may take."""

    bundle: Bundle
    inputs: list[str]
    provider: Provider
    variants: list[str]  # that passed, without cascades
    cascade: str | None
    batch_rows: Sequence[int]
    processes: Sequence[int]
    rounds: int
    thresholds: Thresholds  # of decisions

    @property
    def ladder(self) -> Ladder:
        return job_ladder(self.bundle.spec, self.batch_rows[-1])


def placement(setting: Setting, variant: str) -> dict[str, Any]:
    """How many of a graph's nodes run on the device, and which do not."""
    engine = open_engine(setting.bundle, variant, provider=setting.provider, threads=1, record_placement=True)
    placed = engine.placement()
    elsewhere = [op for provider, ops in placed.items() if provider != setting.provider for op in ops]
    return {
        "variant": variant,
        "on_device": len(placed.get(setting.provider, [])),
        "elsewhere": len(elsewhere),
        "operators": dict(Counter(elsewhere).most_common()),
    }


def decisions(setting: Setting, variant: str, records: LabelledTensors, parent: Outputs) -> dict[str, Any]:
    """Golden outputs, and decisions with every subset of the modalities beside fp32's on the CPU."""
    engine = open_engine(setting.bundle, variant, provider=setting.provider, threads=1, ladder=setting.ladder)
    inputs, expected = setting.bundle.golden(variant)
    decisive = setting.bundle.decisive
    difference = output_difference(engine(inputs)[decisive], expected[decisive])
    outputs = run_outputs(engine, records, batch_rows=setting.batch_rows[-1])
    verdict = compare(parent, outputs, setting.thresholds)
    fault = verdict.reason
    if difference > setting.bundle.manifest.variants[variant].golden_tolerance:
        fault = f"golden outputs are off by {difference:.2g}"
    return {
        "variant": variant,
        "golden_off_by": float(difference),
        "agrees": verdict.overall.agreement,
        "fault": fault,
    }


def rates(setting: Setting, variant: str, nhwc: bool) -> Iterator[dict[str, Any]]:
    """Rows a second by the rows of a batch: computing alone, and with the copies in and out."""
    for rows in setting.batch_rows:
        ladder = job_ladder(setting.bundle.spec, rows)
        engine = open_engine(
            setting.bundle, variant, provider=setting.provider, threads=1, ladder=ladder, nhwc=nhwc
        )
        bound = engine.bound(blank(setting.bundle.spec, ladder.typical))
        bound.send()
        start = perf_counter()
        bound.compute()
        first_s = perf_counter() - start
        alone_s = _seconds(bound.compute)
        copied_s = _seconds(lambda b=bound: _all(b))  # type: ignore[misc]  # bound at once
        yield {
            "variant": variant,
            "nhwc": nhwc,
            "rows": rows,
            "first_s": round(first_s, 3),
            "rows_per_s": round(rows / copied_s, 1),
            "rows_per_s_on_device": round(rows / alone_s, 1),
        }


def alternating(setting: Setting, variant: str) -> dict[str, Any]:
    """Milliseconds a batch: one shape, two in turns by one session, and by a session for each."""
    spec, typical = setting.bundle.spec, setting.ladder.typical
    other = typical._replace(images=max(1, typical.images - 1))

    def load() -> Engine:
        return open_engine(
            setting.bundle, variant, provider=setting.provider, threads=1, ladder=setting.ladder
        )

    shared, apart = load(), load()
    first_session = shared._session
    pairs = {
        "one session": [
            Bound(first_session, _inputs(shared, blank(spec, s)), _device(shared)) for s in (typical, other)
        ],
        "a session each": [apart.bound(blank(spec, shape)) for shape in (typical, other)],
    }
    found: dict[str, Any] = {"variant": variant}
    for name, bounds in pairs.items():
        for bound in bounds:
            bound.send()
            bound.compute()
        turns = itertools.cycle(bounds)
        found[f"{name}, ms"] = round(1e3 * _seconds(lambda t=turns: next(t).compute(), 4), 2)  # type: ignore[misc]
    bound = pairs["a session each"][0]
    bound.compute()
    found["same shape, ms"] = round(1e3 * _seconds(bound.compute), 2)
    return found


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
    """Read and preprocess each shard whose turn it is; `most` blocks at most, where that is not 0."""
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
    """Ray Data as its documentation writes it, with batches padded as ours are."""
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
    return {"what": "Ray Data, padded alike", "rows": table.num_rows, "rows_per_s": round(float(rate), 1)}


class _Infer:
    """The actor that the documentation would have: one padded batch a call."""

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
            best[rows] = _all(bound)["scores"][: len(rows)].argmax(axis=1)
        labels = np.array(self._bundle.labels)[best]
        return {"key": np.array(batch["key"]), "label": labels, "predicted_at": np.full(len(best), time())}


def crowded(setting: Setting) -> dict[str, Any]:
    """What happens on a device whose memory another process has taken."""
    if setting.provider != "cuda":
        return {"what": "device without memory", "found": "only on a GPU"}
    with _memory_taken():
        try:
            engine = open_engine(setting.bundle, FP32, provider="cuda", threads=1, ladder=setting.ladder)
            _all(engine.bound(blank(setting.bundle.spec, setting.ladder.typical)))
        except MmrayError as e:
            return {"what": "device without memory", "found": f"refused: {e}"[:300]}
        except Exception as e:  # ONNX Runtime's own exception types share no base
            return {"what": "device without memory", "found": f"{type(e).__name__}: {e}"[:300]}
    return {"what": "device without memory", "found": "it ran all the same"}


@contextmanager
def _memory_taken() -> Iterator[None]:
    """Another process holds all of the device's memory but a little."""
    holder = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        yield
    finally:
        holder.kill()
        holder.wait()


def _hold_memory() -> None:
    """Take the memory, say so, and wait for the end of standard input."""
    import onnxruntime as ort

    ort.preload_dlls()
    runtime = ctypes.CDLL("libcudart.so.13")
    free, total, place = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    runtime.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(max(0, free.value - _LEFT_BYTES)))
    print("taken", flush=True)
    sys.stdin.read()


def _all(bound: Bound) -> dict[str, Any]:
    bound.send()
    bound.compute()
    return dict(bound.fetch())


def _inputs(engine: Engine, feeds: dict[str, Any]) -> dict[str, Any]:
    return {name: feeds[name] for name in engine.inputs}


def _device(engine: Engine) -> str:
    return "cuda" if engine.provider == "cuda" else "cpu"


def _seconds(act: Callable[[], object], runs: int = _RUNS) -> float:
    """Median of some runs."""
    taken = []
    for _ in range(runs):
        start = perf_counter()
        act()
        taken.append(perf_counter() - start)
    return median(taken)


def describe_machine() -> dict[str, Any]:
    """The card, and the CPUs."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        card = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        card = "none"
    return {"card": card, "cpus": os.cpu_count()}


if __name__ == "__main__":
    _hold_memory()
