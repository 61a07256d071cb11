"""Damage to a shard of any format ends as rows that say so: never as another exception, nor as a crash."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from support.scripts import ROOT
from support.shard_damage import seeds

MANY = pytest.param(1500, marks=[pytest.mark.long, pytest.mark.timeout(1200)])


@pytest.mark.parametrize("rounds", [20, MANY])
def test_no_damage_is_more_than_rows(rounds):
    """Another seed each time; what breaks the promise is printed with its seed."""
    done = subprocess.run(
        [sys.executable, "-m", "support.shard_damage", str(random.randrange(10**6)), str(rounds)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kinds = json.loads(done.stdout)
    for name in seeds():
        assert any(kind.startswith(f"{name} shard/") for kind in kinds), name
        assert kinds.get(f"{name} sound"), name
