"""A cluster of raylets of one CPU each. Prints its address; a line of input adds a node, warns or kills one.

three_nodes.py NODES HEAD_CPUS     nodes beside the head

Answers with the word that it was told, and the node's id.
"""

import logging
import sys
import time

from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

import mmray.pipeline  # noqa: F401  (sets how loud Ray is, before it is imported)

WARNED_S = 120  # before a spot machine goes


def warn(address: str, node: str) -> None:
    """What a node does itself when it is told to end."""
    deadline_ms = int((time.time() + WARNED_S) * 1000)
    client = GcsClient(address=address)
    accepted, why = client.drain_node(node, DRAIN_NODE_REASON_PREEMPTION, "spot", deadline_ms)
    assert accepted, why


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    head = {"num_cpus": int(sys.argv[2]), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[1]))]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        told = line.strip()
        if told == "add":
            nodes.append(cluster.add_node(num_cpus=1))
            node = nodes[-1]
        elif told == "warn":
            node = nodes[0]
            warn(cluster.address, node.node_id)
        else:
            node = nodes.pop(0)
            cluster.remove_node(node, allow_graceful=False)
        print(told, node.node_id, flush=True)
    cluster.shutdown()
