"""A device that is lost in mid-run costs no record: the run ends and names it, and the next one goes on."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from support.command import run_deadly
from support.tars import write_shard

SHARDS, ROWS = 3, 200


@pytest.mark.parametrize("topology", ["fused", pytest.param("split", marks=pytest.mark.long)])
def test_a_lost_device_ends_the_run_and_costs_no_record(bundle, tmp_path, topology):
    shards, output = tmp_path / "in", tmp_path / "out"
    shards.mkdir()
    for s in range(SHARDS):
        records = [(f"{s}-{i:03}", {"txt": f"a red cat {i}".encode()}) for i in range(ROWS)]
        write_shard(shards / f"s{s}.tar", records)
    settings = f"topology={topology}", "part_rows=50", "batch_rows=8"
    done = run_deadly(shards, bundle, output, *settings, MMRAY_TEST_RUNS="20")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 3, said
    assert "golden inputs fail" in said
    assert "on cpu of" in said
    assert "CUDA failure 700" in said
    assert not list((output / "rejects").glob("*.parquet"))
    again = run_deadly(shards, bundle, output, *settings)
    assert again.returncode == 0, again.stdout + again.stderr
    assert not list((output / "rejects").glob("*.parquet"))
    assert sum(pq.read_metadata(part).num_rows for part in (output / "parts").iterdir()) == SHARDS * ROWS
