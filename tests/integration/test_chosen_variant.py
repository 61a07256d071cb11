"""A run has one variant: what was asked for, or what is fastest where it runs; a resume keeps it."""

from dataclasses import replace

import pytest
from support.bundles import make_bundle, small_bundle
from support.outcomes import shard
from support.racing import extended, slowed
from support.reading import shard_at
from support.runs import make_config
from support.tars import good_records, write_shard

from mmray.pipeline.advice import advise
from mmray.pipeline.execute import _job, _race, _seconds_to_prepare, with_variant
from mmray.pipeline.plan import Machines, make_plan
from mmray.pipeline.survey import Census, Survey
from mmray.shapes import job_ladder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Its fp32 graph is slow, and its variant "quick" is not."""
    folder = tmp_path_factory.mktemp("chosen")
    graph = slowed(small_bundle().graph("fp32"), folder / "slow.onnx")
    return extended(folder, make_bundle(folder / "slow", graph=graph), "both")


def plan(bundle, **settings):
    config = make_config("in", "/out", bundle=str(bundle.path), **settings)
    census = Census(records=10, record_bytes=1024.0, sets={"image": 10})
    return make_plan(Survey(config, bundle, (shard("00.tar", 100),), census), Machines(cpus=2, gpus=0))


def test_auto_becomes_the_fastest_on_the_machines_of_the_run(ray_cluster, bundle):
    assert with_variant(plan(bundle), None).to_json()["variant"] == "quick"


def test_a_resume_keeps_the_variant_of_its_run(ray_cluster, bundle):
    assert with_variant(plan(bundle), {"variant": "fp32"}).variant == "fp32"


def test_what_was_asked_for_is_taken(ray_cluster, bundle):
    assert with_variant(plan(bundle, variant="fp32"), None).variant == "fp32"


def test_what_a_cpu_prepares_and_a_device_takes_is_tried_beforehand(bundle, tmp_path):
    """As `mmray plan` does on machines with GPUs, here with the CPU in the place of a device."""
    tar = write_shard(tmp_path / "some.tar", good_records(20))
    task_s = _seconds_to_prepare(_job(plan(bundle, variant="fp32")), shard_at(tar))
    assert 0 < task_s < 1
    taken = _race(replace(_job(plan(bundle)), ladder=job_ladder(bundle.spec, 16))).rows_per_s
    assert taken > 0
    advice = advise(task_s, 1 / taken, cpus=4, devices=2)
    assert advice.cpu_rows_per_s == pytest.approx(4 / task_s)
    assert advice.device_rows_per_s == pytest.approx(2 * taken)
