"""What Prometheus finds at the metrics port, and that the dashboard asks for nothing else."""

import json
import re
import time
import urllib.request

import pytest
import ray
from support.cascades import cascaded, mixed_records
from support.media import image_bytes
from support.scripts import ROOT
from support.tars import write_shard

from mmray.client import Client
from mmray.config import RunConfig
from mmray.pipeline.run import Watcher, run

_SAMPLE = re.compile(r"^(ray_mmray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def scraped():
    """Value of each series, by its name and the tags that are ours."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    ours = ("run", "outcome", "stage", "answer", "device", "state", "shape", "route", "status")
    found = {}
    for name, tags, value in _SAMPLE.findall(text):
        named = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', tags))
        found[name, frozenset((k, named[k]) for k in ours if named.get(k))] = float(value)
    return found


def queries():
    """Those of the dashboard's panels and variables."""
    board = json.loads((ROOT / "deploy/grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return asked + [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]


def wait_for(ready):
    """Workers report once a second."""
    deadline = time.monotonic() + 60
    while not ready(found := scraped()):
        assert time.monotonic() < deadline, sorted({name for name, _ in found})
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def ran(ray_cluster, tmp_path_factory):
    """A run of a cascade whose early answers are all compared with full ones, and often differ."""
    folder = tmp_path_factory.mktemp("metrics")
    members = [
        (f"k{i}", {e: row[m] for m, e in (("image", "jpg"), ("text", "txt")) if row[m]})
        for i, row in enumerate(mixed_records(60).to_pylist())
    ]
    write_shard(folder / "in/0.tar", [*[(k, m) for k, m in members if m], ("bad", {"jpg": b"no picture"})])
    settings = {
        "input": [str(folder / "in")],
        "bundle": str(cascaded(folder / "bundle", 0.2, disagreement=0.9).path),
        "output": str(folder / "out"),
        "variant": "cascade",
        "shadow": 1.0,
        "max_reject_rate": 1,
    }
    return run(RunConfig.model_validate(settings), Watcher(*[lambda *_: None] * 3)), str(folder / "out")


def test_a_run_is_counted_under_its_name(ran):
    result, name = ran
    rejected = result.summary["rejected"]
    key = "ray_mmray_job_rows_total", frozenset({("run", name), ("outcome", "rejected")})
    found = wait_for(lambda found: key in found)
    assert found[key] == rejected > 0
    assert found[key[0], frozenset({("run", name), ("outcome", "predicted")})] == result.summary["predicted"]


def test_every_query_of_the_dashboard_has_data(ran, server):
    Client(server.url).predict({"image": image_bytes("JPEG"), "text": "a dog"})
    asked = {name for query in queries() for name in re.findall(r"ray_mmray_\w+", query)}
    assert len(asked) > 10
    found = wait_for(lambda found: asked <= {name for name, _ in found})
    told = {_SUFFIX.sub("", name) for name, _ in found}
    assert {_SUFFIX.sub("", name) for name in asked} <= told
