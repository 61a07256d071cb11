"""Memory limit of a worker, so that a record that needs too much costs only its worker."""

from __future__ import annotations

import re
import resource
from pathlib import Path

_LEAST_BYTES = 2 << 30
_MODELS = 4  # memory of a session during its creation, as a multiple of the graph's size


def allowance(node_bytes: int, cpus: int, graph_bytes: int) -> int:
    """Bytes that a worker on a CPU may allocate after its start: twice its share of the machine.

    Args:
        node_bytes: memory of the cluster that Ray gives to workers.
        cpus: of the cluster.
        graph_bytes: size of the model's graph.
    """
    return max(_LEAST_BYTES + _MODELS * graph_bytes, 2 * node_bytes // max(1, cpus))


def bound(more_bytes: int) -> None:
    """Limit this process to so much more memory than it has now; further allocations fail.

    Counts private writable memory (RLIMIT_DATA, Linux 4.7 and later), so neither memory-mapped shards nor
    Ray's shared memory. On other systems there is no limit.
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
