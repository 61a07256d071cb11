"""The cluster grows and shrinks in the middle of a run.

Workers wait in the model instead of computing, so three of them do three times as much on any machine.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.command import Command, worker_pids
from support.growing import growing, nodes_of
from support.nodes import Nodes, done, waiting

from mmray.bundle import Bundle
from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory

ROWS = 2_000  # of the command's shards
WITHIN_S = 20.0
SMALL_BLOCKS = "block_rows=8"  # a worker says what it did after each

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.fixture
def command(many_shards: Path, bundle: Bundle, tmp_path: Path) -> Command:
    return Command(many_shards, bundle, "the cluster of a test", tmp_path / "out")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "rows"


@pytest.fixture
def cluster(request: pytest.FixtureRequest, log: Path) -> Iterator[Nodes]:
    """Nodes beside a head that has no CPU, and the seconds that a row takes on them."""
    number, row_s = request.param
    nodes = Nodes(number, head_cpus=0, environment=waiting(log, row_s))
    yield nodes
    nodes.close()


def by_node(log: Path, since: float, until: float) -> Counter[str]:
    rows = Counter[str]()
    for what in done(log):
        if since <= what.at < until:
            rows[what.node] += what.rows
    return rows


def wait(process: subprocess.Popen[str], what: str, within_s: float, happened: Callable[[], bool]) -> float:
    """Wait until something happened in a run; the seconds that it took."""
    begun = time.monotonic()
    while not happened():
        assert process.poll() is None, f"the run ended before: {what}: {process.communicate()}"
        assert time.monotonic() - begun < within_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - begun


def assert_each_row_once(command: Command, rows: int = ROWS) -> None:
    verdict = audit(RunDirectory.at(str(command.output)), recount=True)
    assert verdict.ok
    predictions = command.predictions()
    places = set(zip(predictions["shard"].to_pylist(), predictions["row"].to_pylist(), strict=True))
    assert len(places) == predictions.num_rows == verdict.total == rows


@pytest.mark.parametrize("cluster", [(1, 0.05)], indirect=True)
def test_rows_follow_within_20_s_where_one_node_becomes_three(command, cluster, log):
    process = command.start(SMALL_BLOCKS, address=cluster.address)
    wait(process, "rows of the first node", 120, lambda: bool(done(log)))
    added = {cluster.tell("add") for _ in range(2)}
    come = time.time()
    took = wait(process, "rows of both new nodes", WITHIN_S, lambda: added <= {d.node for d in done(log)})
    print(f"rows of all after {took:.1f} s")
    wait(process, "ten seconds with three nodes", 60, lambda: time.time() > come + WITHIN_S + 10)
    rows = by_node(log, come + WITHIN_S, come + WITHIN_S + 10)
    print(f"rows by node in ten seconds: {sorted(rows.values())}")
    assert len(rows) == 3
    assert min(rows.values()) > max(rows.values()) / 2
    command.finish(process, within_s=600)
    assert_each_row_once(command)


@pytest.mark.parametrize("cluster", [(3, 0.5)], indirect=True)
def test_a_node_killed_every_30_s_for_five_minutes_loses_and_doubles_nothing(command, cluster, log):
    process = command.start(SMALL_BLOCKS, address=cluster.address)
    wait(process, "rows", 120, lambda: bool(done(log)))
    until = time.monotonic()
    for _ in range(10):
        until += 30
        wait(process, "five minutes of kills", 60, lambda at=until: time.monotonic() > at)
        cluster.tell("kill")
        cluster.tell("add")
    command.finish(process, within_s=600)
    assert_each_row_once(command)
    events = [json.loads(line) for line in (command.output / "events.jsonl").read_text().splitlines()]
    counted = [event["rows"] for event in events if event["event"] == "progress"]
    assert counted == sorted(counted), "the meter died with a node, and began anew"
    print(f"rows that were done twice: {sum(d.rows for d in done(log)) - ROWS}")


@pytest.mark.parametrize("cluster", [(2, 0.1)], indirect=True)
def test_a_node_that_is_warned_has_closed_its_parts_before_it_goes(command, cluster, log):
    """No row is done twice, although its unit was half done; and a node that comes meanwhile is used."""
    process = command.start(SMALL_BLOCKS, "part_rows=1000", address=cluster.address)
    wait(process, "rows of both nodes", 120, lambda: len({d.node for d in done(log)}) == 2)
    warned = cluster.tell("warn")
    workers = {d.process for d in done(log) if d.node == warned}
    at_work = lambda: workers & set(worker_pids("FusedWorker)).submit"))  # noqa: E731
    took = wait(process, "the warned node has no work", WITHIN_S, lambda: not at_work())
    print(f"without work after {took:.1f} s")
    added = cluster.tell("add")
    wait(process, "rows of the new node", WITHIN_S, lambda: added in {d.node for d in done(log)})
    assert cluster.tell("kill") == warned
    command.finish(process, within_s=600)
    assert_each_row_once(command)
    assert sum(d.rows for d in done(log)) == ROWS


@pytest.mark.parametrize("asked", [["actors=3"], []])
def test_a_cluster_that_grows_on_demand_grows_from_nothing_and_shrinks_again(command, log, tmp_path, asked):
    with growing(tmp_path, most=3, idle_s=5, environment=waiting(log, 0.05)) as address:
        process = command.start("autoscaling=true", *asked, SMALL_BLOCKS, address=address)
        wanted = 3 if asked else 2
        took = wait(
            process, f"rows of {wanted} nodes", 400, lambda: len({d.node for d in done(log)}) >= wanted
        )
        print(f"rows of {wanted} nodes after {took:.1f} s")
        command.finish(process, within_s=600)
        assert_each_row_once(command)
        deadline = time.monotonic() + 60
        while nodes_of(address) > 1:
            assert time.monotonic() < deadline, "idle nodes stay"
            time.sleep(0.5)
