"""A run has one variant: what was asked for, or what is fastest where it runs; a resume keeps it."""

import pytest
from support.bundles import make_bundle, small_bundle
from support.outcomes import shard
from support.racing import extended, slowed
from support.runs import make_config

from mmray.pipeline.execute import settled
from mmray.pipeline.plan import Machines, make_plan
from mmray.pipeline.survey import Census, Survey


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Its fp32 graph is slow, and its variant "quick" is not."""
    folder = tmp_path_factory.mktemp("settled")
    graph = slowed(small_bundle().graph("fp32"), folder / "slow.onnx")
    return extended(folder, make_bundle(folder / "slow", graph=graph), "both")


def plan(bundle, **settings):
    config = make_config("in", "/out", bundle=str(bundle.path), **settings)
    census = Census(records=10, record_bytes=1024.0, sets={"image": 10})
    return make_plan(Survey(config, bundle, (shard("00.tar", 100),), census), Machines(cpus=2, gpus=0))


def test_auto_becomes_the_fastest_on_the_machines_of_the_run(ray_cluster, bundle):
    assert settled(plan(bundle), None).to_json()["variant"] == "quick"


def test_a_resume_keeps_the_variant_of_its_run(ray_cluster, bundle):
    assert settled(plan(bundle), {"variant": "fp32"}).variant == "fp32"


def test_what_was_asked_for_is_taken(ray_cluster, bundle):
    assert settled(plan(bundle, variant="fp32"), None).variant == "fp32"
