"""How much memory a worker may take, so that one record that wants all of it costs its worker alone."""

from __future__ import annotations

import re
import resource
from pathlib import Path

_LEAST_BYTES = 2 << 30
_MODELS = 4  # times the size of a graph that its session may take while it is made


def allowance(node_bytes: int, cpus: int, graph_bytes: int) -> int:
    """Bytes that a worker on a CPU may take beside what it starts with: twice its share of the machine.

    Args:
        node_bytes: memory of the cluster that Ray gives to workers.
        cpus: of the cluster.
        graph_bytes: size of the model's graph.
    """
    return max(_LEAST_BYTES + _MODELS * graph_bytes, 2 * node_bytes // max(1, cpus))


def bound(more_bytes: int) -> None:
    """Let this process take so much memory beside what it has; then its allocations fail.

    Counts what is written to and belongs to no file (RLIMIT_DATA, Linux 4.7 and later), so neither mapped
    shards nor Ray's shared memory. Elsewhere nothing is bounded.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return
    found = re.search(r"VmData:\s+(\d+) kB", status)
    if found:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(found[1]) * 1024 + more_bytes
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
