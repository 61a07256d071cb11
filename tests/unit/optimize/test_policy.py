"""Exits are as early as the evidence allows, and no earlier."""

import numpy as np
import pytest

from mmray.bounds import lower_bound, upper_bound
from mmray.errors import InputError
from mmray.optimize.evidence import Evidence
from mmray.optimize.policy import Budget, choose_policy

COSTS = {"image": 11.0, "text": 2.0, "audio": 5.0}
MODALITIES = ("image", "text", "audio")
ONE_POINT = Budget(0.01, None, 0.95)


def evidence(rows=2000, easy=0.7, wrong=0.0, seed=0, classes=5, groups=None):
    """Text settles the easy records, of which a share is surely wrong; the rest takes all modalities."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=rows)
    is_easy = random.random(rows) < easy
    misled = is_easy & (random.random(rows) < wrong)

    def logits(sure, answer):
        values = random.normal(0, 0.1, (rows, classes)).astype(np.float32)
        guess = random.integers(classes, size=rows)
        values[np.arange(rows), np.where(sure, answer, guess)] += np.where(sure, 8.0, 0.3)
        return values

    early = logits(is_easy, np.where(misled, (labels + 1) % classes, labels))
    full = logits(np.ones(rows, bool), labels)
    names = ["text", "audio", "image", "image+text", "image+audio", "text+audio", "image+text+audio"]
    by_subset = dict.fromkeys(names, early) | {
        "audio": logits(np.zeros(rows, bool), labels),
        "image+text+audio": full,
    }
    return Evidence(
        MODALITIES,
        np.ones((rows, 3), bool),
        labels,
        np.arange(rows).astype(str) if groups is None else groups,
        by_subset,
    )


def test_what_the_cheapest_modality_settles_leaves_after_it():
    policy = choose_policy(evidence(), COSTS, ONE_POINT)
    assert policy.stages[0] == ("text",)
    assert policy.chosen.left[0] == pytest.approx(0.7, abs=0.03)
    assert policy.chosen.harmed < 12
    assert policy.chosen.bound <= 0.01
    assert policy.chosen.speedup == pytest.approx(18 / (18 - policy.chosen.left[0] * 16), abs=0.05)
    assert policy.exits[0]["text"].threshold == policy.chosen.threshold


def test_an_exit_that_saves_next_to_nothing_gets_no_stage():
    """Here sound adds nothing that text did not settle."""
    assert choose_policy(evidence(), COSTS, ONE_POINT).stages == (("text",), ("audio", "image"))


def test_sure_but_wrong_answers_close_the_exit():
    policy = choose_policy(evidence(wrong=0.05), COSTS, ONE_POINT)
    assert policy.chosen.bound <= 0.01
    assert policy.chosen.early < 0.2


def test_a_larger_budget_lets_more_leave():
    early = [
        choose_policy(evidence(wrong=0.03), COSTS, Budget(b, None, 0.95)).chosen.early for b in (0.01, 0.05)
    ]
    assert early[0] < early[1]


def test_a_lower_threshold_is_not_taken_beyond_one_that_breaks_the_budget():
    policy = choose_policy(evidence(wrong=0.01), COSTS, ONE_POINT)
    strict = [point for point in policy.curve if point.threshold >= policy.chosen.threshold]
    assert all(point.bound <= 0.01 for point in strict)


def test_a_budget_of_agreement_counts_every_decision_that_differs():
    made = evidence(wrong=0.02)
    unlabelled = Evidence(made.modalities, made.present, np.full(2000, -1), made.groups, made.logits)
    policy = choose_policy(unlabelled, COSTS, Budget(None, 0.05, 0.95))
    assert policy.chosen.agreement >= 0.95
    assert policy.chosen.early > 0.5
    with pytest.raises(InputError, match="needs a known label of every record"):
        choose_policy(unlabelled, COSTS, ONE_POINT)


def test_too_little_evidence_is_refused_with_the_figures():
    with pytest.raises(InputError, match=r"100 groups of records cannot show that at most 1\.00% .* 2\.95%"):
        choose_policy(evidence(rows=100), COSTS, ONE_POINT)


def test_records_of_one_group_count_as_one():
    groups = np.repeat(np.arange(100), 20).astype(str)
    with pytest.raises(InputError, match="100 groups"):
        choose_policy(evidence(groups=groups), COSTS, ONE_POINT)


def test_the_evidence_survives_the_bundle():
    made = evidence(rows=10)
    again = Evidence.of_arrays(made.to_arrays())
    assert again.modalities == made.modalities
    assert (again.labels == made.labels).all()
    assert all((again.logits[name] == made.logits[name]).all() for name in made.logits)


@pytest.mark.parametrize(("happened", "trials"), [(0, 300), (3, 500), (40, 50)])
def test_bounds_hold_as_often_as_they_say(happened, trials):
    """At the bound, as few (or as many) happen with a chance of 5 %."""
    from scipy.stats import binom

    assert binom.cdf(happened, trials, upper_bound(happened, trials, 0.95)) == pytest.approx(0.05)
    if happened:
        low = lower_bound(happened, trials, 0.95)
        assert binom.sf(happened - 1, trials, low) == pytest.approx(0.05)


def test_bounds_at_the_ends():
    assert (lower_bound(0, 10, 0.95), upper_bound(10, 10, 0.95)) == (0.0, 1.0)
