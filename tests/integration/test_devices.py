"""The job as on machines with GPUs: Ray is told of some, and stand-ins take their time as one H200 did."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.dataset as ds
import pytest
from support.scripts import ROOT

from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, list_shards, read

PROGRAM = """
import json, sys
sys.path[:0] = ["jobs/bench", "tests"]
from pathlib import Path
from _device_runs import Case, execute
from mmray.bundle import Bundle
bundle, shards, output, variant, rows, *nodes = sys.argv[1:]
if nodes:
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=2, num_gpus=1)
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
case = Case(sorted(Path(shards).glob("*.tar")), 2, variant=variant, batch_rows=int(rows))
counted = execute(Bundle.open(bundle), case, Path(output)).counted
if nodes:
    cluster.shutdown()
print(json.dumps({name: use.to_json() for name, use in counted.devices.items()}))
"""


def run_on_stand_in(bundle, shards, output, *nodes, variant="fp32", rows=64):
    """What each device did, by its name; with `nodes`, on a node with the GPU and one of CPUs alone."""
    command = [sys.executable, "-c", PROGRAM, str(bundle.path), str(shards), str(output), variant, str(rows)]
    command += nodes
    path = os.pathsep.join(str(ROOT / name) for name in ("jobs/bench", "tests"))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def expected(bundle, shards):
    predict, preprocess = Predictor(bundle, variant="fp32", provider="cpu"), open_preprocessor(bundle)
    return {
        (row["shard"], row["row"]): row
        for shard in list_shards([str(shards)])
        for block in read(shard, ReadOptions())
        for row in predict(preprocess(block)).to_pylist()
    }


def test_a_device_sees_few_shapes_and_gives_the_cpus_decisions(bundle, shards, expected, tmp_path):
    [(name, use)] = run_on_stand_in(bundle, shards, tmp_path / "out").items()
    assert name.endswith("GPU 0")
    assert len(use["shapes"]) <= 3
    assert use["changes"] <= 5
    assert use["planned_s"] >= 1.4
    assert use["copied_s"] > 0
    rows = ds.dataset(tmp_path / "out" / "parts", format="parquet").to_table().to_pylist()
    assert len(rows) == len(expected)
    for row in rows:
        wanted = expected[row["shard"], row["row"]]
        assert row["label"] == wanted["label"]
        assert np.abs(np.subtract(row["scores"], wanted["scores"])).max() < 1e-5


@pytest.mark.long
def test_a_node_without_a_gpu_feeds_that_of_another(bundle, shards, expected, tmp_path):
    """The actor holds both CPUs of its own node, so that every record is prepared on the other."""
    [use] = run_on_stand_in(bundle, shards, tmp_path / "out", "apart").values()
    assert len(use["shapes"]) <= 3
    rows = ds.dataset(tmp_path / "out" / "parts", format="parquet").to_table(["shard", "row", "label"])
    found = {(row["shard"], row["row"]): row["label"] for row in rows.to_pylist()}
    assert found == {address: row["label"] for address, row in expected.items()}


@pytest.mark.long
def test_the_proof_for_a_gpu_takes_the_same_way_on_a_cpu(bundle, shards):
    command = [sys.executable, "jobs/prove_gpu.py", "--provider", "cpu", "--quick"]
    command += ["--bundle", str(bundle.path), "--input", str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == []
    assert found["placement"][0]["elsewhere"] == 0
    assert found["decisions"][0]["agrees"] == 1
    assert all(row["rows_per_s"] > 0 for row in found["rates"])
    assert [row["what"] for row in found["job"]] == ["job, fp32", "Ray Data, same padding"]
    assert {row["rows"] for row in found["job"]} == {240}
