"""Checks whether a port is free; if not, reports which process uses it and how to stop that."""

from __future__ import annotations

import errno
import re
import socket
from contextlib import suppress
from pathlib import Path

from mmray.errors import UsageError

_LISTENS = "0A"  # of /proc/net/tcp
_SHOWN = 100  # characters of a command


def check_free(host: str, port: int) -> None:
    """Refuse a port in use; Serve itself would only log that it cannot listen.

    Raises:
        UsageError: listening there is not possible; names the process that uses the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            if isinstance(e, socket.gaierror) or e.errno == errno.EADDRNOTAVAIL:
                raise UsageError(
                    f"--host {host}: {e.strerror}; give an address of this machine; 0.0.0.0 means all of them"
                ) from e
            why = f"{e.strerror}{_who_holds(port)}"
            raise UsageError(f"--port {port}: cannot listen at {host}: {why}; or choose another port") from e


def _who_holds(port: int) -> str:
    sockets = _listening(port)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or ended meanwhile
            if any(str(fd.readlink()) in sockets for fd in process.joinpath("fd").iterdir()):
                pid = int(process.name)
                starter = _starter(pid)
                kept = "" if starter == pid else f", which pid {starter} started ({_command(starter)})"
                return f": used by pid {pid} ({_command(pid)}{kept}); stop it with `kill {starter}`"
    return ": used by a process of another user" if sockets else ""


def _listening(port: int) -> set[str]:
    """Links in /proc/PID/fd to sockets that listen at a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _starter(pid: int) -> int:
    """The `mmray serve` above a process, which would restart it; the process itself if there is none."""
    above = pid
    with suppress(OSError):
        while above > 1:
            if re.search(r"\bmmray\b.* serve\b", _command(above, 10_000)):
                return above
            above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
    return pid


def _command(pid: int, most: int = _SHOWN) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return " ".join(words.split())[:most]
