"""Bounds that hold where records depend on each other, and where nothing was seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.stats.bounds import lower_bound, upper_bound
from mmray.stats.intervals import Clusters, holm, least_groups

checked = settings(deadline=None, max_examples=40)  # a busy machine is no fault

CONFIDENCES = st.floats(0.5, 0.9999)
BETWEEN = 1e-6  # how closely a bound is searched for
CLOSE = 5e-5  # how far it may be on the wrong side of the exact one


@st.composite
def samples(draw):
    """Groups [N] and values [N], a share or a difference."""
    sizes = draw(st.lists(st.integers(1, 50), min_size=1, max_size=30))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    latent = random.random(len(sizes))[groups] if draw(st.booleans()) else random.random(len(groups))
    rate = draw(st.sampled_from([0, 0.002, 0.03, 0.3, 0.97, 1]))
    share = latent < rate
    if draw(st.booleans()):
        return groups, share
    return groups, share - (random.random(len(groups)) < draw(st.sampled_from([0, 0.01, 0.5, 1]))) * 1.0


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("groups", [1, 5, 300, 3000])
def test_of_single_records_the_bound_of_a_share_is_the_exact_one_or_hardly_wider(groups, confidence):
    clusters = Clusters(np.arange(groups))
    for happened in {0, 1, groups // 10, groups // 2, groups - 1, groups}:
        values = np.arange(groups) < happened
        exact = upper_bound(happened, groups, confidence)
        assert exact - CLOSE <= clusters.upper(values, confidence) <= 1.006 * exact
        exact = lower_bound(happened, groups, confidence)
        assert 1 - 1.006 * (1 - exact) <= clusters.lower(values, confidence) <= exact + CLOSE


def test_what_was_not_seen_may_happen_all_the_same_and_to_whole_groups():
    nothing = np.zeros(100, bool)
    alone, in_tens = Clusters(np.arange(100)), Clusters(np.arange(100) // 10)
    assert alone.upper(nothing, 0.95) == pytest.approx(1 - 0.05 ** (1 / 100), rel=0.006)
    assert in_tens.upper(nothing, 0.95) == pytest.approx(1 - 0.05 ** (1 / 10), rel=0.006)
    assert alone.lower(nothing, 0.95) == 0
    losses_and_gains = nothing.astype(float)
    assert alone.lower(losses_and_gains, 0.95) == -alone.upper(nothing, 0.95)


def test_few_large_groups_among_many_small_ones_leave_more_open_than_groups_of_one_size():
    unequal = np.concatenate([np.arange(95), np.repeat(np.arange(95, 100), 50)])
    equal = np.arange(len(unequal)) // 4
    bounds = [Clusters(g).upper(np.zeros(len(unequal), bool), 0.95) for g in (unequal, equal)]
    assert bounds[0] > 5 * bounds[1]


def test_what_happens_to_whole_groups_is_less_certain_than_what_happens_to_single_records():
    groups = np.arange(2000) // 20
    whole, single = groups % 10 == 0, np.arange(2000) % 10 == 0
    clusters = Clusters(groups)
    assert clusters.count == 100
    assert clusters.upper(whole, 0.95) > clusters.upper(single, 0.95) > 0.1
    assert clusters.lower(whole, 0.95) < clusters.lower(single, 0.95) < 0.1


def test_without_records_everything_is_possible():
    empty = Clusters(np.array([], str))
    assert empty.interval(np.array([], bool), 0.95) == (0, 1)
    assert empty.interval(np.array([], float), 0.95) == (-1, 1)


@pytest.mark.parametrize(
    ("values", "confidence"),
    [([0.0, 1.1], 0.9), ([0.0, np.nan], 0.9), ([0.0], 0.9), ([0.0, 1.0], 1.0), ([0.0, 1.0], 0.3)],
)
def test_values_out_of_range_or_of_other_records_are_refused(values, confidence):
    with pytest.raises(ValueError, match=r"values|confidence"):
        Clusters(np.arange(2)).upper(np.array(values), confidence)


@checked
@given(samples(), CONFIDENCES)
def test_bounds_lie_around_the_mean_and_within_what_is_possible(sample, confidence):
    groups, values = sample
    low, high = Clusters(groups).lower(values, confidence), Clusters(groups).upper(values, confidence)
    assert low <= values.mean() + 1e-12
    assert high >= values.mean() - 1e-12
    assert high <= 1
    assert low >= (0 if values.dtype == bool else -1)


@checked
@given(samples(), CONFIDENCES, CONFIDENCES)
def test_more_confidence_never_gives_a_narrower_bound(sample, one, other):
    groups, values = sample
    clusters, (less, more) = Clusters(groups), sorted((one, other))
    assert clusters.upper(values, less) <= clusters.upper(values, more) + BETWEEN
    assert clusters.lower(values, less) >= clusters.lower(values, more) - BETWEEN
    assert clusters.interval(values, less) == (
        clusters.lower(values, (1 + less) / 2),
        clusters.upper(values, (1 + less) / 2),
    )


@checked
@given(samples(), st.integers(0, 2**32))
def test_neither_the_order_of_records_nor_the_names_of_groups_matter(sample, seed):
    groups, values = sample
    order = np.random.default_rng(seed).permutation(len(groups))
    names = np.char.add("group ", (7 * groups[order] % 101).astype(str))
    bound = Clusters(groups).upper(values, 0.95)
    assert Clusters(names).upper(values[order], 0.95) == pytest.approx(bound, abs=BETWEEN)


@checked
@given(samples(), st.integers(2, 5))
def test_records_that_are_there_several_times_are_no_more_evidence(sample, times):
    groups, values = sample
    copied = Clusters(np.tile(groups, times)).interval(np.tile(values, times), 0.9)
    assert copied == pytest.approx(Clusters(groups).interval(values, 0.9), abs=BETWEEN)


@checked
@given(samples())
def test_a_record_that_goes_wrong_never_lowers_the_bound(sample):
    groups, values = sample
    worse = np.maximum(values, np.arange(len(values)) % 7 == 0)
    assert Clusters(groups).upper(worse, 0.95) >= Clusters(groups).upper(values, 0.95) - BETWEEN


@pytest.mark.parametrize("rate", [0.01, 0.1])
@pytest.mark.parametrize("by_size", [False, True], ids=["hit evenly", "large ones hit more"])
def test_the_bounds_hold_where_whole_groups_go_wrong(rate, by_size):
    """By chance a bound of 95 % may miss in 9 of 100; percentiles of a bootstrap miss in 11 to 66."""
    random = np.random.default_rng(0)
    held = np.zeros((200, 2))
    for simulation in held:
        sizes = random.integers(1, 51, 60)
        factor = sizes * 51 / 2 / (51 * 101 / 6) if by_size else np.ones(60)
        groups = np.repeat(np.arange(60), sizes)
        lost = np.repeat(random.random(60) < rate * factor, sizes)
        gained = ~lost & np.repeat(random.random(60) < rate, sizes)
        clusters = Clusters(groups)
        simulation[0] = clusters.upper(lost, 0.95) >= rate
        simulation[1] = clusters.lower(gained * 1.0 - lost, 0.95) <= 0  # the truth is rate^2 at most
    assert (held.mean(axis=0) >= 0.91).all()


@pytest.mark.parametrize(
    ("share", "confidence", "groups"), [(0.05, 0.95, 59), (0.5, 0.8, 3), (0.1, 0.999, 66)]
)
def test_the_least_number_of_groups_is_the_one_that_shows_a_share_if_nothing_is_seen(
    share, confidence, groups
):
    assert least_groups(share, confidence) == groups
    few = Clusters(np.arange(groups - 1)).upper(np.zeros(groups - 1, bool), confidence)
    enough = Clusters(np.arange(groups)).upper(np.zeros(groups, bool), confidence)
    assert enough <= share < few


def test_no_number_of_groups_shows_that_something_never_happens():
    with pytest.raises(ValueError, match="above 0"):
        least_groups(0.0, 0.95)
    assert least_groups(1.0, 0.95) == 1


def shows(p):
    """A claim with that p-value."""
    return lambda confidence: p <= 1 - confidence


def test_holm_asks_less_of_the_others_once_a_claim_is_shown():
    p = {"a": 0.01, "b": 0.013, "c": 0.02, "d": 0.04}  # .0125, .0167, .025, .05
    assert holm({name: shows(value) for name, value in p.items()}, 0.95) == {"a", "b", "c", "d"}
    assert holm({name: shows(value) for name, value in (p | {"a": 0.014}).items()}, 0.95) == set()
    assert holm({name: shows(value) for name, value in (p | {"c": 0.03}).items()}, 0.95) == {"a", "b"}
    assert holm({}, 0.95) == set()


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.5, 0.99))
def test_holm_is_the_step_down_of_the_paper(p, confidence):
    expected = set()
    for rank, claim in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[claim] > 1 - (1 - (1 - confidence) / (len(p) - rank)):
            break
        expected.add(str(claim))
    assert holm({str(n): shows(value) for n, value in enumerate(p)}, confidence) == expected


def test_holm_keeps_the_error_of_the_family():
    """Twelve claims, nine of them false: none of those is shown in 95 of 100 families."""
    random = np.random.default_rng(0)
    wrong = 0
    for p in random.random((2000, 12)):
        p[:3] = 0.0001  # true ones, that make it easier for the others
        shown = holm({str(n): shows(value) for n, value in enumerate(p)}, 0.95)
        assert {"0", "1", "2"} <= shown
        wrong += len(shown) > 3
    assert 0.03 < wrong / 2000 < 0.06
