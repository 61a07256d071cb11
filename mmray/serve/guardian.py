"""Outlives `mmray serve` briefly: after any end of it, kills the rest of the Ray that it started.

    python guardian.py PID FOLDER

PID started it, with a pipe as its input, which the kernel closes when PID ends. A process belongs to PID's
Ray if it writes into Ray's session, whose directory has PID in its name, or, like HAProxy, into FOLDER, which
is removed at the end. The kernel ends Ray's first processes with PID, and workers end with those; but its
agents retry for minutes. Imports only the standard library.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE_S = 10.0


def left_of(paths: re.Pattern[str]) -> list[int]:
    """Processes that have a file with a matching path open for writing."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or ended meanwhile
            if any(
                paths.search(str(fd.readlink())) and _writes(fd) for fd in process.joinpath("fd").iterdir()
            ):
                found.append(int(process.name))
    return found


def _writes(fd: Path) -> bool:
    """Whether a descriptor, as /proc/PID/fd names it, is for more than reading."""
    said = fd.parent.with_name("fdinfo").joinpath(fd.name).read_text()
    return any(
        int(line.split()[1], 8) & os.O_ACCMODE for line in said.splitlines() if line.startswith("flags:")
    )


def main(pid: str, folder: str) -> None:
    """Wait, then kill."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    paths = re.compile(rf"/session_[0-9_-]+_{pid}/|^{re.escape(folder)}/")
    deadline = time.monotonic() + _PATIENCE_S
    while (
        left := [process for process in left_of(paths) if process != int(pid)]
    ) and time.monotonic() < deadline:
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
