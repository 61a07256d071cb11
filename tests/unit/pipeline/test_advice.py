"""What more CPUs would give a run of the split topology."""

import pytest

from mmray.pipeline.advice import advise


@pytest.mark.parametrize(
    ("task_s", "device_s", "cpus", "actors", "more", "speedup"),
    [
        (0.010, 0.005, 1, 1, 2, 2.0),  # two CPUs would feed the device with nothing to spare
        (0.010, 0.004, 1, 1, 2, 2.5),  # three feed more than it takes
        (0.010, 0.002, 8, 4, 14, 2.5),  # of 20 CPUs a tenth to spare
        (0.004, 0.010, 1, 1, 0, 1.0),
        (0.010, 0.0098, 1, 1, 0, 1.0),  # two percent are no advice
    ],
)
def test_the_fewest_cpus_that_feed_the_devices_are_asked_for(task_s, device_s, cpus, actors, more, speedup):
    advice = advise(task_s, device_s, cpus, actors)
    assert advice.cpus == more
    assert advice.speedup == pytest.approx(speedup)


def test_it_is_said_in_one_line():
    assert str(advise(0.010, 0.002, 2, 2)) == (
        "decode-bound: CPUs prepare 200 rows/s, devices take 1,000; +9 CPUs would give at most \u00d75.0 "
        "(6 CPUs per device balance)"
    )
    assert "+1 CPU would give at most \u00d71.7" in str(advise(0.010, 0.006, 1, 1))
    assert str(advise(0.001, 0.006, 1, 1)) == "device-bound: CPUs prepare 1,000 rows/s, devices take 167"


@pytest.mark.parametrize(("task_s", "device_s"), [(0, 0.1), (0.1, 0)])
def test_where_nothing_was_measured_nothing_is_advised(task_s, device_s):
    assert advise(task_s, device_s, 2, 1) is None
