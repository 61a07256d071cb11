"""What a shard stands for is bounded before room is made for it, whatever its format says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.bombs import BOMBS, write
from support.scripts import ROOT

GROWTH_MB = 100
SMALL = 1 << 20  # bytes of a bomb

KINDS = {
    "page.parquet": "read/page-too-large",
    "dictionary.parquet": "read/page-too-large",
    "second.parquet": "read/page-too-large",
    "delta.parquet": "shard/shard-damaged",
    "values.parquet": "read/page-too-large",
    "rows.parquet": "shard/shard-damaged",
    "list.parquet": "shard/shard-damaged",
    "nested.parquet": "shard/shard-damaged",
    "zeros.tar.zst": "shard/shard-damaged",
    "member.tar.zst": "shard/shard-truncated",
    "names.tar.zst": "None",
    "window.tar.zst": "shard/shard-truncated",
    "length.tfrecord": "read/member-too-large",
    "record.tfrecord.gz": "read/member-too-large",
    "fields.tfrecord": "read/record-malformed",
    "maps.lmdb": "read/lmdb-layout",
    "index.tar": "None",
}


@pytest.fixture(scope="module")
def exploded(tmp_path_factory):
    """By name: what came of reading each bomb, and by how many MB the process grew."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, make in BOMBS.items():
        path = folder / name
        write(path, make(path) if name == "length.tfrecord" else make())
        assert path.stat().st_blocks * 512 < SMALL, name
    done = subprocess.run(
        [sys.executable, "-m", "support.bombs", str(folder)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return {name: (kinds, mb) for name, kinds, mb in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_named_and_takes_little_memory(exploded, name):
    assert name in exploded, "the process died of it, or of one before"
    kinds, grown_mb = exploded[name]
    assert kinds[0] == KINDS[name]
    assert grown_mb < GROWTH_MB


def test_an_index_that_states_too_much_is_refused(exploded):
    (_, refused), _ = exploded["index.tar"]
    assert "not an index of mmray: 5000000 rows, more than" in refused
