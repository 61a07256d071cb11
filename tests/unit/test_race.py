"""The fastest variant is found by running them, once for each kind of machine."""

import json

import pytest
from support.bundles import make_bundle, small_bundle
from support.racing import extended, slowed

from mmray.race import fastest_variant


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("race")


@pytest.fixture(scope="module")
def slow(folder):
    """A bundle whose fp32 graph is slow."""
    return make_bundle(folder / "slow", graph=slowed(small_bundle().graph("fp32"), folder / "slow.onnx"))


def test_the_faster_variant_wins(folder, slow, tmp_path):
    bundle = extended(folder, slow, "both")
    assert fastest_variant(bundle, tmp_path, provider="cpu") == "quick"


def test_a_variant_that_failed_its_gate_does_not_take_part(folder, slow, tmp_path):
    bundle = extended(folder, slow, "failed", passed=False)
    assert fastest_variant(bundle, tmp_path, provider="cpu") == "fp32"


def test_a_variant_for_another_provider_does_not_take_part(folder, slow, tmp_path):
    bundle = extended(folder, slow, "foreign", provider="tensorrt")
    assert fastest_variant(bundle, tmp_path, provider="cpu") == "fp32"


def test_a_slower_variant_loses(folder, slow, tmp_path):
    bundle = extended(folder, small_bundle(), "slower", graph=slow.graph("fp32"))
    assert fastest_variant(bundle, tmp_path, provider="cpu") == "fp32"
    (race,) = (tmp_path / "races").iterdir()
    times = json.loads(race.read_text())["batch_ms"]
    assert times["fp32"] < times["quick"]


def test_a_variant_that_does_not_run_here_does_not_take_part(folder, slow, tmp_path):
    bundle = extended(folder, slow, "broken")
    bundle.graph("quick").write_bytes(b"no graph")
    assert fastest_variant(bundle, tmp_path, provider="cpu") == "fp32"


def test_a_race_is_run_once(folder, slow, tmp_path):
    bundle = extended(folder, slow, "once")
    assert fastest_variant(bundle, tmp_path, provider="cpu") == "quick"
    (race,) = (tmp_path / "races").iterdir()
    race.write_text(json.dumps({"winner": "fp32"}))
    assert fastest_variant(bundle, tmp_path, provider="cpu") == "fp32"
    assert fastest_variant(bundle, tmp_path, provider="cpu", threads=2) == "quick"


@pytest.mark.parametrize("junk", [b"", b"[]", b'{"winner": "gone"}', b"\xff"])
def test_what_is_no_answer_is_run_anew(folder, slow, tmp_path, junk):
    bundle = extended(folder, slow, "junk")
    fastest_variant(bundle, tmp_path, provider="cpu")
    (race,) = (tmp_path / "races").iterdir()
    race.write_bytes(junk)
    assert fastest_variant(bundle, tmp_path, provider="cpu") == "quick"
