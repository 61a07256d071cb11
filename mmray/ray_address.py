"""Checks that something listens at RAY_ADDRESS.

Ray itself tries for minutes to reach an address where nothing listens, then ends the process without a
message (Ray 2.60).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

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
