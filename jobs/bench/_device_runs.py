"""Runs of the job with simulated devices, for `device.py`: cases and results."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from _stand_in import StandInJob
from ray.data import DataContext

# From the tests: pictures, sounds, tars.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.media import encode, encode_audio, photo, tone  # type: ignore[import-not-found]
from support.tars import write_shard  # type: ignore[import-not-found]

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.pipeline.advice import Advice, advise
from mmray.pipeline.audit import audit
from mmray.pipeline.cluster import connected
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.operators import run_units
from mmray.pipeline.plan import make_plan
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.snapshot import Snapshot
from mmray.pipeline.survey import survey
from mmray.pipeline.watchdog import metered
from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, list_shards, read

KEPT_CPUS = 2  # CPUs that the plan reserves for an actor; a simulated device needs almost none
SHARD_ROWS = 512
_BYTES_A_PATCH = 48 * 160  # samples: a patch each 48 frames of 160


@dataclass(frozen=True)
class Case:
    """One run."""

    shards: list[Path]
    cpus: int  # for tasks
    actors: int = 1
    variant: str = "fp32"
    device: str | float = "fp32"  # whose times it takes: a variant of the stand-in, or seconds a row
    instant: bool = False
    slower: float = 1.0
    batch_rows: int | None = None


@dataclass(frozen=True)
class Outcome:
    """The result."""

    counted: Snapshot
    driver_s: dict[str, float]  # CPU seconds of this process: "plan", "run", "ledger"
    advice: Advice | None
    course: list[tuple[float, int]]  # Unix time, and the rows that were done then
    whole_s: float  # from the first task to the end, starting of workers included

    def rows_per_s(self, between: tuple[float, float] = (0.1, 0.9)) -> float:
        """Rate between two shares of the rows: while all processes are there, and busy."""
        low, high = between
        middle = [at for at in self.course if low <= at[1] / self.counted.rows <= high]
        (start, before), (end, after) = middle[0], middle[-1]
        return (after - before) / (end - start)


def execute(bundle: Bundle, case: Case, output: Path) -> Outcome:
    """Run a case on a new Ray, or on the one that this process has joined."""
    config = RunConfig.model_validate(
        {
            "input": [str(path) for path in case.shards],
            "bundle": str(bundle.path),
            "output": str(output),
            "variant": case.variant,
            "batch_rows": case.batch_rows,
            "part_rows": 10_000,
        }
    )
    if not ray.is_initialized():
        ray.init(
            num_cpus=case.cpus + KEPT_CPUS * case.actors,
            num_gpus=case.actors,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    # Else the first devices would be timed while others are still loading, which takes both cores.
    DataContext.get_current().wait_for_min_actors_s = 600
    try:
        with connected() as machines:
            clock = [time.process_time()]
            plan = make_plan(survey(config), machines)
            assert plan.task_cpus == case.cpus
            out = RunDirectory.at(plan.survey.config.output)
            out.begin(plan.to_json())
            units = plan.units(Ledger().missing(plan.survey.shards))
            clock.append(time.process_time())
            on_cpu = plan.survey.config.model_copy(update={"provider": "cpu"})
            job = StandInJob(
                on_cpu,
                plan.survey.bundle.digest,
                plan.part_rows,
                1,
                plan.ladder,
                times_of=case.device,
                instant=case.instant,
                slower=case.slower,
            )
            course: dict[int, float] = {}  # when there were so many rows

            def note(now: Snapshot) -> None:
                course.setdefault(now.rows, now.last)

            begun = time.time()
            with metered(note, plan) as meter:
                run_units(units, job, plan, meter.handle)
                counted = meter.read()
            ended = time.time()
            clock.append(time.process_time())
            ledger = Ledger.load(out)
            ledger.clean_up(out)
            assert not ledger.missing(plan.survey.shards)
            clock.append(time.process_time())
            assert audit(out).ok
    finally:
        ray.shutdown()
    seconds = [after - before for before, after in pairwise(clock)]
    task_s, device_s = counted.task_s / counted.rows, counted.device_s / counted.rows
    advice = advise(task_s, device_s, plan.task_cpus, plan.actors)
    driver_s = dict(zip(("plan", "run", "ledger"), seconds, strict=True))
    at = [(when, rows) for rows, when in course.items() if rows]
    return Outcome(counted, driver_s, advice, at, ended - begun)


def write_captions(folder: Path, rows: int) -> list[Path]:
    """Shards of records with one caption."""

    def records(first: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        for row in range(first, min(rows, first + SHARD_ROWS)):
            yield f"{row:07d}", {"txt": f"a {('red', 'blue')[row % 2]} cat number {row}".encode()}

    firsts = range(0, rows, SHARD_ROWS)
    return [write_shard(folder / f"{first:07d}.tar", list(records(first))) for first in firsts]


def write_pictures(folder: Path, rows: int) -> list[Path]:
    """Shards of records with one large JPEG, from eight different ones."""
    jpegs = [encode(photo(1280, 960, seed), "JPEG", quality=90) for seed in range(8)]
    firsts = range(0, rows, rows // 8)
    return [
        write_shard(
            folder / f"{first:07d}.tar",
            [(f"{row:07d}", {"jpg": jpegs[row % 8]}) for row in range(first, first + rows // 8)],
        )
        for first in firsts
    ]


def write_mixed(folder: Path, rows: int) -> list[Path]:
    """Shards of records with every subset of the modalities: 1 to 256 tokens, 0 to 12 patches of sound."""
    random = np.random.default_rng(0)
    jpegs = [encode(photo(320, 240, seed), "JPEG", quality=90) for seed in range(16)]
    seconds = [(400 + 95 * 160 + _BYTES_A_PATCH * (patches - 1)) / 16_000 for patches in range(1, 13)]
    sounds = [encode_audio(tone(s, hz=300 + 40 * i), format="OGG") for i, s in enumerate(seconds)]
    words = ("a", "red", "blue", "cat", "dog", "number")

    def record(row: int) -> dict[str, bytes]:
        has = [bool((row % 7 + 1) >> bit & 1) for bit in range(3)]
        members = {}
        if has[0]:
            members["jpg"] = jpegs[row % len(jpegs)]
        if has[1]:  # two of the tokens mark the ends
            members["txt"] = " ".join(random.choice(words, random.integers(1, 255))).encode()
        patches = int(random.integers(0, 13))
        if has[2] and (patches or len(members) == 0):
            members["ogg"] = sounds[max(0, patches - 1)]
        return members or {"txt": b"a cat"}

    firsts = range(0, rows, SHARD_ROWS)
    return [
        write_shard(
            folder / f"{first:07d}.tar",
            [(f"{row:07d}", record(row)) for row in range(first, min(rows, first + SHARD_ROWS))],
        )
        for first in firsts
    ]


def is_real(bundle: Bundle, shards: list[Path], output: Path) -> bool:
    """Whether the simulated device's predictions equal those of the model in this process, unpadded."""
    preprocess, predict = open_preprocessor(bundle), Predictor(bundle, variant="fp32", provider="cpu")
    tables = [
        predict(preprocess(records))
        for shard in list_shards([str(path) for path in shards])
        for records in read(shard, ReadOptions())
    ]
    wanted = pa.concat_tables(tables).select(["key", "label", "score"]).sort_by("key")
    parts = [pq.read_table(part) for part in (output / "parts").iterdir()]
    found = pa.concat_tables(parts).select(["key", "label", "score"]).sort_by("key")
    apart = np.abs(np.subtract(found["score"].to_numpy(), wanted["score"].to_numpy()))
    return bool(
        found["key"].equals(wanted["key"]) and found["label"].equals(wanted["label"]) and apart.max() < 1e-5
    )
