"""How work is cut: each missing row in one unit, units of like size, and no more than the machines hold."""

import json

import pytest
from support.bundles import make_bundle, small_bundle
from support.cascades import cascaded, mixed_records
from support.drift import referring
from support.outcomes import shard
from support.reading import shard_at
from support.runs import make_config
from support.tars import write_shard

from mmray.coverage import WHOLE, Missing
from mmray.errors import ConfigError
from mmray.pipeline.plan import Machines, make_plan
from mmray.pipeline.survey import Census, Survey
from mmray.shapes import BATCHES
from mmray.sources.index import write_index

SHARDS = tuple(shard(f"{i:02d}.tar", 100 + 7 * i) for i in range(20))


def plan(machines=None, shards=SHARDS, bundle=None, **settings):
    config = make_config("in", "/out", provider=settings.pop("provider", "auto"), **settings)
    census = Census(records=10, record_bytes=1024.0, sets={"image": 10})
    found = Survey(config, bundle or small_bundle(), shards, census)
    return make_plan(found, machines or Machines(cpus=4, gpus=0))


@pytest.mark.parametrize(
    ("machines", "settings", "topology", "actors"),
    [
        (Machines(4, 0), {}, "fused", 4),
        (Machines(1, 0), {}, "fused", 1),
        (Machines(4, 0), {"actors": 3}, "fused", 3),
        (Machines(4, 0), {"topology": "split"}, "split", 3),
        (Machines(64, 8), {}, "split", 8),
        (Machines(64, 8), {"actors": 2}, "split", 2),
        (Machines(64, 8), {"provider": "cpu"}, "fused", 64),
        (Machines(64, 8), {"provider": "cpu", "topology": "split"}, "split", 63),
        (Machines(1, 0), {"actors": 100, "autoscaling": True}, "fused", 100),
    ],
)
def test_the_topology_and_the_actors_fit_the_machines(machines, settings, topology, actors):
    made = plan(machines, **settings)
    assert (made.topology, made.actors) == (topology, actors)


