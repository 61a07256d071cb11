"""A run with a cascade: the answers of `Predictor` in both topologies, and a word where they went wrong."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from support.cascades import cascaded, mixed_records
from support.drift import referring
from support.predictions import assert_same_predictions, read_predictions
from support.tars import write_shard

from mmray.config import RunConfig
from mmray.pipeline.run import Watcher, run
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.summary import Result
from mmray.predictor import Predictor, open_preprocessor
from mmray.report.facts import load
from mmray.report.page import to_html
from mmray.sources import ReadOptions, list_shards, read

pytestmark = pytest.mark.usefixtures("ray_cluster")

SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)
EXTENSIONS = {"image": "jpg", "text": "txt", "audio": "ogg"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Shards of 240 records with every mix of modalities; some of the pictures are damaged."""
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(3):
        fields = []
        for i, row in enumerate(mixed_records(80, seed=number).to_pylist()):
            members = {EXTENSIONS[m]: row[m] for m in EXTENSIONS if row[m] is not None}
            if i % 9 == 0 and "jpg" in members:
                members["jpg"] = members["jpg"][:60]
            fields.append((f"k{i:03d}", members))
        write_shard(folder / f"{number}.tar", fields)
    return folder


@pytest.fixture(scope="module")
def trusted(tmp_path_factory):
    """Its reference is of records with all modalities; most of those that are run lack one or two."""
    folder = tmp_path_factory.mktemp("trusted")
    whole = mixed_records(420).filter(np.arange(420) % 7 == 6)
    return referring(folder / "bundle", cascaded(folder / "cascade", 0.38, disagreement=0.9), whole)


@pytest.fixture(scope="module")
def expected(mixed, trusted):
    """Outcomes without Ray."""
    predict, preprocess = Predictor(trusted, variant="cascade", provider="cpu"), open_preprocessor(trusted)
    tables = [
        predict(preprocess(block, predict.later), preprocess.complete)
        for shard in list_shards([str(mixed)])
        for block in read(shard, ReadOptions())
    ]
    return pa.concat_tables(tables)


def execute(mixed, bundle, output, **settings) -> Result:
    values = {"input": [str(mixed)], "bundle": str(bundle.path), "output": str(output), "variant": "cascade"}
    return run(RunConfig.model_validate(values | {"max_reject_rate": 1} | settings), SILENT)


@pytest.mark.parametrize("topology", ["fused", "split"])
def test_a_run_gives_the_predictors_answers_and_says_who_left_where(
    mixed, trusted, expected, tmp_path, topology
):
    result = execute(mixed, trusted, tmp_path / "out", topology=topology, shadow=1.0)
    assert result.audit.ok
    good = expected.filter(pa.array([e is None for e in expected["error"].to_pylist()]))
    found = read_predictions(tmp_path / "out")
    assert_same_predictions(found, good.select(found.column_names))
    early = int((np.array(good["stage"].to_pylist()) == 1).sum())
    told = result.summary["this_run"]["cascade"]
    assert told["left"] == {"1": round(early / len(good), 4), "2": round(1 - early / len(good), 4)}
    assert told["shadowed"] <= early  # a damaged picture cannot be compared
    assert told["shadowed"] > 0.7 * early
    assert told["saved_s"] > 0
    assert told["shift"] == ""
    drift = result.summary["this_run"]["drift"]
    assert drift["warning"].startswith("these records are not like those of the tune split: modalities")
    assert early < drift["records"] <= 240  # those that the first stage saw
    events = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_bytes().splitlines()]
    assert [event["warning"] for event in events if event["event"] == "drift"] == [drift["warning"]]
    report = load(RunDirectory.at(str(tmp_path / "out")))
    assert report.rows.stages == {1: early, 2: len(good) - early}
    assert "Which stage of the cascade answered" in to_html(report)
    assert "Are these records like those of the tune split?" in to_html(report)
    assert 0 < result.summary["rejected"] == expected.num_rows - len(good)


def test_verifying_everything_rejects_damage_that_early_answers_do_not_need(mixed, trusted, tmp_path):
    lazily = execute(mixed, trusted, tmp_path / "lazily")
    canary = {"bundle": str(trusted.path), "variant": "cascade", "share": 1.0}
    verified = execute(mixed, trusted, tmp_path / "verified", verify_all=True, canary=canary)
    compared = verified.summary["this_run"]["canary"]["slices"]["all"]
    assert compared["compared"] == compared["same"] == verified.summary["predicted"]
    assert "Does the second bundle agree?" in to_html(load(RunDirectory.at(str(tmp_path / "verified"))))
    assert verified.summary["rejected"] > lazily.summary["rejected"]


def test_answers_that_went_wrong_are_told_and_stopped_where_that_is_wanted(mixed, tmp_path):
    bundle = cascaded(tmp_path / "doubted", 0.38, disagreement=0.0)
    told: list[str] = []
    watcher = Watcher(lambda *_: None, lambda *_: None, lambda snapshot: told.append(snapshot.shift))
    values = {"input": [str(mixed)], "bundle": str(bundle.path), "output": str(tmp_path / "out")}
    values |= {"variant": "cascade", "max_reject_rate": 1, "shadow": 1.0, "on_shift": "stop", "actors": 1}
    result = run(RunConfig.model_validate(values | {"block_rows": 16}), watcher)
    assert result.audit.ok
    cascade = result.summary["this_run"]["cascade"]
    assert "these records are not like those" in cascade["shift"]
    assert cascade["left"]["1"] < 0.35  # else about 0.5
