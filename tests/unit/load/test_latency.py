"""Quantiles of latencies with the interval that they lie in, and what counts as a latency."""

import math

import numpy as np
import pytest

from mmray.load.latency import LEAST_REQUESTS, Sent, interval, quantile, step_of


def test_an_interval_covers_the_true_quantile_as_often_as_it_says():
    """3,000 samples of 400 exponential values: 95 % of the intervals hold the true .9 quantile, no fewer."""
    rng = np.random.default_rng(0)
    true = -math.log(0.1)
    samples = np.sort(rng.exponential(size=(3000, 400)), axis=1)
    ends = [interval(sample.tolist(), 0.9, 0.95) for sample in samples]
    covered = np.mean([low <= true <= high for low, high in ends])
    assert 0.945 < covered < 0.975  # the binomial has steps, so a little more than 95 % is expected


def test_too_few_values_leave_the_interval_open():
    few, enough = range(LEAST_REQUESTS - 1), range(LEAST_REQUESTS)
    assert interval(few, 0.99, 0.95)[1] == math.inf
    assert interval(enough, 0.99, 0.95)[1] == LEAST_REQUESTS - 1
    assert interval(range(2), 0.01, 0.95)[0] == 0.0


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_quantile_is_a_value_that_was_measured(share, value):
    assert quantile(range(1, 101), share) == value


def sent(latency_s, status=200, due_s=0.0):
    return Sent(due_s, due_s, due_s + latency_s, status)


def test_a_refusal_counts_as_an_answer_that_never_came():
    """Ten refusals among a thousand fast answers are within the 1 %; with its interval that does not hold."""
    fast = [sent(0.01, due_s=i / 100) for i in range(1000)]
    good = step_of(fast, 100.0, 0.1)
    assert (good.p50_ms, good.holds(10.1)) == (pytest.approx(10), True)
    assert good.answered_per_s == pytest.approx(100)
    refused = step_of(fast[:990] + [sent(0.001, 503, due_s=i / 100) for i in range(990, 1000)], 100.0, 0.1)
    assert refused.p99_ms == pytest.approx(10)
    assert not refused.holds(1e9)
    assert refused.statuses == {200: 990, 503: 10}
    assert refused.to_json()["p99_high_ms"] is None
