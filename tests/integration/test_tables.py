"""What travels to a device may hold more than has one shape: it is cut again there."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
import ray
from support.bundles import SPEC, make_bundle
from support.tars import write_shard

from mmray.config import RunConfig
from mmray.coverage import WHOLE
from mmray.pipeline.infer import InferWorker
from mmray.pipeline.job import Job
from mmray.pipeline.meter import Meter
from mmray.pipeline.plan import Work
from mmray.pipeline.split import prepare
from mmray.pipeline.travel import from_rows
from mmray.shapes import BATCHES, job_ladder
from mmray.sources import list_shards

ROWS, BATCH_ROWS = 160, 8


@pytest.fixture
def job(tmp_path, ray_cluster):
    """A job of one shard of captions: the first half are short, in the other some are long."""
    bundle = make_bundle(tmp_path / "bundle", spec=SPEC)
    texts = ["a cat" if row < ROWS // 2 or row % 4 else "a red cat number a dog" for row in range(ROWS)]
    write_shard(tmp_path / "in" / "a.tar", [(f"{i:03}", {"txt": t.encode()}) for i, t in enumerate(texts)])
    config = RunConfig.model_validate(
        {
            **{"input": [str(tmp_path / "in")], "bundle": str(bundle.path), "output": str(tmp_path / "out")},
            **{"variant": "fp32", "provider": "cpu"},
        }
    )
    return Job(config, bundle.digest, 1_000, threads=1, ladder=job_ladder(SPEC, BATCH_ROWS))


def run(job, batches):
    """Rows of each table, the answers, and the shapes that the device saw."""
    meter = ray.remote(num_cpus=0)(Meter).remote()
    (shard,) = list_shards(job.config.input)
    work = pa.table({"work": [pickle.dumps((Work(shard, (WHOLE,), shard.size),))]})
    tables = list(prepare(work, job=job, meter=meter, batches=batches))
    worker = InferWorker(job, meter)
    answers = pa.concat_tables([worker(table) for table in tables])
    (use,) = ray.get(meter.read.remote()).devices.values()
    ray.kill(meter)
    return [from_rows(table)[0].num_rows for table in tables], answers, use


def test_tables_that_travel_together_are_fewer_and_shapes_and_answers_are_the_same(job):
    few, expected, before = run(job, BATCHES)
    many, answers, after = run(job, 4 * BATCHES)
    assert (few, many) == ([32] * 5, [128, 32])
    assert answers["row"].to_pylist() == list(range(ROWS))
    assert answers.select(["row", "label", "end"]).equals(expected.select(["row", "label", "end"]))
    assert (after.shapes, after.changes) == (before.shapes, before.changes)