@pytest.mark.parametrize(
    ("machines", "settings"),
    [
        (Machines(4, 0), {"actors": 5}),
        (Machines(1, 0), {"topology": "split"}),  # nothing would be left to read with: the run would hang
        (Machines(4, 0), {"topology": "split", "actors": 4}),
        (Machines(0, 0), {}),
        (Machines(8, 1), {"actors": 2}),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy_instead_of_waiting_for_ever(machines, settings):
    with pytest.raises(ConfigError, match="do not fit") as e:
        plan(machines, **settings)
    assert "set a smaller `actors`" in str(e.value)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_is_asked_for_and_not_there_is_named(provider):
    with pytest.raises(
        ConfigError, match=f"provider: {provider} needs a GPU, and this cluster has none"
    ) as e:
        plan(Machines(8, 0), provider=provider)
    assert "provider=cpu" in str(e.value)
    assert plan(Machines(8, 0), provider=provider, actors=2, autoscaling=True).actors == 2


def test_the_fused_topology_is_no_place_for_a_gpu():
    with pytest.raises(ConfigError, match="topology=split, or provider=cpu"):
        plan(Machines(8, 1), topology="fused")


def test_a_part_is_about_a_minute_of_work_within_bounds(tmp_path):
    """Counting on the slowest mix of modalities that was measured, and 8 ms of preprocessing."""

    def rows(**ms):
        scorecard = {"variants": {"fp32": {"ms_per_record": ms}}}
        return plan(bundle=make_bundle(tmp_path / "b", scorecard=scorecard)).part_rows

    assert rows(image=12.0, text=2.0) == 3_000
    assert rows(image=500.0) == 1_000
    assert 1_000 < plan().part_rows < 10_000  # nothing measured
    assert plan(part_rows=17).part_rows == 17


@pytest.mark.parametrize("actors", [1, 4])
@pytest.mark.parametrize("part_rows", [150, 1_000, 100_000])
def test_units_hold_all_that_is_missing_once(actors, part_rows):
    made = plan(actors=actors, part_rows=part_rows)
    missing = [(s, [WHOLE]) for s in SHARDS[:7]] + [
        (SHARDS[9], [Missing(3, 5, 4096), Missing(8, None, 9216)])
    ]
    works = [work for unit in made.units(missing) for work in unit]
    assert sorted((w.shard.id, w.wanted) for w in works) == sorted((s.id, tuple(gaps)) for s, gaps in missing)


@pytest.mark.parametrize("part_rows", [150, 1_000, 100_000])
def test_units_are_as_large_as_a_part_or_a_fair_share_allows_and_come_largest_first(part_rows):
    made = plan(part_rows=part_rows)
    units = made.units([(s, [WHOLE]) for s in SHARDS])
    sizes = [sum(work.size for work in unit) for unit in units]
    assert sizes == sorted(sizes, reverse=True)
    bound = min(part_rows * 1024, sum(sizes) / (2 * made.actors))
    assert all(size <= bound or len(unit) == 1 for size, unit in zip(sizes, units, strict=True))
    assert len(units) >= min(len(SHARDS), made.actors)


def test_small_shards_share_a_unit_so_that_parts_are_few():
    tiny = tuple(shard(f"{i:05d}.tar", 1) for i in range(10_000))
    units = plan(shards=tiny).units([(s, [WHOLE]) for s in tiny])
    assert len(units) <= 2 * 16


def test_of_a_shard_that_is_partly_done_only_the_rest_counts():
    big, small = shard("big.tar", 1000), shard("small.tar", 100)
    (first, *_) = plan().units([(big, [Missing(990, None, 990 * 1024)]), (small, [WHOLE])])
    assert [work.shard for work in first] == [small]


@pytest.mark.parametrize("rows", [1, 10_000, 600_000, 1_200_000, 10_000_000])
def test_more_travels_together_only_where_each_device_still_has_many_tables(rows):
    made = plan(Machines(64, 8), shards=(shard("a.tar", rows),), variant="fp32")
    together = made.batches_together
    assert BATCHES <= together <= 4 * BATCHES
    assert together == BATCHES or rows / together / made.ladder.rows[-1] / made.actors >= 64
    assert (together > BATCHES) == (rows >= 1_200_000)
    assert plan(topology="split", shards=(shard("a.tar", rows),)).batches_together == BATCHES


def test_nothing_missing_is_nothing_to_do():
    assert plan().units([]) == []


def test_the_plan_is_json_with_all_that_a_resume_compares():
    content = json.loads(json.dumps(plan().to_json()))
    assert set(content["identity"]) >= {
        "bundle",
        "preprocessing",
        "modalities",
        "limits",
        "extensions",
        "carry",
    }
    assert content["shards"][0] == SHARDS[0].to_list()
    assert content["config"]["input"] == ["in"]


def test_one_indexed_shard_is_shared_among_the_actors(tmp_path):
    """Every row once, the end of the shard in one of the units, and units that become smaller."""
    path = write_shard(tmp_path / "s.tar", [(f"k{i:04d}", {"txt": b"x"}) for i in range(2_000)])
    write_index(shard_at(path))
    large = shard_at(path)
    units = plan(shards=(large,)).units([(large, [Missing(3, None, 3 * 1024)])])
    assert len(units) > 8
    gaps = sorted(gap for unit in units for work in unit for gap in work.wanted)
    assert gaps[0][:2] == (3, gaps[1].first - 1)
    assert [gap.first for gap in gaps[1:]] == [gap.last + 1 for gap in gaps[:-1]]
    assert gaps[-1].last is None
    sizes = [sum(work.size for work in unit) for unit in units]
    assert sizes[0] <= 1.1 * sum(sizes) / 8  # half a share: with 4 actors
    assert sizes[-1] < sizes[0] / 4


def test_a_shard_without_an_index_is_one_unit(tmp_path):
    path = write_shard(tmp_path / "s.tar", [(f"k{i:04d}", {"txt": b"x"}) for i in range(200)])
    whole = shard_at(path)
    assert len(plan(shards=(whole,)).units([(whole, [WHOLE])])) == 1


@pytest.mark.parametrize(
    ("machines", "settings", "kept", "for_tasks"),
    [
        (Machines(16, 1), {}, 2, 14),
        (Machines(64, 8), {}, 2, 48),
        (Machines(12, 8), {}, 1, 4),  # fewer than would be good, but some for the tasks
        (Machines(4, 8), {}, 0, 4),
        (Machines(16, 1), {"autoscaling": True}, 0, 16),  # tasks may have taken them before the GPU is there
        (Machines(4, 0), {"topology": "split"}, 1, 1),
    ],
)
def test_cpus_are_kept_for_actors_and_the_rest_is_for_tasks(machines, settings, kept, for_tasks):
    made = plan(machines, **settings)
    assert (made.actor_cpus, made.task_cpus) == (kept, for_tasks)


def test_batches_for_devices_have_a_ladder_of_sizes_that_the_plan_tells():
    made = plan(Machines(16, 1))
    assert made.ladder.rows == (256,)
    assert made.to_json()["ladder"] == made.ladder.to_json()
    assert plan(Machines(16, 1), batch_rows=64).ladder.rows == (64,)
    assert plan(Machines(16, 0)).ladder is None
    assert plan(Machines(16, 1), provider="cpu").ladder is None


def test_a_cascade_has_an_actor_for_each_stage_where_decoding_can_wait(tmp_path):
    bundle = cascaded(tmp_path / "bundle", 0.4)
    on_gpu = Machines(16, 1)
    assert plan(on_gpu, bundle=bundle, variant="cascade").steps == 2
    assert plan(on_gpu, bundle=bundle, variant="fp32").steps == 1
    assert plan(on_gpu, bundle=bundle, variant="cascade", verify_all=True).steps == 1
    assert plan(bundle=bundle, variant="cascade").steps == 1  # fused: each worker decodes for itself
    closed = cascaded(tmp_path / "closed", 1.1)
    assert plan(on_gpu, bundle=closed, variant="cascade").steps == 1


def test_a_canary_runs_where_workers_still_have_the_records():
    canary = {"bundle": str(small_bundle().path), "share": 0.5}
    assert plan(canary=canary).topology == "fused"
    with pytest.raises(ConfigError, match="mmray report ONE OTHER"):
        plan(canary=canary, topology="split")


def test_a_run_that_leaves_modalities_out_is_compared_with_nothing(tmp_path):
    """It lacks them by intent, which would be told as a shift."""
    bundle = referring(tmp_path / "known", small_bundle(), mixed_records(60))
    assert plan(bundle=bundle, variant="fp32").reference == bundle.reference.variants["fp32"]
    assert plan(bundle=bundle, variant="fp32", modalities=["text"]).reference is None
    assert plan(variant="fp32").reference is None
