"""The machines of `ray up`: AWS and Google Cloud."""

from __future__ import annotations

import os
import subprocess

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import drain_node
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


#: What the metadata server of a cloud answers, three times; an empty line: 404.
ANSWERS = {"aws": "\n\n{action}\n", "gcp": "FALSE\nFALSE\nTRUE\n"}


@pytest.fixture
def spot(cloud, tmp_path):
    """The command that waits for a warning, on a machine whose cloud gives one at the third question."""

    def program(name, lines):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)

    (tmp_path / "answers").write_text(ANSWERS[cloud])
    # A token is asked for apart. Each other question takes a line of the answers.
    ask = f"""case "$*" in *api/token*) echo secret; exit;; esac
    cd {tmp_path}; line=$(head -n 1 answers); sed -i 1d answers; echo "$line"; [ -n "$line" ]"""
    program("curl", ask)
    program("sleep", "")
    program("ray", f'printf "%s\\n" "$@" > {tmp_path}/told')
    (command,) = [c for c in machines(cloud)["worker_start_ray_commands"] if "spot.sh" in c]
    assert "RAY_AUTH_MODE=token" in command
    script = command.split(">")[0].replace("/home/ray/mmray", str(ROOT))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD_IP": "10.0.0.1"}
    subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=60)
    return tmp_path


@every_cloud
def test_a_worker_that_will_be_taken_away_tells_ray_so(cloud, spot):
    """In words that Ray's own command line takes."""
    assert (spot / "answers").read_text() == ""
    name, *arguments = (spot / "told").read_text().splitlines()
    assert name == drain_node.name
    told = drain_node.make_context(name, arguments).params
    assert told["address"] == "10.0.0.1:6379"
    assert told["node_id"] is None  # this one
    assert told["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert told["deadline_remaining_seconds"] == {"aws": 110, "gcp": 25}[cloud]
