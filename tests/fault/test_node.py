"""Machines of the cluster die or come in the middle of a run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import support.three_nodes
from ray.cluster_utils import AutoscalingCluster
from support.command import worker_pids
from support.predictions import assert_same_predictions

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory


class Nodes:
    """A cluster of raylets, in a process of its own."""

    def __init__(self, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(support.three_nodes.__file__)), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.address = self._answer()

    def tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._answer() == what

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


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
def test_a_node_that_comes_is_used_within_20_s_and_one_that_goes_is_done_without(command, undisturbed, nodes):
    process = command.start(address=nodes.address)
    command.wait_for_parts(process, 2)
    at_work = "FusedWorker)).submit"
    before = set(worker_pids(at_work))
    came = time.monotonic()
    nodes.tell("add")
    while not set(worker_pids(at_work)) - before:
        assert time.monotonic() - came < 20, "the new node has no work"
        assert process.poll() is None, "the run ended before: give it more records"
        time.sleep(0.1)
    nodes.tell("kill")
    command.finish(process)
    assert audit(RunDirectory.at(str(command.output))).ok
    assert_same_predictions(command.predictions(), undisturbed)


@pytest.mark.long
def test_a_cluster_that_grows_by_itself_is_made_to(command, undisturbed):
    """The head has no CPU for workers: the autoscaler brings the nodes that the run asks for."""
    cluster = AutoscalingCluster(
        head_resources={"CPU": 0},
        worker_node_types={
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
        },
        idle_timeout_minutes=5,
    )
    cluster.start(override_env={"RAY_AUTH_MODE": "disabled"})
    try:
        process = command.start("actors=2", "autoscaling=true", address="127.0.0.1:6379")
        out = command.finish(process)
    finally:
        cluster.shutdown()
    assert "2 actors" in out
    assert audit(RunDirectory.at(str(command.output))).ok
    assert_same_predictions(command.predictions(), undisturbed)
