"""A cluster of raylets of one CPU each. Prints its address; a line of input adds a node or kills one.

three_nodes.py NODES     beside the head
"""

import logging
import sys

from ray.cluster_utils import Cluster

import mmray.pipeline  # noqa: F401  (settles how loud Ray is, before it is imported)

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[1]))]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "add":
            nodes.append(cluster.add_node(num_cpus=1))
        else:
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print(line.strip(), flush=True)
    cluster.shutdown()
