"""The Ray cluster: connects to it without log output, and reads its resources."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray

from mmray import signals
from mmray.errors import MmrayError, RunError, UsageError, one_line
from mmray.pipeline.plan import Machines
from mmray.ray_address import check_ray_address, muted


@contextmanager
def connected() -> Iterator[Machines]:
    """Join the cluster of RAY_ADDRESS or `ray start`, or else start a temporary one on this machine.

    Raises:
        UsageError: an address is given, but no cluster answers there.
    """
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # the future default; without it Ray warns
    owner = not ray.is_initialized()
    if owner:
        check_ray_address()
        try:
            with muted():
                ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError as e:
            address = os.environ.get("RAY_ADDRESS", "the address in use")
            raise UsageError(f"RAY_ADDRESS={address}: no Ray cluster answers there: {e}") from e
        except MmrayError:
            raise
        except Exception as e:  # any reason why Ray does not start: ports, memory, disk
            reason = f"Ray could not be started: {one_line(e)}"
            raise RunError(f"{reason}; see Ray's logs, fix the cause, and run the same command again") from e
    logging.getLogger("ray").setLevel(
        logging.ERROR
    )  # its lines would break our display; its log files remain
    try:
        with signals.raised():  # after ray.init, whose own handler would end the process without a message
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            yield Machines(
                cpus=int(resources.get("CPU", 0)),
                gpus=int(resources.get("GPU", 0)),
                memory=int(resources.get("memory", 0)),
                nodes=sum(node["Alive"] for node in ray.nodes()),  # type: ignore[no-untyped-call]
            )
    finally:
        if owner:
            ray.shutdown()


class Nodes:
    """The nodes of the cluster. Tells Ray Data about changes; by itself it looks every 20 s (Ray 2.60)."""

    def __init__(self) -> None:
        self._alive = self._ids()
        self._leaving: frozenset[str] = frozenset()

    def look(self) -> frozenset[str]:
        """Call it regularly; returns the ids of nodes that will be shut down soon."""
        # A failure only delays the news; the watchdog that calls this must continue.
        with suppress(ValueError, AttributeError, RuntimeError, OSError, ray.exceptions.RayError):
            # As Ray Data does it; there is no public API.
            self._leaving = frozenset(ray._private.state.state.get_draining_nodes())
            alive, before = self._ids(), self._alive
            self._alive = alive
            if alive != before:
                ray.get_actor("AutoscalingCoordinator", "AutoscalingCoordinator")._tick.remote()
        return self._leaving

    @staticmethod
    def _ids() -> frozenset[str]:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        return frozenset(node["NodeID"] for node in nodes if node["Alive"])
