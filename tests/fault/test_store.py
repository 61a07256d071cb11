"""The driver of a run on an object store is killed: the store, too, holds each row once afterwards."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.command import Command
from support.stores import Bucket

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import read_parquet
from mmray.sources import list_shards
from mmray.storage import Location


@dataclass
class CommandOnStore(Command):
    """The command whose places are URLs."""

    def parts(self) -> list[Location]:
        out = RunDirectory.at(self.output)
        return [out.parts / file.base_name for file in out.parts.files()]

    def predictions(self) -> pa.Table:
        rows = pa.concat_tables([read_parquet(part) for part in self.parts()])
        return rows.sort_by([("shard", "ascending"), ("row", "ascending")])


@pytest.fixture
def command(many_shards, bundle, cluster_address, s3: Bucket, size: int) -> CommandOnStore:
    for shard in sorted(many_shards.iterdir())[:size]:
        Location.parse(s3.url(f"in/{shard.name}")).write_atomically(shard.read_bytes())
    return CommandOnStore(s3.url("in"), bundle, cluster_address, s3.url("out"))


@pytest.mark.long
@pytest.mark.parametrize("size", [7, 28])
def test_a_kill_of_the_driver_loses_and_doubles_nothing_on_a_store(command, undisturbed, size):
    process = command.start()
    command.wait_for_parts(process, 3)
    assert process.poll() is None, "the run ended before it was killed: give it more records"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert audit(RunDirectory.at(command.output)).problems
    command.finish(command.start())
    assert audit(RunDirectory.at(command.output), recount=True).ok
    stored = pa.array(shard.id for shard in list_shards([command.shards]))
    assert len(stored) == size
    assert command.predictions().equals(undisturbed.filter(pc.is_in(undisturbed["shard"], stored)))
