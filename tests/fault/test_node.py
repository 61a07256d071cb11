"""Machines of the cluster die or come in the middle of a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.command import worker_pids
from support.nodes import Nodes
from support.predictions import assert_same_predictions

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory

ROWS = 2_000  # of the command's shards


@pytest.fixture
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    nodes = Nodes(request.param)
    yield nodes
    nodes.close()


@pytest.mark.long
@pytest.mark.parametrize("topology", ["fused", "split"])
@pytest.mark.parametrize("nodes", [2], indirect=True)
def test_a_killed_node_is_survived_without_a_restart(command, undisturbed, nodes, topology):
    process = command.start(f"topology={topology}", address=nodes.address)
    command.wait_for_parts(process, 4)
    nodes.tell("kill")
    assert process.poll() is None, "the run ended before its node died: give it more records"
    out = command.finish(process)
    assert "3 nodes, 3 CPUs" in out
    assert audit(RunDirectory.at(str(command.output))).ok
    assert_same_predictions(command.predictions(), undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("nodes", [1], indirect=True)
def test_a_node_that_comes_is_used_within_20_s_and_one_that_goes_is_done_without(command, nodes, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    for copy in range(3):
        for shard in command.shards.iterdir():
            shutil.copyfile(shard, more / f"{copy}-{shard.name}")
    command = replace(command, shards=more)
    process = command.start(address=nodes.address)
    command.wait_for_parts(process, 2)
    at_work = "FusedWorker)).submit"
    before = set(worker_pids("FusedWorker"))
    came = time.monotonic()
    nodes.tell("add")
    while not set(worker_pids(at_work)) - before:
        assert time.monotonic() - came < 20, "the new node has no work"
        assert process.poll() is None, "the run ended before: give it more records"
        time.sleep(0.1)
    print(f"at work after {time.monotonic() - came:.1f} s")
    nodes.tell("kill")
    command.finish(process)
    assert audit(RunDirectory.at(str(command.output))).total == 3 * ROWS
