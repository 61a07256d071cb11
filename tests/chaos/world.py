"""What a round breaks: a cluster of raylets, a small disk, the device of its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import support.three_nodes
from support.command import worker_pids
from support.scripts import ROOT

_SUPPORT = Path(support.three_nodes.__file__).parent
WORKERS = ("FusedWorker", "(InferWorker)", "MapBatches(prepare)")


@dataclass
class World:
    """A folder, and a cluster of three raylets of one CPU each."""

    home: Path
    cluster: subprocess.Popen[str]
    address: str
    disk: Path  # of the output
    small: bool  # whether that is a file system of its own, which can be filled

    def tell(self, what: str) -> None:
        """Add a node, or kill one."""
        assert self.cluster.stdin
        assert self.cluster.stdout
        self.cluster.stdin.write(f"{what}\n")
        self.cluster.stdin.flush()
        assert self.cluster.stdout.readline().strip() == what

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command line, in a process group of its own."""
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("mmray")), *arguments],
            env={**os.environ, "RAY_ADDRESS": self.address, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def signal_worker(self, number: int, pick: int) -> bool:
        """Send a signal to a worker, if there is one; one that stops goes on after three seconds."""
        pids = sorted(worker_pids(*WORKERS))
        if not pids:
            return False
        pid = pids[pick % len(pids)]
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(3)
                os.kill(pid, signal.SIGCONT)
        return True

    @contextmanager
    def broken_device(self, how: str) -> Iterator[None]:
        """The graphs of all workers fail, or answer with what are no numbers."""
        flag = self.home / "faults" / how
        flag.touch()
        try:
            yield
        finally:
            flag.unlink()

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Nothing more fits beside the output."""
        filler = self.disk / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        try:
            yield
        finally:
            filler.unlink()


@contextmanager
def world(home: Path) -> Iterator[World]:
    """Everything that a round needs."""
    (home / "faults").mkdir()
    disk = home / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)]
    small = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    inherited = os.environ.get("PYTHONPATH", "")
    cluster = subprocess.Popen(
        [sys.executable, str(_SUPPORT / "three_nodes.py"), "2"],
        env={
            **os.environ,
            "PYTHONPATH": f"{_SUPPORT / 'deadly'}:{inherited}",
            "MMRAY_FAULTS": str(home / "faults"),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert cluster.stdin
    assert cluster.stdout
    try:
        yield World(home, cluster, cluster.stdout.readline().strip(), disk, small)
    finally:
        cluster.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            cluster.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(cluster.pid, signal.SIGKILL)
        if small:
            subprocess.run(["umount", "-l", str(disk)], check=True)
