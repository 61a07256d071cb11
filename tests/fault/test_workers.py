"""Workers die or stand still in the middle of a run."""

from __future__ import annotations

import os
import re
import signal

import pytest
from support.command import worker_pids
from support.predictions import assert_same_predictions

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory


@pytest.mark.parametrize(
    ("topology", "worker"),
    [
        ("fused", "(FusedWorker)"),
        ("split", "(InferWorker)"),
        pytest.param("split", "ReadShardSource", marks=pytest.mark.long),
    ],
)
def test_a_killed_worker_is_survived_without_a_restart(
    command, undisturbed, wait_for_worker, topology, worker
):
    """Parts are there before it dies: they appear during a run, in either topology."""
    process = command.start(f"topology={topology}")
    command.wait_for_parts(process, 2)
    assert process.poll() is None
    os.kill(wait_for_worker(worker), signal.SIGKILL)
    command.finish(process)
    assert audit(RunDirectory.at(str(command.output))).ok
    assert_same_predictions(command.predictions(), undisturbed)


def test_a_run_that_stands_still_ends_with_exit_3_and_names_the_stage(command, undisturbed, wait_for_worker):
    process = command.start("stall_s=5")
    command.wait_for_parts(process, 2)
    stopped = wait_for_worker("FusedWorker")
    for pid in worker_pids("FusedWorker"):
        os.kill(pid, signal.SIGSTOP)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 3
    assert re.search(r"no progress for [56] s", err)
    assert any(stage in err for stage in ("in read", "in preprocess", "in model", "in write"))
    assert "run the same command again to resume" in err
    os.kill(stopped, 0)
    command.finish(command.start())
    assert command.predictions().equals(undisturbed)
