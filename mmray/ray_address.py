"""Before a cluster is joined: checks that something listens at RAY_ADDRESS; silences Ray meanwhile.

Ray itself tries for minutes to reach an address where nothing listens, then ends the process without a
message (Ray 2.60).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mmray.errors import UsageError

_TIMEOUT_S = 5.0  # for a connection; the head of a cluster answers within milliseconds
_NO_ADDRESS = ("", "auto", "local")


def check_ray_address() -> None:
    """Connect once to the address in RAY_ADDRESS; without one there is nothing to check.

    Raises:
        UsageError: nothing listens there, or it is not an address.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address in _NO_ADDRESS:
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    remedy = "correct it, start a cluster there with `ray start --head`, or unset it to run on this machine"
    if not port.isdecimal():
        raise UsageError(f"RAY_ADDRESS={address}: expected HOST:PORT; {remedy}")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT_S)
    except (OSError, OverflowError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({reason}); {remedy}") from e
    with suppress(OSError):
        connection.close()


@contextmanager
def muted() -> Iterator[None]:
    """Send file descriptor 2 to /dev/null: Ray's C++ code prints there at every log level."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
