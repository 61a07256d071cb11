"""What Prometheus finds at the metrics port, and that the dashboard asks for nothing else."""

import json
import re
import time
import urllib.request
from collections import Counter

import pytest
import ray
from support.bundles import LABELS, make_bundle, small_bundle
from support.cascades import cascaded, mixed_records
from support.drift import by_hand
from support.drift import counts as drift_counts
from support.graphs import write_graph
from support.media import image_bytes
from support.prometheus import prometheus
from support.scripts import ROOT
from support.tars import write_shard

from mmray.client import Client
from mmray.config import RunConfig
from mmray.drift.watch import Watch
from mmray.pipeline.metrics import ExportingMeter
from mmray.pipeline.run import Watcher, run
from mmray.serve.metrics import Metrics

_SAMPLE = re.compile(r"^(ray_mmray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def scraped():
    """Value of each series, by its name and the tags that are ours."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    ours = ("run", "outcome", "stage", "answer", "modalities", "device", "state", "shape", "route", "status")
    found = {}
    for name, tags, value in _SAMPLE.findall(text):
        named = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', tags))
        found[name, frozenset((k, named[k]) for k in ours if named.get(k))] = float(value)
    return found


def board():
    return json.loads((ROOT / "deploy/grafana.json").read_text())


def panel_queries():
    return [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]


def queries():
    """Those of the dashboard's panels and variables."""
    return panel_queries() + [v["query"] for v in board()["templating"]["list"] if v["type"] == "query"]


def plain(query):
    """As Grafana asks: with its variables filled in."""
    return query.replace("$run", ".*").replace("$__rate_interval", "1m")


def wait_for(names):
    """Series, once these names are among them: workers report once a second."""
    deadline = time.monotonic() + 60
    while True:
        found = scraped()
        missing = names - {name for name, _ in found}
        if not missing:
            return found
        assert time.monotonic() < deadline, missing
        time.sleep(0.5)


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
    found = wait_for({key[0]})
    assert found[key] == rejected > 0
    assert found[key[0], frozenset({("run", name), ("outcome", "predicted")})] == result.summary["predicted"]


@pytest.fixture
def device(ray_cluster):
    """A meter and a replica's metrics that were told of what this machine does not have.

    A device, which has shapes and padding; a shard that cannot be read; records unlike those of a reference.
    """
    counts = {"busy": 1.0, "planned": 0.5, "copied": 0.1, "changes": 1}
    counts |= {"shape 8 rows": 2, "places rows": 16, "used rows": 12}
    watch, unlike = Watch(by_hand()), drift_counts((0, 128, 0), (32, 32, 32, 32))
    watch.add(unlike)
    metrics = Metrics()
    metrics.count_device(Counter(counts))
    meter = ray.remote(num_cpus=0)(ExportingMeter).remote("a run", None, by_hand())
    ray.get(
        [
            meter.enter.remote("worker", "model", ()),
            meter.add.remote({"rows": 12}, counts, "GPU 0", unlike),
            meter.fail.remote("a.tar", "gone"),
        ]
    )

    def tell_anew():
        metrics.show_drift(watch.read())
        ray.get(meter.read.remote())

    tell_anew()
    yield tell_anew
    ray.kill(meter)


@pytest.fixture(scope="module")
def shadowed(server, tmp_path_factory):
    """A server whose second bundle decides otherwise, and has answered."""
    folder = tmp_path_factory.mktemp("canary")
    graph = write_graph(folder / "other.onnx", len(LABELS), scale=-1.0)
    other = make_bundle(folder / "other", graph=graph, golden_scale=-1.0)
    canary = {"bundle": str(other.path), "share": 1.0}
    with server.also("shadowed", bundle=str(small_bundle().path), canary=canary) as url:
        yield url


def test_a_second_bundle_is_asked_as_well_and_its_answers_reach_nobody(shadowed, server):
    record = {"image": image_bytes("JPEG"), "text": "a dog"}
    assert Client(shadowed).predict(record)["label"] == Client(server.url).predict(record)["label"]
    key = "ray_mmray_canary_total", frozenset({("answer", "other"), ("modalities", "image+text")})
    assert wait_for({key[0]})[key] == 1


def test_every_query_of_the_dashboard_has_data(ran, server, device, shadowed):
    Client(server.url).predict({"image": image_bytes("JPEG"), "text": "a dog"})
    asked = {name for query in queries() for name in re.findall(r"ray_mmray_\w+", query)}
    assert len(asked) > 10
    wait_for(asked)


@pytest.mark.long
def test_a_real_prometheus_has_an_answer_to_each_query(ran, server, device, shadowed, tmp_path):
    port = ray.nodes()[0]["MetricsExportPort"]
    with prometheus(tmp_path, [f"127.0.0.1:{port}"]) as scraping:
        deadline = time.monotonic() + 120
        left = set(panel_queries())
        while left:  # a rate needs two scrapes, and the workers report in turn
            assert time.monotonic() < deadline, left
            for url in (server.url, shadowed):
                Client(url).predict({"image": image_bytes("JPEG"), "text": "a dog"})
            device()  # as a run and a server do: Ray exports a gauge only while it is set anew
            time.sleep(1)
            left = {query for query in left if not scraping.query(plain(query))}
        assert {labels["run"] for labels, _ in scraping.query("ray_mmray_job_rows_total")} >= {
            ran[1],
            "a run",
        }
        asked = scraping.query('sum(rate(ray_mmray_requests_total{status="200"}[1m]))')
        assert asked[0][1] > 0
