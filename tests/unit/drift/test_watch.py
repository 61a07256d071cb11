"""A watch seldom raises a false alarm, soon a right one, and says what differs."""

import numpy as np
import pytest
from support.drift import by_hand, counts, drawn

from mmray.drift import Watch
from mmray.drift.watch import LEVELS, stability_index


def test_without_a_shift_fewer_watches_than_alpha_ever_raise_an_alarm():
    """The reference is itself a sample; its error is in all 80 windows alike."""
    random, alpha, watches = np.random.default_rng(0), 0.2, 150
    raised = 0
    for _ in range(watches):
        sample = drawn(random, 400)
        watch = Watch(by_hand(tuple(sample[:3].tolist()), tuple(sample[3:].tolist())), alpha, window=64)
        for _ in range(80):
            watch.add(drawn(random, 64))
        raised += watch.alarm is not None
    assert 0 < raised <= alpha * watches


@pytest.mark.parametrize(
    ("shares", "sketch", "event", "known", "found"),
    [
        ({"kinds": (0.25, 0.75, 0)}, "kind", "cat", 0.75, 0.25),
        ({"kinds": (0.7, 0.2, 0.1)}, "kind", "other", 0.0, 0.1),
        ({"sizes": (0.55, 0.15, 0.15, 0.15)}, "size", "at most 0.25", 0.25, 0.55),
        ({"sizes": (0.2, 0.2, 0.1, 0.5)}, "size", "at most 0.75", 0.75, 0.5),
    ],
)
def test_an_alarm_names_what_differs_most_and_both_shares(shares, sketch, event, known, found):
    random, watch = np.random.default_rng(0), Watch(by_hand())
    while not watch.alarm:
        watch.add(drawn(random, 32, **shares))
        assert watch.read().records < 1000
    alarm = watch.alarm
    assert (alarm.sketch, alarm.event) == (sketch, event)
    assert alarm.reference == pytest.approx(known)
    assert alarm.found == pytest.approx(found, abs=0.12)
    assert alarm.false_alarm < 0.01
    assert f"{sketch} {event}" in str(alarm)


def test_a_shift_after_many_windows_is_told_as_well():
    random, watch = np.random.default_rng(1), Watch(by_hand())
    for _ in range(300):
        watch.add(drawn(random, 128))
    assert watch.alarm is None
    for _ in range(8):
        watch.add(drawn(random, 128, kinds=(0.3, 0.7, 0)))
    assert watch.alarm is not None


def test_a_small_shift_is_told_by_long_windows():
    """In 128 records a share of .65 instead of .75 cannot be told; in some thousands it can."""
    random, watch = np.random.default_rng(2), Watch(by_hand((3000, 1000, 0), (1000,) * 4))
    while not watch.alarm and watch.read().records < 20_000:
        watch.add(drawn(random, 128, kinds=(0.68, 0.32, 0)))
    assert watch.alarm is not None
    assert watch.alarm.window > 128


def test_two_windows_of_a_length_make_one_of_twice_the_length_and_each_is_tested():
    random, watch = np.random.default_rng(0), Watch(by_hand(), alpha=1e-9)
    windows = 2**LEVELS + 5
    for _ in range(windows):
        watch.add(drawn(random, 128))
    assert watch.tests == sum(windows >> level for level in range(LEVELS))


def test_few_records_are_tested_once_at_the_end():
    watch = Watch(by_hand())
    watch.add(counts((0, 40, 0), (10, 10, 10, 10)))
    assert watch.tests == 0
    watch.finish()
    assert (watch.tests, watch.alarm.sketch, watch.alarm.window) == (1, "kind", 40)


def test_no_records_are_no_alarm():
    watch = Watch(by_hand())
    watch.finish()
    assert (watch.alarm, watch.tests, watch.read().psi) == (None, 0, {})


def test_what_has_occurred_in_no_record_is_not_compared():
    """As the lengths of sounds, where none has sound."""
    watch = Watch(by_hand())
    watch.add(counts((300, 100, 0), (0, 0, 0, 0)))
    assert watch.alarm is None
    assert set(watch.read().psi) == {"kind"}


def test_the_stability_index_tells_how_much_and_is_about_its_known_mean_without_a_shift():
    random = np.random.default_rng(0)
    old, new = random.multinomial(2000, [0.1] * 10, 400), random.multinomial(1000, [0.1] * 10, 400)
    found = np.mean([stability_index(a, b) for a, b in zip(old, new, strict=True)])
    assert found == pytest.approx(9 * (1 / 2000 + 1 / 1000), rel=0.1)
    assert stability_index(np.array([50, 50]), np.array([10, 90])) > 0.8
    assert stability_index(np.array([50, 50]), np.array([500, 500])) < 0.001


def test_what_is_found_can_be_written_as_json():
    watch = Watch(by_hand())
    watch.add(counts((0, 400, 0), (100, 100, 100, 100)))
    told = watch.read().to_json()
    assert told["records"] == 400
    assert told["alarm"]["event"] in ("cat", "dog")
    assert told["warning"].startswith("these records are not like those of the tune split")
    assert set(told["psi"]) == {"kind", "size"}
