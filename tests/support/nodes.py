"""A cluster whose nodes come and go as a test wants, and what its workers did where."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import support.three_nodes
from support.scripts import ROOT

_HERE = Path(__file__).parent


class Done(NamedTuple):
    """Rows that a worker has done."""

    at: float  # Unix time
    node: str
    process: int
    rows: int


def waiting(log: Path, row_s: float) -> dict[str, str]:
    """The environment of nodes whose workers wait for so long in each row, and write down what they did.

    Args:
        log: file to write to; `done` reads it.
        row_s: seconds.
    """
    path = f"{_HERE / 'deadly'}:{ROOT}"
    return {**os.environ, "PYTHONPATH": path, "MMRAY_ROW_S": str(row_s), "MMRAY_ROWS": str(log)}


def done(log: Path) -> list[Done]:
    """What workers wrote down."""
    lines = log.read_text().splitlines() if log.exists() else []
    fields = (line.split() for line in lines)
    return [Done(float(at), node, int(process), int(rows)) for at, node, process, rows in fields]


class Nodes:
    """A cluster of raylets of one CPU each, in a process of its own."""

    def __init__(self, count: int, head_cpus: int = 1, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(support.three_nodes.__file__)), str(count), str(head_cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=environment,
        )
        self.address = self._answer()
        assert self.address, "Ray did not start: it gives each raylet 30 s"

    def tell(self, what: str) -> str:
        """Add a node, warn the oldest one or kill it; its id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        answer, _, node = self._answer().partition(" ")
        assert answer == what
        return node

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
