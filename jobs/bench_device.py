"""How busy the split topology keeps its devices, and what it costs the driver, with a simulated device.

    OMP_NUM_THREADS=1 python jobs/bench_device.py

The stand-in device gives the real results of a small model on the CPU, whose time is far below a millisecond
a record, and takes a given time for them: it sleeps the rest. Ray is told that the machine has GPUs, so the
plan is that of a machine which has. What is real: reading, preprocessing, transport, packing, writing.

- Captions alone, 16 ms a record, 1 to 16 devices: two cores prepare more than 16 devices take.
- Large pictures, one CPU for tasks, and a device that could take 3.2 times as many as that prepares: the run
  must say that decoding bounds it, and what more CPUs would give; then it gets them. So that two cores hold
  four or five such CPUs beside Ray and the actor, these are stand-ins, too: they do the real work, and sleep
  for five times as long as it took.
- Captions and no latency, 10,000 and 100,000 records: CPU time and memory of the driver's process.

About five minutes. A table, then one JSON line last. Expected: one device is busy for at least 95 % of the
time, 16 for 90 %; the gain of the CPUs is right within 15 %; exit code 1 where it is otherwise. Times
of a machine that others use meanwhile mean nothing.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import typer
from _stand_in import StandInJob
from ray.data import DataContext

# What the tests are made of: a small model, pictures, tars, and the memory of this process.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.bundles import SPEC, make_bundle  # type: ignore[import-not-found]
from support.checker import memory_mb  # type: ignore[import-not-found]
from support.media import encode, photo  # type: ignore[import-not-found]
from support.tars import write_shard  # type: ignore[import-not-found]

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.pipeline.advice import Advice, advise
from mmray.pipeline.audit import audit
from mmray.pipeline.cluster import connected
from mmray.pipeline.execute import metered
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.meter import Snapshot
from mmray.pipeline.plan import make_plan
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.split import run_split
from mmray.pipeline.survey import survey
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess.spec import ImageSpec
from mmray.sources import ReadOptions, list_shards, read

ACTORS = (1, 2, 4, 8, 16)
LATENCY_S = 0.016  # of a caption
BLOCK_ROWS = 64
SHARD_ROWS = 8 * BLOCK_ROWS
BLOCKS_EACH = 16  # of each device: some 16 s
PICTURES = 2_048
PICTURE_ROWS = 16  # of a block
SLOWER = 6.0  # a stand-in CPU than a core of this machine
GAIN = 3.2  # how much faster the device of the pictures is than one CPU that prepares them
RECORDS = (10_000, 100_000)  # of the driver's cost
LEAST_BUSY = {1: 0.95, 16: 0.90}
RIGHT_WITHIN = 0.15


@dataclass(frozen=True)
class Case:
    """One run."""

    shards: list[Path]
    cpus: int
    actors: int
    record_s: float
    slower: float = 1.0
    block_rows: int = BLOCK_ROWS


@dataclass(frozen=True)
class Outcome:
    """What it came to."""

    counted: Snapshot
    driver_s: dict[str, float]  # CPU seconds of this process: "plan", "run", "ledger"
    advice: Advice
    course: list[tuple[float, int]]  # Unix time, and the rows that were done then

    @property
    def steady_rows_per_s(self) -> float:
        """Rate between two fifths and nine tenths of the rows: while all processes are there, and busy."""
        middle = [at for at in self.course if 0.4 <= at[1] / self.counted.rows <= 0.9]
        (start, before), (end, after) = middle[0], middle[-1]
        return (after - before) / (end - start)


def execute(bundle: Bundle, case: Case, output: Path) -> Outcome:
    """Run a case on a Ray of its own."""
    config = RunConfig.model_validate(
        {
            "input": [str(path) for path in case.shards],
            "bundle": str(bundle.path),
            "output": str(output),
            "variant": "fp32",
            "block_rows": case.block_rows,
            "part_rows": 10_000,
        }
    )
    ray.init(
        num_cpus=case.cpus,
        num_gpus=case.actors,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    # Else the first devices would be timed while others are still loaded, which takes both cores.
    DataContext.get_current().wait_for_min_actors_s = 600
    try:
        with connected() as machines:
            clock = [time.process_time()]
            plan = make_plan(survey(config), machines)
            out = RunDirectory.at(plan.survey.config.output)
            out.begin(plan.to_json())
            units = plan.units(Ledger().missing(plan.survey.shards))
            clock.append(time.process_time())
            on_cpu = plan.survey.config.model_copy(update={"provider": "cpu"})
            job = StandInJob(on_cpu, plan.part_rows, 1, record_s=case.record_s, slower=case.slower)
            course: dict[int, float] = {}  # when there were so many rows

            def note(now: Snapshot) -> None:
                course.setdefault(now.rows, now.last)

            with metered(note, plan) as meter:
                run_split(units, job, plan, meter.sink)
                counted = meter.read()
            clock.append(time.process_time())
            ledger = Ledger.load(out)
            ledger.settle(out)
            assert not ledger.missing(plan.survey.shards)
            clock.append(time.process_time())
            assert audit(out).ok
    finally:
        ray.shutdown()
    seconds = [after - before for before, after in pairwise(clock)]
    task_s, device_s = counted.task_s / counted.rows, counted.device_s / counted.rows
    advice = advise(task_s, device_s, plan.task_cpus, plan.actors)
    assert advice is not None
    driver_s = dict(zip(("plan", "run", "ledger"), seconds, strict=True))
    return Outcome(counted, driver_s, advice, [(at, rows) for rows, at in course.items()])


def write_captions(folder: Path, rows: int) -> list[Path]:
    """Shards of one caption a record."""

    def records(first: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        for row in range(first, min(rows, first + SHARD_ROWS)):
            yield f"{row:07d}", {"txt": f"a {('red', 'blue')[row % 2]} cat number {row}".encode()}

    firsts = range(0, rows, SHARD_ROWS)
    return [write_shard(folder / f"{first:07d}.tar", list(records(first))) for first in firsts]


def write_pictures(folder: Path, rows: int) -> list[Path]:
    """Shards of one large JPEG a record, of eight different ones."""
    jpegs = [encode(photo(1280, 960, seed), "JPEG", quality=90) for seed in range(8)]
    firsts = range(0, rows, rows // 8)
    return [
        write_shard(
            folder / f"{first:07d}.tar",
            [(f"{row:07d}", {"jpg": jpegs[row % 8]}) for row in range(first, first + rows // 8)],
        )
        for first in firsts
    ]


def is_real(bundle: Bundle, shards: list[Path], output: Path) -> bool:
    """Whether the stand-in's predictions are those of the model in this process."""
    preprocess, predict = open_preprocessor(bundle), Predictor(bundle, variant="fp32", provider="cpu")
    options = ReadOptions(block_rows=BLOCK_ROWS)
    tables = [
        predict(preprocess(records))
        for shard in list_shards([str(path) for path in shards])
        for records in read(shard, options)
    ]
    wanted = pa.concat_tables(tables).select(["key", "label", "score"]).sort_by("key")
    parts = [pq.read_table(part) for part in (output / "parts").iterdir()]
    return bool(pa.concat_tables(parts).select(["key", "label", "score"]).sort_by("key").equals(wanted))


