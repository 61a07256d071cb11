"""A worker whose node will go closes what is open, and leaves the rest of its unit to others."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
import ray
from support.runs import make_config

from mmray.coverage import WHOLE
from mmray.pipeline import liveness
from mmray.pipeline.fused import FusedWorker
from mmray.pipeline.job import Job
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.meter import Meter
from mmray.pipeline.plan import Unit, Work
from mmray.pipeline.split import prepare
from mmray.pipeline.survey import survey
from mmray.pipeline.travel import from_rows

ROWS = 240  # of the shards
SOME, ALL = range(1, ROWS), range(ROWS, ROWS + 1)


@pytest.fixture
def meter(ray_cluster, monkeypatch):
    monkeypatch.setattr(liveness, "_ASK_S", 0.0)  # whenever the last answer is there
    made = ray.remote(num_cpus=0)(Meter).remote()
    yield made
    ray.kill(made)


@pytest.fixture
def work(shards, tmp_path) -> tuple[Job, Unit]:
    """A job, and all of its records as one unit."""
    found = survey(make_config(shards, tmp_path / "out", block_rows=1, variant="fp32"))
    job = Job(found.config, found.bundle.digest, part_rows=1_000, threads=1)
    job.out.begin({})
    return job, tuple(Work(shard, (WHOLE,), shard.size) for shard in found.shards)


def here() -> str:
    return str(ray.get_runtime_context().get_node_id())


@pytest.mark.parametrize(("warned", "rows"), [(here, SOME), (lambda: "another", ALL)])
def test_the_part_that_is_open_is_closed_and_nobody_counts_as_lost(meter, work, warned, rows):
    job, unit = work
    ray.get(meter.warn.remote([warned()]))
    (part,) = FusedWorker(job, meter).process(unit)
    assert part.rows in rows
    assert Ledger.load(job.out).rows == part.rows
    assert ray.get(meter.take_lost.remote()) == []


@pytest.mark.parametrize(("warned", "rows"), [(here, SOME), (lambda: "another", ALL)])
def test_no_more_is_prepared_for_others_either(meter, work, warned, rows):
    job, unit = work
    ray.get(meter.warn.remote([warned()]))
    made = list(prepare(pa.table({"work": [pickle.dumps(unit)]}), job=job, meter=meter, batches=1))
    assert sum(from_rows(row)[0].num_rows for row in made) in rows
