"""Runs instead of HAProxy: makes Ray's generated config private, then becomes HAProxy.

    python launch_haproxy.py BINARY ERROR_FILE CLIENT_CONNECTIONS [HAProxy's arguments, among them -f CONFIG]

It dies with its parent process: Ray kills its processes with SIGKILL, and an orphaned HAProxy would hold the
port forever.

Ray starts and reloads HAProxy the same way, so this also works after a reload. A config that is not as Ray
2.60 writes it (ray/serve/_private/haproxy_templates.py) is refused: no server is better than an open one.
Imports only the standard library, because it runs at each reload.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h

# HAProxy's own metrics and statistics listen on all addresses. Ray asks the control socket instead.
_UNWANTED = ("frontend prometheus", "listen stats")
_EDITS = (
    # Write access to it controls HAProxy.
    (1, r"^( +stats socket \S+ mode )666( level admin\b)", r"\g<1>600\2"),
    # Ray allows an hour for a silent client, and no limit for a slow head.
    (
        1,
        r"^( +)timeout client \d+s$",
        r"\1timeout client 60s\n\1timeout http-request 5s\n\1timeout http-keep-alive 60s",
    ),
    # Ray answers 500 if no replica can answer, or the one that did has died: the client may retry.
    (3, r"^( +errorfile 50[234] )\S+$", r"\1ERROR_FILE"),
    # Serve's proxy, which answers if no replica is left, sends this for a bundle that is being removed.
    (
        1,
        r"^( +)bind \S+$",
        # One address must not take all connections, which needs no token.
        r"\g<0>\n\1stick-table type ipv6 size 100k expire 1h store conn_cur\n"
        r"\1tcp-request connection track-sc0 src\n"
        r"\1tcp-request connection reject if { sc0_conn_cur gt CLIENT_CONNECTIONS }\n"
        r"\1http-response return status 503 default-errorfiles "
        r"if { status 404 } { res.hdr(content-type) -m beg text/plain }",
    ),
)
# Before the first bundle is served, and after the last, a path may still become valid.
_NOTHING_SERVED = (
    1,
    r"^( +http-request return status )404 content-type text/plain lf-string .*$",
    r"\g<1>503 default-errorfiles",
)


def private(config: str, error_file: str, client_connections: int) -> str:
    """The config with the frontend as its only listener.

    Args:
        config: as Ray generated it.
        error_file: HAProxy's own answer to a client.
        client_connections: maximum of one client address.

    Raises:
        ValueError: it is not as Ray 2.60 writes it.
    """
    sections = re.split(r"^(?=\S)", config, flags=re.MULTILINE)
    kept = [section for section in sections if section.partition("\n")[0] not in _UNWANTED]
    _expect(len(sections) - len(kept), len(_UNWANTED), "sections of metrics and statistics")
    config = "".join(kept)
    _expect(len(re.findall(r"^\s*bind\s", config, flags=re.MULTILINE)), 1, "listeners")
    for count, pattern, replacement in _EDITS:
        for name, value in (("ERROR_FILE", error_file), ("CLIENT_CONNECTIONS", str(client_connections))):
            replacement = replacement.replace(name, value)
        config = _edit(config, count, pattern, replacement)
    if not re.search(r"^ +use_backend ", config, flags=re.MULTILINE):
        config = _edit(config, *_NOTHING_SERVED)
    return config


def _edit(config: str, count: int, pattern: str, replacement: str) -> str:
    config, found = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    _expect(found, count, pattern)
    return config


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise ValueError(f"not the HAProxy config that Ray 2.60 writes: {found} of {what}, expected {wanted}")


def die_with_parent() -> None:
    """Have the kernel kill this process, also after exec, when the thread that started it ends.

    Raises:
        OSError: it has ended already.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent == 1 or os.getppid() != parent:
        raise ProcessLookupError("its parent has ended")


def main(binary: str, error_file: str, client_connections: str, arguments: Sequence[str]) -> NoReturn:
    """Become HAProxy."""
    die_with_parent()
    file = Path(arguments[arguments.index("-f") + 1])
    file.write_text(private(file.read_text(), error_file, int(client_connections)))
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
    except (OSError, ValueError) as e:
        sys.exit(f"{Path(__file__).name}: {e}")