def measure_scaling(bundle: Bundle, place: Path) -> tuple[dict[str, Any], bool]:
    """Busy fraction and rows a second by the number of devices; whether the predictions were real."""
    shards = write_captions(place / "in", max(ACTORS) * BLOCKS_EACH * BLOCK_ROWS)
    found: dict[str, Any] = {}
    real = True
    print("devices  busy   rows/s  of the possible")
    for actors in ACTORS:
        mine = shards[: actors * BLOCKS_EACH * BLOCK_ROWS // SHARD_ROWS]
        output = place / f"out-{actors}"
        counted = execute(bundle, Case(mine, 2, actors, LATENCY_S), output).counted
        share = counted.rows_per_s * LATENCY_S / actors
        found[str(actors)] = {
            "busy": round(counted.device_busy, 3),
            "rows_per_s": round(counted.rows_per_s, 1),
            "efficiency": round(share, 3),
        }
        print(f"{actors:7d}  {counted.device_busy:.3f}  {counted.rows_per_s:7.1f}  {share:15.3f}", flush=True)
        real = real and (actors > 1 or is_real(bundle, mine, output))
    return found, real


def measure_advice(bundle: Bundle, place: Path) -> dict[str, Any]:
    """What one CPU is told, and what the CPUs that it asks for give."""
    shards = write_pictures(place / "in", PICTURES)
    preprocess = open_preprocessor(bundle)
    (records,) = read(list_shards([str(shards[0])])[0], ReadOptions(block_rows=PICTURES))
    start = time.process_time()
    preprocess(records)
    record_s = SLOWER * (time.process_time() - start) / records.num_rows / GAIN

    def run(cpus: int) -> Outcome:
        case = Case(shards, cpus, 1, record_s, SLOWER, PICTURE_ROWS)
        return execute(bundle, case, place / f"out-{cpus}")

    few = run(1)
    print(f"one CPU: busy {few.counted.device_busy:.3f}; {few.advice}", flush=True)
    cpus = 1 + few.advice.cpus
    enough = run(cpus)
    measured = enough.steady_rows_per_s / few.steady_rows_per_s
    print(f"{cpus}: busy {enough.counted.device_busy:.3f}, {measured:.2f} times as fast", flush=True)
    return {
        "said": str(few.advice),
        "predicted": round(few.advice.speedup, 3),
        "measured": round(measured, 3),
        "busy": [round(outcome.counted.device_busy, 3) for outcome in (few, enough)],
    }


def measure_driver(bundle: Bundle, place: Path) -> dict[str, Any]:
    """CPU seconds of the driver by the million records, and its memory at both numbers of them."""
    shards = write_captions(place / "in", RECORDS[1])
    rss_mb, seconds = [], []
    for records in RECORDS:
        mine = shards[: -(-records // SHARD_ROWS)]
        outcome = execute(bundle, Case(mine, 2, 1, 0.0), place / f"out-{records}")
        seconds.append(outcome.driver_s)
        rss_mb.append(round(memory_mb("VmRSS")))
    more = (RECORDS[1] - RECORDS[0]) / 1e6
    a_million = {name: round((seconds[1][name] - seconds[0][name]) / more, 1) for name in seconds[0]}
    print(f"driver: {a_million} CPU s a million records, {rss_mb} MB after {RECORDS} of them")
    return {"cpu_s_a_million": a_million, "rss_mb": dict(zip(map(str, RECORDS), rss_mb, strict=True))}


def main() -> None:
    """Measure, print, judge."""
    with tempfile.TemporaryDirectory(prefix="mmray-device-") as temporary:
        place = Path(temporary)
        bundle = make_bundle(
            place / "bundle", spec=SPEC.model_copy(update={"image": ImageSpec(height=224, width=224)})
        )
        scaling, real = measure_scaling(bundle, place / "scaling")
        advice = measure_advice(bundle, place / "advice")
        driver = measure_driver(bundle, place / "driver")
    print(json.dumps({"devices": scaling, "real_results": real, "advice": advice, "driver": driver}))
    is_busy = all(scaling[str(actors)]["busy"] >= least for actors, least in LEAST_BUSY.items())
    is_right = abs(advice["measured"] / advice["predicted"] - 1) <= RIGHT_WITHIN
    if not (real and is_busy and is_right):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
