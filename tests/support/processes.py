"""`mmray serve` as its user starts it, and what lives in its session.

Ray's workers have groups of their own, but no sessions.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.bundles import small_bundle

MMRAY = Path(sys.executable).with_name("mmray")


def of_session(sid: int) -> dict[int, bytes]:
    """Commands by pid."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = process.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == sid and state != "Z":
                found[int(process.name)] = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ")
    return found


def wait_for_none(sid: int) -> None:
    """Until nothing of a session lives."""
    deadline = time.monotonic() + 60
    while left := of_session(sid):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def serve_command(port: int, options: Sequence[str] = ()) -> list[str]:
    return [str(MMRAY), "serve", str(small_bundle().path), "--port", str(port), *options]


@contextlib.contextmanager
def serving(
    log: Path, options: Sequence[str] = (), **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`mmray serve` of the small bundle; its process and URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OMP_"))}
    with log.open("wb") as file:
        process = subprocess.Popen(
            serve_command(port, options),
            env=keep | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while "is served at" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process, url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
