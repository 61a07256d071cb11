"""The scorecard's arithmetic."""

import numpy as np
import pytest
from support.examples import clusters

from mmray.heads.scores import cross_validate, score, score_subsets
from mmray.heads.train import train_head
from mmray.schema import subsets

ALL = (True, True, True)


def test_accuracies_by_hand():
    examples = clusters(12)  # cat cat crow crow dog dog, twice
    predicted = examples.labels.copy()
    predicted[[0, 1, 2]] = "dog"
    found = score(examples, predicted, ALL)
    assert found.records == 12
    assert found.accuracy == pytest.approx(9 / 12)
    assert found.balanced_accuracy == pytest.approx((2 / 4 + 3 / 4 + 4 / 4) / 3)


def test_the_standard_error_counts_groups_and_not_records():
    """All wrong answers in pairs of one group: as uncertain as half the records, each alone."""
    examples = clusters(200)
    predicted = examples.labels.copy()
    predicted[:40] = "none"
    expected = np.sqrt(0.2 * 0.8 / 100)
    assert score(examples, predicted, ALL).standard_error == pytest.approx(expected)


def test_only_records_with_the_whole_subset_count():
    examples = clusters(120, missing=0.4)
    has = examples.present[:, 0] & examples.present[:, 2]
    predicted = np.where(has, examples.labels, "none")
    found = score(examples, predicted, (True, False, True))
    assert (found.records, found.accuracy) == (has.sum(), 1.0)


def test_a_subset_that_no_record_has_is_left_out():
    examples = clusters(120)
    examples.present[:, 2] = examples.present[:, 1] = False
    examples.present[:60, 1] = True
    assert set(score_subsets(train_head(examples), examples)) == {"image", "text", "image+text"}


def test_cross_validation_scores_each_record_without_its_group():
    """Labels that only the group tells cannot be learned; a leak between the folds would show."""
    examples = clusters(240, noise=(3.0, 3.0, 3.0))
    random = np.random.default_rng(0)
    shuffled = random.permutation(np.repeat(["cat", "crow", "dog"], 40)).repeat(2)
    marks = random.normal(size=(120, 24)).repeat(2, axis=0)  # both records of a group look the same
    examples.labels[:] = shuffled
    for values in examples.features.values():
        values[:] = marks
    found = cross_validate(examples, folds=4, seed=0)
    assert len(found) == len(subsets(3))
    for name, each in found.items():
        assert each.accuracy == pytest.approx(1 / 3, abs=4 * each.standard_error), name
