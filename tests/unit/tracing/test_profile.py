"""What `mmray profile` says of some records."""

import json

import pytest
from support.cascades import cascaded
from support.scripts import ROOT
from typer.testing import CliRunner

from mmray.cli import app
from mmray.errors import InputError
from mmray.sources import list_shards
from mmray.tracing.profile import profile


@pytest.fixture(scope="module")
def found(bundle, shards):
    return profile(bundle, list_shards([str(shards)]), variant="fp32", provider="cpu", rows=64)


def test_every_stage_and_node_is_a_span_of_the_time_in_which_it_ran(found):
    spans = [event for event in found.events if event["ph"] == "X"]
    stages = [event for event in spans if event["tid"] == 1]
    assert sum(event["args"]["records"] for event in stages if event["name"] == "model") == found.rows == 64
    assert {event["name"] for event in stages} == {"read", "image", "text", "audio", "model"}
    nodes = [event for event in spans if event["tid"] == 2]
    first, last = min(event["ts"] for event in stages), max(e["ts"] + e["dur"] for e in stages)
    assert all(first < event["ts"] < last for event in nodes)
    assert {event["args"]["provider"] for event in nodes} == {"CPUExecutionProvider"}


def test_operators_add_up_to_no_more_than_the_model(found):
    assert 0 < sum(node.seconds for node in found.nodes) < found.seconds["model"]
    assert [node.seconds for node in found.nodes] == sorted((n.seconds for n in found.nodes), reverse=True)
    assert len({(node.operator, node.provider) for node in found.nodes}) == len(found.nodes)


def test_all_stages_of_a_cascade_are_traced(shards, tmp_path):
    bundle = cascaded(tmp_path / "bundle", 0.38, disagreement=0.9)
    traced = profile(bundle, list_shards([str(shards)]), variant="cascade", provider="cpu", rows=32)
    assert traced.variant == "cascade"
    assert traced.nodes


def test_too_few_records_are_refused_by_name(bundle, tmp_path):
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    with pytest.raises(InputError, match=r"empty\.tar: no record"):
        profile(bundle, list_shards([str(tmp_path / "empty.tar")]), provider="cpu")


def test_the_command_ends_in_words_and_a_trace(bundle, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    trace = tmp_path / "trace.json"
    command = ["profile", str(bundle.path), str(shards), "--rows", "32", "--trace", str(trace)]
    said = CliRunner().invoke(app, [*command, "--variant", "fp32", "--provider", "cpu"])
    assert said.exit_code == 0, said.output
    assert "times as fast" in said.output
    assert {"ph", "name"} <= json.loads(trace.read_text())["traceEvents"][0].keys()
