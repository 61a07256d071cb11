"""A set that is large enough to be interrupted, and the command line in a process that can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from support.command import Command, worker_pids
from support.scripts import load_script

from mmray.bundle import Bundle

ROWS = 2_000


@pytest.fixture(scope="session")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 records in 28 shards: the same 500 under four names, so that making them takes seconds."""
    directory = tmp_path_factory.mktemp("many")
    small = directory / "small"
    load_script("datasets/synthetic.py").build(small, rows=500, shard_rows=100, missing=0.1, seed=2)
    shards = sorted(small.glob("*.tar"))
    large = directory / "large"
    large.mkdir()
    for copy in range(4):
        for shard in shards:
            shutil.copyfile(shard, large / f"{copy}-{shard.name}")  # links would be one shard
    return large


@pytest.fixture
def command(many_shards: Path, bundle: Bundle, cluster_address: str, tmp_path: Path) -> Command:
    return Command(many_shards, bundle, cluster_address, tmp_path / "out")


@pytest.fixture(scope="session")
def undisturbed(
    many_shards: Path, bundle: Bundle, cluster_address: str, tmp_path_factory: pytest.TempPathFactory
) -> pa.Table:
    """Predictions of a run that nobody disturbs."""
    command = Command(many_shards, bundle, cluster_address, tmp_path_factory.mktemp("calm") / "out")
    command.finish(command.start())
    rows = command.predictions()
    assert rows.num_rows == ROWS
    return rows


@pytest.fixture
def wait_for_worker() -> Iterator[object]:
    """Wait until a Ray worker of that name is at work; any that a test stopped goes on afterwards."""
    seen: list[int] = []

    def wait(*names: str) -> int:
        deadline = time.monotonic() + 90
        while not (pids := worker_pids(*names)):
            assert time.monotonic() < deadline, f"no worker {names}"
            time.sleep(0.02)
        seen.extend(pids)
        return pids[0]

    yield wait
    for pid in seen:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue
