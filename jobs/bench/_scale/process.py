"""CPU seconds and memory of processes, as Linux counts them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")

#: Processes of a Ray head, by the start or end of their command lines.
HEAD = {"gcs": "gcs_server", "raylet": "raylet/raylet", "meter": "ray::ExportingMeter"}


class Use(NamedTuple):
    """Resources used by a process so far."""

    cpu_s: float
    rss_mb: float


NONE = Use(0.0, 0.0)


def use_of(pid: int | str = "self") -> Use:
    """CPU seconds and resident memory of a process."""
    home = Path("/proc") / str(pid)
    fields = (home / "stat").read_text().rpartition(") ")[2].split()
    return Use((int(fields[11]) + int(fields[12])) / _TICKS, _status(home, "VmRSS"))


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return _status(Path("/proc/self"), "VmHWM")


def head() -> dict[str, Use]:
    """Resources used by this process and those of its Ray head: "driver", "gcs", "raylet", "meter"."""
    found = {"driver": use_of()}
    for pid, command in _below(os.getpid()):
        for name, text in HEAD.items():
            if text in command:
                found[name] = use_of(pid)
    return found


def _below(root: int) -> Iterator[tuple[int, str]]:
    """Processes that a process started, and those that they started: numbers and command lines."""
    parents, commands = {}, {}
    for home in Path("/proc").iterdir():
        if home.name.isdigit():
            try:
                parents[int(home.name)] = int((home / "stat").read_text().rpartition(") ")[2].split()[1])
                commands[int(home.name)] = (home / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):  # it ended meanwhile
                continue
    for pid, command in commands.items():
        above = pid
        while above not in (0, root):
            above = parents.get(above, 0)
        if above == root and pid != root:
            yield pid, command


def _status(home: Path, field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", (home / "status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0
