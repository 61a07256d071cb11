"""A machine of the cluster dies in the middle of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import support.three_nodes
from support.predictions import assert_same_predictions

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory


@pytest.fixture
def three_nodes() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address of a cluster of three raylets, and the process that holds it."""
    process = subprocess.Popen(
        [sys.executable, str(Path(support.three_nodes.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip(), process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(60)


@pytest.mark.long
def test_a_killed_node_is_survived_without_a_restart(command, undisturbed, three_nodes):
    address, cluster = three_nodes
    process = command.start(address=address)
    command.wait_for_parts(process, 4)
    cluster.stdin.write("kill\n")
    cluster.stdin.flush()
    assert cluster.stdout.readline() == "killed\n"
    assert process.poll() is None, "the run ended before its node died: give it more records"
    out = command.finish(process)
    assert "3 nodes, 3 CPUs" in out
    assert audit(RunDirectory.at(str(command.output))).ok
    assert_same_predictions(command.predictions(), undisturbed)
