"""Thresholds keep their promise, are as low as can be shown, and are not given where nothing can be shown."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaincinv
from support.bundles import LABELS
from support.cascades import cascaded
from support.linear import linear_bundle, write_labelled

from mmray.bundle import Selective, extend_bundle
from mmray.cascade import softmax
from mmray.confidence import least_score
from mmray.evaluation.outputs import Outputs, run_outputs
from mmray.evaluation.selective import (
    NOT_ENOUGH,
    TOO_OFTEN_WRONG,
    Point,
    judge_selective,
    lowest_threshold,
    risk_coverage,
)
from mmray.stats.intervals import Clusters
from mmray.variants.staged import StagedEngine


def answers(rows, seed=0, wrong=1.0):
    """Confidences, whether right, and groups; the surer the less often wrong, as `wrong` times 1 - it."""
    random = np.random.default_rng(seed)
    confidence = random.beta(3, 1, rows).astype(np.float32)
    right = random.random(rows) >= wrong * (1 - confidence)
    return confidence, right, np.arange(rows).astype(str)


def outputs(rows, seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, 5)).astype(np.float32)
    chances = softmax(logits)
    return Outputs(
        scores=softmax(2 * logits),
        present=np.ones((rows, 1), bool),
        whole=np.ones(rows, bool),
        labels=(chances.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1),
        groups=np.arange(rows).astype(str),
        modalities=("text",),
        classes=tuple("abcde"),
    )


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 120), st.integers(0, 5), st.booleans())
def test_the_curve_goes_from_the_surest_records_to_all(rows, seed, alike):
    confidence, right, groups = answers(rows, seed)
    if alike:
        confidence = np.round(confidence, 1)
    curve = risk_coverage(confidence, right, groups)
    assert len(curve) <= 40
    assert curve[-1].threshold == 0
    assert curve[-1].coverage == 1
    assert curve[-1].risk == pytest.approx((~right).mean())
    for before, after in pairwise(curve):
        assert before.threshold > after.threshold
        assert before.coverage <= after.coverage
    for point in curve:
        answered = confidence >= point.threshold
        assert (point.coverage, point.risk) == (answered.mean(), (~right[answered]).mean())
        assert point.risk <= point.bound == Clusters(groups[answered]).upper(~right[answered], 0.95)


def test_the_lowest_threshold_keeps_within_the_risk_as_do_all_that_were_tried_before_it():
    curve = risk_coverage(*answers(3000))
    chosen = lowest_threshold(curve, 0.1)
    at = curve.index(chosen)
    tried = [point for point in curve[: at + 1] if point.least_bound <= 0.1]
    assert all(point.bound <= 0.1 for point in tried)
    assert curve[at + 1].bound > 0.1
    assert chosen.coverage > 0.3


def test_a_larger_risk_answers_more_and_one_that_all_records_keep_answers_all():
    curve = risk_coverage(*answers(3000))
    found = [lowest_threshold(curve, risk) for risk in (0.05, 0.1, 0.2, 0.5)]
    assert [point.coverage for point in found] == sorted(point.coverage for point in found)
    assert found[-1].threshold == 0


def test_a_bound_that_falls_again_does_not_count():
    points = [Point(t, 1 - t, 0.0, bound, 0.0) for t, bound in ((0.9, 0.04), (0.8, 0.06), (0.7, 0.04))]
    assert lowest_threshold(points, 0.05).threshold == 0.9


def test_too_few_records_and_too_many_wrong_ones_are_told_apart():
    few = risk_coverage(*answers(40, wrong=0))
    assert lowest_threshold(few, 0.05) == NOT_ENOUGH
    often = risk_coverage(np.linspace(0, 1, 500).astype(np.float32), np.arange(500) % 2 == 0, np.arange(500))
    assert lowest_threshold(often, 0.05) == TOO_OFTEN_WRONG


def test_records_of_one_group_count_as_one():
    confidence, right, _ = answers(800, wrong=0)
    assert isinstance(lowest_threshold(risk_coverage(confidence, right, np.arange(800)), 0.05), Point)
    assert lowest_threshold(risk_coverage(confidence, right, np.arange(800) // 20), 0.05) == NOT_ENOUGH


def exact_curve(confidence, right):
    """The same curve where each record is a group by itself: the bound is then that of Clopper & Pearson."""
    for threshold in (*np.sort(confidence)[:: -max(1, len(confidence) // 39)], 0.0):
        wrong = ~right[confidence >= threshold]
        bounds = [
            1.0 if k >= len(wrong) else betaincinv(k + 1, len(wrong) - k, 0.95) for k in (wrong.sum(), 1)
        ]
        yield Point(float(threshold), len(wrong) / len(right), float(wrong.mean()), *bounds)


def test_the_risk_is_kept_in_95_of_100_draws():
    """The true risk above a threshold t is the mean of 1 - confidence there, by a large sample."""
    many = np.sort(answers(200_000, seed=99)[0])[::-1]
    risks = np.cumsum(1 - many) / np.arange(1, len(many) + 1)
    broken = found = 0
    for seed in range(600):
        point = lowest_threshold(list(exact_curve(*answers(300, seed)[:2])), 0.1)
        if isinstance(point, Point):
            found += 1
            broken += risks[(many >= point.threshold).sum() - 1] > 0.1
    assert found > 300
    assert broken <= 42  # of 600 at 5 %: more than that by chance in 1 of 50


def test_what_is_found_on_tune_is_looked_at_on_test():
    judged = judge_selective(outputs(3000), outputs(2000, seed=1))
    assert judged.fields["temperatures"] == {"text": pytest.approx(2, rel=0.15)}
    before, after = (judged.card["calibration"][name] for name in ("before", "after"))
    assert after["ece"] < before["ece"] / 2
    assert after["log_loss"] < before["log_loss"]
    shown = {found.risk: found for found in judged.fields["selective"]}
    card = judged.card["selective"]
    assert {(card["split"], card["records"], card["groups"])} == {("tune", 3000, 3000)}
    for row in card["thresholds"]:
        assert ("threshold" in row) == (row["risk"] in shown)
        if row["risk"] in shown:
            entry = shown[row["risk"]]
            assert isinstance(entry, Selective)
            assert entry.bound <= entry.risk
            assert row["test"]["low"] <= row["test"]["risk"] <= row["test"]["high"]
            assert row["test"]["coverage"] == pytest.approx(entry.coverage, abs=0.05)
        else:
            assert row["reason"] in (NOT_ENOUGH, TOO_OFTEN_WRONG)
    assert 0.2 in shown


def test_too_few_labelled_records_leave_a_variant_as_it_is():
    judged = judge_selective(outputs(20), outputs(100, seed=1))
    assert judged.fields == {"temperatures": {}, "selective": ()}
    assert judged.card == {"selective": {"reason": NOT_ENOUGH}}


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A trained bundle, and labelled records of it."""
    from mmray.engine import Engine
    from mmray.evaluation.records import Records

    folder = tmp_path_factory.mktemp("linear")
    bundle = linear_bundle(folder / "bundle")
    shards = [str(write_labelled(folder / "shards", rows=160))]
    return (
        bundle,
        Engine(bundle.graph("fp32"), provider="cpu"),
        Records(shards, bundle, {"train": 1, "tune": 1, "test": 160}).load("test"),
    )


