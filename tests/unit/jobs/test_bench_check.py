"""The guard against losses of speed: what is slower than it was is found, by ratios."""

import json
import time

import pytest
from support.scripts import load_script

CHECK, STAGED = load_script("jobs/bench_check.py"), load_script("jobs/_stages.py")
WIDE = 0.6  # share that may be lost: the tests' machine has other work


@pytest.fixture(scope="module")
def measure(shards, bundle):
    return lambda: STAGED.stage_costs([str(shards)], bundle, least_rows=80, repeats=3).ratios


def test_each_stage_is_as_fast_as_it_was_beside_the_bare_library(measure):
    baseline = json.loads(CHECK.BASELINE.read_text())["synthetic"]
    least = CHECK.floors(baseline, WIDE)
    found = CHECK.best_ratios(measure, least)
    assert [stage for stage in found if found[stage] < least[stage]] == []


@pytest.mark.long
def test_a_decoder_that_dawdles_is_found(measure, monkeypatch):
    import mmray.preprocess as preprocess

    decode = preprocess.decode_image
    least = CHECK.floors([measure()], WIDE)

    def dawdle(*given):
        time.sleep(0.005)
        return decode(*given)

    monkeypatch.setattr(preprocess, "decode_image", dawdle)
    found = CHECK.best_ratios(measure, least)
    assert [stage for stage in found if found[stage] < least[stage]] == ["image"]


def test_a_floor_leaves_room_for_the_spread_of_the_rounds():
    assert CHECK.floors([{"read": 1.0}, {"read": 1.02}])["read"] == pytest.approx(0.85)
    assert CHECK.floors([{"read": 1.0}, {"read": 1.2}])["read"] == pytest.approx(0.6)


def test_what_seems_lost_is_measured_again_before_it_counts():
    rounds = iter([{"read": 0.4}, {"read": 0.9}, {"read": 0.1}])
    assert CHECK.best_ratios(lambda: next(rounds), {"read": 0.8}) == {"read": 0.9}
    assert next(rounds) == {"read": 0.1}
