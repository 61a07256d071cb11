"""A cluster that grows: a head without CPUs, and as many nodes of one CPU as Ray's autoscaler wants.

It is what Ray's `AutoscalingCluster` starts. That class cannot be used: the wheel of Ray 2.60 lacks its
example.yaml, and its start ends all Ray processes of the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection, socket

from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

RAY = str(Path(sys.executable).with_name("ray"))

#: Keys that Ray wants in a cluster's config, for machines that are reached by SSH.
_UNUSED = ("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")


@contextmanager
def growing(folder: Path, most: int, idle_s: float, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of such a cluster.

    Args:
        folder: for its config and log.
        most: nodes beside the head.
        idle_s: after which an idle node goes.
        environment: of its processes.
    """
    port, agent, grpc = (_free_port() for _ in range(3))
    address = f"127.0.0.1:{port}"
    config = {
        "cluster_name": "growing",
        "max_workers": most,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 100.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 1, "object_store_memory": 10**8},
                "node_config": {},
                "min_workers": 0,
                "max_workers": most,
            },
        },
        "head_node_type": "ray.head.default",
        **dict.fromkeys(_UNUSED, ()),
    }
    (folder / "cluster.json").write_text(json.dumps(config))
    command = [RAY, "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"]
    short = tempfile.mkdtemp(prefix="ray-")  # paths of sockets may have 107 bytes
    command += [
        f"--temp-dir={short}",
        f"--autoscaling-config={folder / 'cluster.json'}",
        f"--object-store-memory={10**8}",
    ]
    fake = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_AUTH_MODE": "disabled",  # else the head makes a token
    }
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**environment, **fake}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_up(port)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(short, ignore_errors=True)


def nodes_of(address: str) -> int:
    """How many nodes of such a cluster are alive, with its head."""
    state = GlobalState()
    options = GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    state._initialize_global_state(options)
    return sum(node["Alive"] for node in state.node_table())


def _free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"no head at port {port}"
            time.sleep(0.2)
        else:
            return
