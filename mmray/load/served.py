"""`mmray serve` in a separate process, as long as it is measured."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmray.errors import EngineError

_START_S = 120.0
_END_S = 15.0  # it ends within 5 by itself
_LOOK_S = 0.1
_OTHERS = ("RAY_ADDRESS", "MMRAY_TOKEN")  # it runs on this machine, and asks for no token
# -P: the current directory may hold modules of any name.
_COMMAND = (sys.executable, "-P", "-c", "from mmray.cli import main; main()")


@dataclass(frozen=True)
class Setting:
    """A setting of a server."""

    replicas: int
    batch_rows: int
    wait_ms: float

    @property
    def options(self) -> list[str]:
        """Of `mmray serve`."""
        sets = (f"batch_rows={self.batch_rows}", f"batch_wait_s={self.wait_ms / 1e3:g}")
        return ["--replicas", str(self.replicas), *(word for one in sets for word in ("--set", one))]

    def __str__(self) -> str:
        replicas = f"{self.replicas} replica{'s' * (self.replicas != 1)}"
        batches = f"batches of {self.batch_rows}" if self.batch_rows > 1 else "no batches"
        return f"{replicas}, {batches}" + (f", wait {self.wait_ms:g} ms" if self.wait_ms else "")


def settings_of(
    replicas: Sequence[int], batch_rows: Sequence[int], waits_ms: Sequence[float]
) -> list[Setting]:
    """All different combinations: a batch of one never waits."""
    found = {
        Setting(number, rows, wait_ms if rows > 1 else 0.0)
        for number in replicas
        for rows in batch_rows
        for wait_ms in waits_ms
    }
    return sorted(found, key=lambda one: (one.replicas, one.batch_rows, one.wait_ms))


def command_of(bundle: str, options: Sequence[str]) -> str:
    """The command line of a server."""
    return shlex.join(["mmray", "serve", bundle, *options])


@contextmanager
def served(bundle: str, options: Sequence[str]) -> Iterator[str]:
    """The URL of a new, warm server; it ends with the body.

    Args:
        bundle: its directory.
        options: of `mmray serve`, without a port.

    Raises:
        EngineError: it does not start; with its last messages.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in _OTHERS}
    words = [*_COMMAND, "serve", bundle, "--port", str(port), *options]
    with tempfile.NamedTemporaryFile(prefix="mmray-serve-") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(process, Path(log.name), command_of(bundle, options))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, command: str) -> None:
    deadline = time.monotonic() + _START_S
    while "is served at" not in (said := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
            ended = "does not come up" if process.poll() is None else f"ended with code {process.poll()}"
            raise EngineError(f"{command}: {ended}: {last.removeprefix('error: ')}")
        time.sleep(_LOOK_S)
