"""A run that speaks to a log collector."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.bundles import small_bundle


def test_a_run_says_all_as_objects_and_names_the_shard_at_fault(shards, ray_cluster, tmp_path):
    """One of its tars is cut: the run ends with 1, and a line tells which."""
    from ray import get_runtime_context

    damaged = tmp_path / "shards"
    shutil.copytree(shards, damaged)
    cut = sorted(damaged.glob("*.tar"))[-1]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2 + 100])
    command = [Path(sys.executable).with_name("mmray"), "run", "--log-format", "json"]
    command += [
        "--input",
        str(damaged),
        "--bundle",
        str(small_bundle().path),
        "--output",
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"RAY_ADDRESS": get_runtime_context().gcs_address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["run"] for line in said[1:]} == {str(tmp_path / "out")}
    by_message = {line["message"]: line for line in said}
    assert {"surveyed", "planned", "started", "pass", "progress", "done"} <= set(by_message)
    assert by_message["progress"]["rejects"] <= by_message["progress"]["rows"]
    assert by_message["done"]["predicted"] > 0
    assert [line for line in said if line["level"] == "error" and cut.name in line["message"]]
    assert said[-1]["level"] == "error"
