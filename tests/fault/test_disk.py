"""The disk fills up in the middle of a run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory
from mmray.storage import Location


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system of a fixed size")
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_that_does_not_fit_leaves_nothing(small_disk):
    Location.parse(small_disk / "small").write_atomically(b"x" * 1000)
    with pytest.raises(OSError, match="No space left"):
        Location.parse(small_disk / "large").write_atomically(b"x" * 1_000_000)
    assert [file.name for file in small_disk.iterdir()] == ["small"]


@pytest.mark.long
def test_a_full_disk_ends_the_run_with_exit_3_and_room_lets_it_go_on(command, undisturbed, small_disk):
    command.output = small_disk / "out"
    process = command.start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "No space left" in err
    assert "run the same command again to resume" in err
    assert not list(small_disk.rglob(".tmp-*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    command.finish(command.start())
    assert audit(RunDirectory.at(str(command.output))).ok
    assert command.predictions().equals(undisturbed)
