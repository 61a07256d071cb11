"""Temperatures are found again, and what scores say is compared with what is right."""

import numpy as np
import pytest

from mmray.cascade import softmax
from mmray.evaluation.outputs import Outputs
from mmray.evaluation.temperatures import calibration_error, fit_temperature, fit_temperatures


def drawn(logits, random):
    """Labels that are as likely as the softmax of the logits says."""
    chances = softmax(logits)
    return (chances.cumsum(axis=1) > random.random((len(logits), 1))).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (20_000, 6)).astype(np.float32)
    assert fit_temperature(logits * temperature, drawn(logits, random)) == pytest.approx(
        temperature, rel=0.05
    )


def outputs(rows=6000, seed=0, **changes):
    """A model that is too sure of pictures alone, and not sure enough of both."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, 5)).astype(np.float32)
    both = np.arange(rows) % 2 == 0
    values = {
        "scores": softmax(logits * np.where(both, 0.5, 3.0)[:, None].astype(np.float32)),
        "present": np.stack([np.ones(rows, bool), both], axis=1),
        "whole": np.ones(rows, bool),
        "labels": drawn(logits, random),
        "groups": np.arange(rows).astype(str),
        "modalities": ("image", "text"),
        "classes": tuple("abcde"),
    }
    return Outputs(**(values | changes))


def test_each_set_of_modalities_gets_a_temperature_from_scores_alone():
    found = fit_temperatures(outputs())
    assert found == {"image": pytest.approx(3.0, rel=0.1), "image+text": pytest.approx(0.5, rel=0.1)}


def test_a_set_with_few_labelled_records_gets_none():
    made = outputs(rows=200)
    labels = made.labels.copy()
    labels[1::2][29:] = -1
    assert set(fit_temperatures(outputs(rows=200, labels=labels))) == {"image+text"}


def test_a_model_without_labels_or_whose_scores_do_not_sum_to_one_has_no_temperature():
    assert fit_temperatures(outputs(rows=200, classes=())) == {}
    assert fit_temperatures(outputs(rows=200, scores=np.full((200, 5), 0.9, np.float32))) == {}


def test_scores_that_are_as_often_right_as_they_say_have_little_error():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (50_000, 5)).astype(np.float32)
    labels = drawn(logits, random)
    honest = calibration_error(softmax(logits), labels)
    bold = calibration_error(softmax(3 * logits), labels)
    assert honest.ece < 0.01
    assert bold.ece > 0.1
    assert bold.log_loss > honest.log_loss


def test_the_error_is_the_gap_within_each_bin():
    """Half the records say .6 and are all right, half say .9 and are all wrong."""
    scores = np.repeat(np.array([[0.6, 0.4], [0.9, 0.1]], np.float32), 50, axis=0)
    labels = np.repeat([0, 1], 50)
    found = calibration_error(scores, labels, bins=2)
    assert found.ece == pytest.approx((0.4 + 0.9) / 2)
    assert found.log_loss == pytest.approx(-(np.log(0.6) + np.log(0.1)) / 2, rel=1e-5)
