"""A cluster of three raylets of one CPU. Prints its address; kills a node at each line of input."""

import logging
import sys

from ray.cluster_utils import Cluster

import mmray.pipeline  # noqa: F401  (settles how loud Ray is, before it is imported)

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    print(cluster.address, flush=True)
    for node, _ in zip(nodes, sys.stdin, strict=False):
        cluster.remove_node(node, allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()
