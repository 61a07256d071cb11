"""A run that may abstain, on Ray: parts, retry, audit and summary agree on who has no label."""

from functools import partial

import numpy as np
import pytest
from support.abstaining import abstaining
from support.predictions import read_predictions
from support.runs import make_config
from support.tars import good_records, write_shard

from mmray.config import load_config
from mmray.pipeline.retry import retry
from mmray.pipeline.run import Watcher, run

pytestmark = pytest.mark.usefixtures("ray_cluster")

SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)


def test_a_reject_that_is_cured_may_abstain_like_any_other_record(tmp_path):
    write_shard(tmp_path / "shards" / "a.tar", good_records(30))
    bundle = abstaining(tmp_path / "bundle", {0.05: 0.4}, asks=0.05)
    settings = {"bundle": str(bundle.path), "limits": {"image_pixels": 100}}
    config = make_config(tmp_path / "shards", tmp_path / "out", **settings, max_reject_rate=1)
    first = run(config, SILENT).summary
    assert first["rejected"] > 0
    cured = retry(
        config.output, partial(load_config, None, assignments=["limits.image_pixels=1000000"]), SILENT
    )
    assert cured.audit.problems == []
    assert (cured.summary["predicted"], cured.summary["rejected"]) == (30, 0)
    rows = read_predictions(tmp_path / "out")
    abstained = np.array(rows["abstained"].to_pylist())
    assert (abstained == (rows["score"].to_numpy() < 0.4)).all()
    assert rows["label"].null_count == abstained.sum() == cured.summary["abstained"] >= first["abstained"]
    assert 0 < abstained.sum() < 30
