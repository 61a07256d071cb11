"""The clock of one stream against another's is found from events that both saw, and its error is told."""

import numpy as np
import pytest

from mmray.align.clock import Clock, Search, Train, fit_clock
from mmray.errors import InputError

NOBODY = np.zeros(0)


def scene(seed, *, clock, seconds=300.0, rate=0.5, jitter_s=0.004, fps=25, missed=0.15, false=0.3):
    """Events as a camera and a recorder see them, each missing some and seeing some that were not there.

    The recorder's clock is the common one; `clock` is the camera's. Returns two trains, and the times that
    the camera stamps on moments of the scene, with those moments.
    """
    random = np.random.default_rng(seed)
    true = np.sort(random.uniform(0, seconds, int(rate * seconds)))

    def seen():
        some = true[random.random(len(true)) >= missed]
        return np.sort(np.r_[some, random.uniform(0, seconds, int(false * len(true)))])

    heard = np.floor(seen() / 0.01) * 0.01 + 0.005
    frames = (np.floor(clock.from_common(seen()) * fps) + 0.5) / fps  # half-way between two frames
    moments = random.uniform(0, seconds, 5_000)
    stamps = clock.from_common(moments) + random.normal(0, jitter_s, len(moments))
    frames = frames + random.normal(0, jitter_s, len(frames))
    return Train(frames, 1 / fps), Train(heard, 0.01), stamps, moments


def test_a_clock_and_its_inverse():
    clock = Clock(3.5, 200)
    assert clock.to_common(1_000.0) == pytest.approx(1_003.7)
    assert clock.from_common(clock.to_common(1_000.0)) == pytest.approx(1_000.0)
    assert np.allclose(clock.from_common(clock.to_common(np.arange(5.0))), np.arange(5.0))


@pytest.mark.parametrize(
    "clock", [Clock(), Clock(7.3, 200), Clock(-9.1, -200), Clock(0.04, 200), Clock(25, -400)], ids=str
)
def test_offset_and_drift_are_found_whatever_they_are(clock):
    train, reference, stamps, moments = scene(1, clock=clock)
    fit = fit_clock(train, reference)
    assert np.mean(np.abs(fit.clock.to_common(stamps) - moments) <= 0.02) >= 0.99
    assert 0.7 <= fit.matched / (0.5 * 300 * 0.85**2) <= 1.3


def test_the_error_that_is_told_is_the_error_that_is_made():
    """Over many scenes: 95 % of the stamps are within it, and it is no looser than three times their 95 %."""
    within, looser = [], []
    for seed in range(30):
        random = np.random.default_rng(seed)
        clock = Clock(random.uniform(-8, 8), random.uniform(-200, 200))
        train, reference, stamps, moments = scene(seed, clock=clock)
        fit = fit_clock(train, reference)
        off = np.abs(fit.clock.to_common(stamps) - moments)
        within.append(np.mean(off <= fit.error_s))
        looser.append(fit.error_s / np.quantile(off, 0.95))
    assert np.mean(within) >= 0.95
    assert np.min(within) >= 0.85  # one in twenty scenes may be unlucky
    assert np.quantile(looser, 0.9) <= 3


def test_a_day_is_one_line_as_well():
    clock = Clock(-12, 150)
    train, reference, stamps, moments = scene(2, clock=clock, seconds=86_400, rate=0.1)
    fit = fit_clock(train, reference)
    assert fit.clock.drift_ppm == pytest.approx(150, abs=0.1)
    assert np.mean(np.abs(fit.clock.to_common(stamps) - moments) <= 0.02) >= 0.99


def test_streams_that_agree_perfectly_are_no_trouble():
    times = np.sort(np.random.default_rng(7).uniform(0, 300, 100))
    fit = fit_clock(Train(Clock(2, 30).from_common(times)), Train(times))
    assert fit.clock.to_common(100.0) == pytest.approx(Clock(2, 30).to_common(100.0), abs=1e-6)
    assert (fit.matched, fit.error_s < 1e-3) == (100, True)


def test_most_events_may_be_false():
    train, reference, stamps, moments = scene(3, clock=Clock(5, 100), rate=1.0, false=2.0, missed=0.4)
    fit = fit_clock(train, reference)
    assert np.mean(np.abs(fit.clock.to_common(stamps) - moments) <= 0.02) >= 0.99


def test_the_resolution_of_events_is_no_error_of_the_times():
    """Flashes are known to a tenth of a second, the stamps of frames to a millisecond."""
    train, reference, *_ = scene(4, clock=Clock(1, 50), seconds=3_000, fps=10, jitter_s=0.001, false=0.1)
    told = fit_clock(train, reference).error_s
    assert told < 0.02 < fit_clock(Train(train.at_s), Train(reference.at_s)).error_s


@pytest.mark.parametrize("seed", range(5))
def test_streams_with_nothing_in_common_are_refused(seed):
    random = np.random.default_rng(seed)
    one, other = (Train(np.sort(random.uniform(0, 300, 200))) for _ in range(2))
    with pytest.raises(InputError, match="do the streams belong together"):
        fit_clock(one, other)


def test_streams_that_repeat_themselves_are_refused():
    """A metronome fits at every beat."""
    beats = np.arange(0, 300, 1.0)
    with pytest.raises(InputError, match="on one offset and"):
        fit_clock(Train(beats), Train(beats + 0.3))


def test_a_clock_that_is_off_by_more_than_is_looked_at_is_refused():
    train, reference, *_ = scene(5, clock=Clock(50, 0))
    with pytest.raises(InputError):
        fit_clock(train, reference)
    assert fit_clock(train, reference, Search(max_offset_s=60)).clock.offset_s == pytest.approx(50, abs=0.02)


@pytest.mark.parametrize(("one", "other"), [(NOBODY, NOBODY), (np.arange(5.0), np.arange(99.0))])
def test_too_few_events_are_refused(one, other):
    with pytest.raises(InputError, match="8 are needed"):
        fit_clock(Train(one), Train(other))


def test_trains_far_apart_are_refused():
    with pytest.raises(InputError):
        fit_clock(Train(np.arange(50.0)), Train(np.arange(50.0) + 1e9))


@pytest.mark.timeout(60)
def test_dense_trains_cost_bounded_memory_and_time():
    """All pairs would be 1.6e9 differences."""
    random = np.random.default_rng(6)
    times = np.sort(random.uniform(0, 60, 40_000))
    with pytest.raises(InputError):
        fit_clock(Train(times), Train(np.sort(random.uniform(0, 60, 40_000))))
