"""One round of `make chaos`, so that it works when it is wanted."""

import json
import os
import subprocess
import sys

import pytest
from support.scripts import ROOT


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_round_ends_with_each_record_once():
    command = [sys.executable, "-m", "chaos", "--minutes", "0.01", "--seed", "3"]
    path = f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = json.loads(done.stdout.splitlines()[-1])
    assert totals["rounds"] == 1
    assert totals["records"] > 0
    assert not any(totals[name] for name in ("lost", "doubled", "good_rejected", "bad_passed", "faults"))
