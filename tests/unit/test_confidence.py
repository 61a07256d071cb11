"""Scores are made honest by a temperature, and without a score that is high enough there is no label."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.abstaining import abstaining
from support.bundles import LABELS, records_table, small_bundle
from support.cascades import cascaded, mixed_records

from mmray.cascade import softmax
from mmray.confidence import calibrated, least_score, tempered
from mmray.errors import ConfigError
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import OutputColumns

SURE = {0.05: 0.9, 0.2: 0.4}


def predicted(bundle, records=None, **options):
    tensors = open_preprocessor(bundle)(mixed_records() if records is None else records)
    return Predictor(bundle, provider="cpu", **{"variant": "fp32"} | options)(tensors)


def scores_of(table):
    return np.array(table["scores"].to_pylist(), np.float32)


@given(
    arrays(np.float32, (5, 4), elements=st.floats(-20, 20, width=32)),
    st.floats(0.14, 7.0),
)
def test_scores_are_tempered_as_if_the_logits_had_been(logits, temperature):
    found = tempered(softmax(logits), temperature)
    assert found == pytest.approx(softmax(logits / np.float32(temperature)), abs=1e-5)
    assert found.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_a_score_of_nothing_and_one_of_everything_stay():
    assert tempered(np.array([[0, 1.0, 0]]), 3.0).tolist() == [[0, 1, 0]]


def test_each_set_of_modalities_has_its_own_temperature():
    scores = softmax(np.array([[2.0, 0, 0]] * 3, np.float32))
    present = np.array([[True, False], [True, True], [False, True]])
    found = calibrated(scores, present, ("image", "text"), {"image": 2.0, "image+text": 0.5})
    assert found[0] == pytest.approx(softmax(np.array([[1.0, 0, 0]]))[0])
    assert found[1] == pytest.approx(softmax(np.array([[4.0, 0, 0]]))[0])
    assert (found[2] == scores[2]).all()


def test_a_prediction_has_calibrated_scores_and_the_same_label(tmp_path):
    raw = predicted(small_bundle())
    names = {"+".join(m) for m in raw["modalities"].to_pylist()}
    assert len(names) > 4
    warm = predicted(abstaining(tmp_path / "b", {}, temperatures=dict.fromkeys(names, 2.0)))
    assert scores_of(warm) == pytest.approx(tempered(scores_of(raw), 2.0), abs=1e-6)
    assert warm["score"].to_pylist() == pytest.approx(scores_of(warm).max(axis=1))
    assert warm["label"].equals(raw["label"])
    assert "abstained" not in warm.column_names


def test_without_a_high_enough_score_there_is_no_label(tmp_path):
    plain = predicted(small_bundle())
    middle = float(np.median(plain["score"].to_numpy()))
    found = predicted(abstaining(tmp_path / "b", {0.05: middle}), abstain=0.05)
    unsure = plain["score"].to_numpy() < middle
    assert 10 < unsure.sum() < 38
    assert found["abstained"].to_pylist() == unsure.tolist()
    assert [label is None for label in found["label"].to_pylist()] == unsure.tolist()
    for column in ("score", "scores", "modalities"):
        assert found[column].equals(plain[column])


def test_a_rejected_record_has_not_abstained(tmp_path):
    bundle = abstaining(tmp_path / "b", SURE)
    table = predicted(bundle, records_table([{"image": b"no picture"}, {"text": b"a cat"}]), abstain=0.05)
    assert table["abstained"].is_valid().to_pylist() == [False, True]
    assert table["error"].is_valid().to_pylist() == [True, False]


def test_early_answers_of_a_cascade_are_as_sure_as_their_exit_says(tmp_path):
    bundle = cascaded(tmp_path / "b", 0.3, temperature=2.0)
    found = predicted(bundle, variant="cascade")
    early = np.array(found["stage"].to_pylist()) == 1
    assert 0 < early.sum() < len(early)
    assert found["score"].to_pylist() == pytest.approx(found["confidence"].to_pylist(), abs=1e-6)
    raw = scores_of(predicted(cascaded(tmp_path / "raw", 0.0), variant="cascade"))
    assert scores_of(found)[early] == pytest.approx(tempered(raw[early], 2.0), abs=1e-6)


@pytest.mark.parametrize(
    ("abstain", "asks", "expected"),
    [
        (0.05, None, 0.9),
        (0.2, None, 0.4),
        (0.1, None, 0.9),  # what keeps within .05 keeps within .1
        ("auto", None, None),
        ("auto", 0.2, 0.4),
        (0.05, 0.2, 0.9),
        ("never", 0.2, None),
    ],
)
def test_the_run_s_risk_counts_before_the_bundle_s(abstain, asks, expected, tmp_path):
    bundle = abstaining(tmp_path / "b", SURE, asks=asks)
    assert least_score(bundle, "fp32", abstain) == expected
    assert least_score(bundle, "auto", abstain) is None  # not decided yet
    assert Predictor(bundle, variant="fp32", provider="cpu", abstain=abstain).columns == OutputColumns(
        classes=len(LABELS), least_score=expected
    )


@pytest.mark.parametrize(
    ("thresholds", "variant", "message"),
    [
        (SURE, "fp32", "no threshold for a risk of 0.01 in its variant 'fp32'; ask for 0.05, 0.2 or more"),
        (SURE, "auto", "no threshold for a risk of 0.01 in any of its variants; ask for 0.05, 0.2 or more"),
        ({}, "fp32", "in its variant 'fp32'; `mmray optimize` finds them"),
    ],
)
def test_a_risk_that_the_bundle_cannot_support_is_refused_with_those_that_it_can(
    thresholds, variant, message, tmp_path
):
    bundle = abstaining(tmp_path / "b", thresholds)
    with pytest.raises(ConfigError) as e:
        least_score(bundle, variant, 0.01)
    assert message in str(e.value)
