"""The machines of `ray up`: AWS and Google Cloud."""

from __future__ import annotations

import os
import subprocess

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from support.scripts import ROOT

FILES = {"aws": "cluster.yaml", "gcp": "deploy/cluster-gcp.yaml"}
every_cloud = pytest.mark.parametrize("cloud", FILES)


def machines(cloud):
    return yaml.safe_load((ROOT / FILES[cloud]).read_text())


@every_cloud
def test_rays_own_validator_takes_the_file(cloud):
    config = machines(cloud)
    assert config["provider"]["type"] == cloud
    validate_config(prepare_config(config))


@every_cloud
def test_cpu_nodes_stand_beside_gpu_nodes_and_a_head_without_work(cloud):
    config = machines(cloud)
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert "GPU" not in types["cpu"]["resources"]
    assert types["cpu"]["max_workers"] + types["gpu"]["max_workers"] <= config["max_workers"]
    images = {config["docker"]["image"], types["gpu"]["docker"]["worker_image"]}
    assert images == {f"rayproject/ray:{ray.__version__}-py311-{kind}" for kind in ("cpu", "gpu")}


@every_cloud
def test_workers_are_spot_machines_and_the_head_is_none(cloud):
    def is_spot(node):
        market = node.get("InstanceMarketOptions", {}).get("MarketType")
        return market == "spot" or any(rule.get("preemptible") for rule in node.get("scheduling", []))

    types = machines(cloud)["available_node_types"]
    assert {name: is_spot(kind["node_config"]) for name, kind in types.items()} == {
        "head": False,
        "cpu": True,
        "gpu": True,
    }


@every_cloud
def test_every_ray_starts_with_the_token_that_every_node_has(cloud):
    config = machines(cloud)
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


@every_cloud
@pytest.mark.parametrize(
    ("driver", "code", "says"),
    [
        ("580.65.06", 0, ""),
        ("1000.1", 0, ""),
        ("575.57.08", 1, "driver 575.57.08 is too old"),
        ("580.65.06\n570.1", 1, "driver 570.1 is too old"),
        ("", 1, "no GPU is seen"),
    ],
)
def test_a_gpu_node_whose_driver_is_too_old_says_so_when_it_comes_up(cloud, driver, code, says, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\nprintf '%s' '{driver}'\n")
    fake.chmod(0o755)
    check = machines(cloud)["available_node_types"]["gpu"]["initialization_commands"][-1]
    done = subprocess.run(
        ["bash", "-c", check],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()[: len(says)]) == (code, says)
