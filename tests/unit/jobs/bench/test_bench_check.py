"""The guard against losses of speed: what is slower than it was is found, by ratios."""

import json
from time import perf_counter

import pytest
from PIL import Image
from support.scripts import load_script

CHECK, STAGED = load_script("jobs/bench/check.py"), load_script("jobs/bench/_stages.py")
REPEATS = 12  # of which the fastest counts: the machine may have other work for some of them
WIDE = 0.6  # share that may be lost: the tests' machine has other work


@pytest.fixture(scope="module")
def measure(shards, bundle):
    return lambda repeats=3: STAGED.stage_costs([str(shards)], bundle, least_rows=80, repeats=repeats).ratios


def test_each_stage_is_as_fast_as_it_was_beside_the_bare_library(measure):
    baseline = json.loads(CHECK.BASELINE.read_text())["synthetic"]
    least = CHECK.floors(baseline, room=WIDE)
    found = CHECK.best_ratios(measure, least)
    assert [stage for stage in found if found[stage] < least[stage]] == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_decoder_that_takes_a_fifth_longer_is_found(measure, monkeypatch):
    import mmray.preprocess as preprocess

    decode = preprocess.decode_image
    evidence = [measure(REPEATS) for _ in range(8)]

    def slower(*given):
        start = perf_counter()
        answer = decode(*given)
        end = perf_counter() + 0.2 * (perf_counter() - start)
        while perf_counter() < end:
            pass
        return answer

    monkeypatch.setattr(preprocess, "decode_image", slower)
    # Decoding is nearly all that the stage does, so a fifth more of it lowers the ratio to about .85.
    least = CHECK.floors(evidence)["image"]
    found = CHECK.best_ratios(lambda: {"image": measure(REPEATS)["image"]}, {"image": least})
    assert found["image"] < least


def test_the_floor_is_the_lowest_round_but_for_a_tenth_that_may_be_disturbed():
    assert CHECK.floors([{"read": float(ratio)} for ratio in reversed(range(20))]) == {"read": 2.0}
    rounds = [{"read": 1.0}, {"read": 1.2}]
    assert CHECK.floors(rounds) == {"read": 1.0}
    assert CHECK.floors(rounds, room=0.4)["read"] == pytest.approx(0.6)
    assert CHECK.found_for_sure(rounds)["read"] == pytest.approx(0.2)


def test_what_seems_lost_is_measured_again_before_it_counts():
    rounds = iter([{"read": 0.4}, {"read": 0.9}, {"read": 0.1}])
    assert CHECK.best_ratios(lambda: next(rounds), {"read": 0.8}) == {"read": 0.9}
    assert next(rounds) == {"read": 0.1}


def test_a_history_grows_and_is_drawn(tmp_path):
    history = tmp_path / "new" / "speed.jsonl"
    for day, lost in ((1, []), (2, ["read"])):
        entry = {"when": f"2026-11-{day:02}T02:17:00+00:00", "ratio": {"read": 1.0}, "lost": lost}
        CHECK.remember(history, entry)
    assert [json.loads(line)["lost"] for line in history.read_text().splitlines()] == [[], ["read"]]
    with Image.open(history.with_suffix(".png")) as plot:
        assert plot.size == (800, 360)
