"""A process dies between each pair of steps of a part's commit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.outcomes import begin, outcomes_of, rows_of, shard, write

from mmray.pipeline.ledger import Ledger

ROWS = rows_of(shard("a.tar", 10))
REJECTED = sum(error is not None for error in outcomes_of(ROWS)["error"].to_pylist())

# Runs in a process of its own: commits one part with a reject, and dies at the given system call of it.
_SCRIPT = """
import os, sys
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import write_part
from support.outcomes import COLUMNS, outcomes_of, rows_of, shard

place, dies_at = sys.argv[1], int(sys.argv[2])
out = RunDirectory.at(place)
rows = outcomes_of(rows_of(shard("a.tar", 10)))
steps = 0

def watch(frame, event, function):
    global steps
    name = getattr(function, "__name__", "")
    if event == "c_call" and name in ("open", "write", "flush", "fsync", "rename", "replace", "close"):
        steps += 1
        if steps == dies_at:
            os._exit(9)

sys.setprofile(watch)
write_part(out, rows, COLUMNS)
sys.setprofile(None)
print(steps)
"""


def commit(place: Path, dies_at: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(place), str(dies_at)],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_dying_between_any_two_steps_leaves_all_or_nothing(tmp_path):
    calm = begin(tmp_path / "calm")
    steps = int(commit(tmp_path / "calm", 0).stdout)
    assert steps >= 10  # two files: open, write, flush, fsync, replace each, and their directory
    whole = Ledger.load(calm)
    assert (whole.predicted, whole.rejects.total()) == (10 - REJECTED, REJECTED)
    for step in range(1, steps + 1):
        place = tmp_path / str(step)
        out = begin(place)
        assert commit(place, step).returncode == 9
        ledger = Ledger.load(out)
        assert not ledger.foreign, f"a torn part after step {step}"
        ledger.clean_up(out)
        assert Ledger.load(out).predicted in (0, whole.predicted)
        files = [file.name for file in place.rglob("*.parquet") if file.name != "none.parquet"]
        assert len(files) in (0, 2), f"step {step} left {files}"
        assert not list(place.rglob(".tmp-*"))
        write(out, ROWS)
        again = Ledger.load(out)
        assert [part.name for part in again.parts] == [part.name for part in whole.parts]
        assert again.predicted == whole.predicted