def test_a_bundle_answers_by_the_thresholds_that_were_found(linear, tmp_path):
    from mmray.predictor import Predictor

    bundle, engine, records = linear
    found = run_outputs(engine, records, batch_rows=8)
    judged = judge_selective(found, found)
    assert len(judged.fields["temperatures"]) == 7
    card = {"variants": {"fp32": judged.card}}
    extended = extend_bundle(
        tmp_path / "b", bundle, {}, scorecard=card, origin={}, found={"fp32": judged.fields}
    )
    assert extended.scorecard == card
    assert extended.entry("fp32").selective == judged.fields["selective"]
    risk = judged.fields["selective"][0].risk
    table = Predictor(extended, variant="fp32", provider="cpu", abstain=risk)(records.tensors)
    answered = ~np.array(table["abstained"].to_pylist())
    assert answered.mean() == pytest.approx(judged.fields["selective"][0].coverage, abs=0.01)
    wrong = [LABELS[k] != label for k, label in zip(records.labels, table["label"].to_pylist(), strict=True)]
    assert np.mean(np.array(wrong)[answered]) <= risk
    assert least_score(extended, "fp32", risk) == judged.fields["selective"][0].threshold


def test_a_cascade_is_judged_by_the_scores_that_a_run_of_it_gives(linear, tmp_path):
    from mmray.predictor import Predictor

    bundle, _, records = linear
    temperatures = {"image+text+audio": 1.5}
    made = cascaded(tmp_path / "b", 0.8, parent=bundle, temperature=2.0)
    entry = made.entry("cascade")
    engine = StagedEngine(
        entry.cascade,
        [made.graph_files(stage.file)[0] for stage in entry.cascade.stages],
        bundle.spec.modalities,
        temperatures,
    )
    outputs = run_outputs(engine, records, batch_rows=8)
    judged = judge_selective(outputs, outputs, already=temperatures)
    assert judged.fields["temperatures"] == temperatures
    assert set(judged.card["calibration"]) == {"split", "records", "groups", "after"}
    again = tmp_path / "again"
    found = {"cascade": judged.fields}
    extend_bundle(again, made, {}, scorecard=made.scorecard, origin={}, found=found)
    predict = Predictor(type(made).open(again), variant="cascade", provider="cpu")
    scores = np.array(predict(records.tensors)["scores"].to_pylist())
    whole = outputs.scores[outputs.whole]
    assert np.sort(scores.max(axis=1)) == pytest.approx(np.sort(whole.max(axis=1)), abs=1e-5)
