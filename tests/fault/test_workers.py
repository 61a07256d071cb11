"""Workers die or stand still in the middle of a run."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import replace

import pytest
from support.command import worker_pids
from support.predictions import assert_same_predictions

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory


@pytest.mark.parametrize(
    ("topology", "worker"),
    [
        ("fused", "FusedWorker"),
        pytest.param("split", "(InferWorker)", marks=pytest.mark.long),
        pytest.param("split", "MapBatches(prepare)", marks=pytest.mark.long),
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


@pytest.mark.parametrize(
    ("topology", "names"),
    [
        ("fused", ["FusedWorker"]),
        ("split", ["(InferWorker)", "MapBatches(prepare)"]),
    ],
)
@pytest.mark.long
def test_a_run_that_stands_still_ends_with_exit_3_and_names_stage_and_shard(
    command, undisturbed, wait_for_worker, topology, names
):
    """All workers at once, by a signal that lets none of them end itself."""
    process = command.start("stall_s=5", f"topology={topology}")
    command.wait_for_parts(process, 2)
    stopped = wait_for_worker(*names)
    for pid in worker_pids(*names):
        os.kill(pid, signal.SIGSTOP)
    _, err = process.communicate(timeout=90)
    said = " ".join(err.split())
    assert process.returncode == 3
    assert re.search(r"no progress for 1\d s", said)
    assert any(stage in said for stage in ("in read", "in preprocess", "in model", "in write", "at work"))
    assert re.search(r"shards: \d-\S+\.tar", said)
    assert "run the same command again to resume" in said
    os.kill(stopped, 0)
    command.finish(command.start(f"topology={topology}"))
    assert_same_predictions(command.predictions(), undisturbed)
    if topology == "fused":  # which cuts batches as it did before
        assert command.predictions().equals(undisturbed)


@pytest.mark.long
def test_a_shard_that_kills_its_worker_again_and_again_is_named(command, shards):
    """Here it is the test that kills; to the run it is the same."""
    alone = command.output.parent / "alone"
    alone.mkdir()
    (shard, *_) = sorted(shards.glob("*.tar"))
    (alone / "deadly.tar").symlink_to(shard)
    process = replace(command, shards=alone).start()
    killed = set()
    while process.poll() is None:
        for pid in set(worker_pids("FusedWorker)).submit")) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.002)
    _, err = process.communicate()
    assert (process.returncode, len(killed) >= 3) == (3, True), err
    assert re.search("no progress: each worker died .* deadly.tar", " ".join(err.split()))
    command.finish(replace(command, shards=alone).start())


def test_a_worker_that_cannot_go_on_ends_the_run_and_says_why(command, wait_for_worker):
    """No record is the reason, so none is blamed: here the run directory is taken away."""
    process = command.start()
    command.wait_for_parts(process, 1)
    (command.output / "parts").rename(command.output / "gone")
    (command.output / "parts").write_text("in the way")
    _, err = process.communicate(timeout=90)
    assert process.returncode == 3
    assert "the run was interrupted: " in " ".join(err.split())
