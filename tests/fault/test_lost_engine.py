"""A device that is lost in mid-run costs no record: the run ends and names it, and the next one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import support
from support.scripts import ROOT
from support.tars import write_shard

LOST = Path(support.__file__).parent / "lost"
SHARDS, ROWS = 3, 200


def run(shards, bundle, output, topology, runs):
    """`mmray run` with a Ray of its own, whose devices are lost after so many inferences."""
    arguments = ["run", "--input", str(shards), "--bundle", str(bundle.path), "--output", str(output)]
    arguments += ["--set", f"topology={topology}", "--set", "part_rows=50", "--set", "batch_rows=8"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    path = f"{LOST}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [str(Path(sys.executable).with_name("mmray")), *arguments],
        env={**environment, "PYTHONPATH": path, "MMRAY_TEST_RUNS": str(runs)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )


@pytest.mark.parametrize("topology", ["fused", pytest.param("split", marks=pytest.mark.long)])
def test_a_lost_device_ends_the_run_and_costs_no_record(bundle, tmp_path, topology):
    shards, output = tmp_path / "in", tmp_path / "out"
    shards.mkdir()
    for s in range(SHARDS):
        records = [(f"{s}-{i:03}", {"txt": f"a red cat {i}".encode()}) for i in range(ROWS)]
        write_shard(shards / f"s{s}.tar", records)
    done = run(shards, bundle, output, topology, runs=20)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 3, said
    assert "golden inputs fail" in said
    assert "on cpu of" in said
    assert "CUDA failure 700" in said
    assert not list((output / "rejects").glob("*.parquet"))
    again = run(shards, bundle, output, topology, runs=1_000_000)
    assert again.returncode == 0, again.stdout + again.stderr
    assert not list((output / "rejects").glob("*.parquet"))
    assert sum(pq.read_metadata(part).num_rows for part in (output / "parts").iterdir()) == SHARDS * ROWS
