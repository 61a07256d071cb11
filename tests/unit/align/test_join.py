"""Frames get what other streams hold around their time, once, in order, in bounded memory."""

import numpy as np
import pytest

from mmray.align.clock import Clock
from mmray.align.join import AsOfJoin, Bounds, Event, Stream

WINDOW = Bounds(before_s=1.0, after_s=0.5, lateness_s=2.0)


def frames(*times):
    return [Event(at, at, f"frame {at:g}") for at in times]


def spans(*pairs):
    return [Event(start, end, f"{start:g}-{end:g}") for start, end in pairs]


def join(moments, bounds=WINDOW, clock=None, **others):
    """(value of the frame, {stream: values}) of each moment, and the join itself."""
    joined = AsOfJoin(bounds)
    streams = {name: Stream(events, Clock()) for name, events in others.items()}
    found = list(joined(Stream(moments, clock or Clock()), streams))
    return [
        (m.frame.value, {n: [e.value for e in near] for n, near in m.near.items()}) for m in found
    ], joined


def near(moments, **others):
    return [values["x"] for _, values in join(moments, **others)[0]]


def test_a_frame_gets_what_touches_the_window_around_it():
    chunks = spans((0, 1), (3, 4), (4, 5), (5.5, 6), (5.6, 7))
    assert near(frames(5), x=chunks) == [["3-4", "4-5", "5.5-6"]]
    assert near(frames(5), x=spans((0, 99), (4, 4), (5.5, 5.5))) == [["0-99", "4-4", "5.5-5.5"]]


def test_streams_are_joined_by_their_own_clocks():
    """The camera's clock is 100 s ahead, and 1,000 ppm slow."""
    moments = frames(*Clock(-100, 1_000).from_common(np.array([5.0, 2_000.0])))
    found, _ = join(moments, clock=Clock(-100, 1_000), x=spans((4, 5), (1_999, 2_000)))
    assert [values["x"] for _, values in found] == [["4-5"], ["1999-2000"]]


def test_a_stream_that_is_empty_or_ends_leaves_frames_without():
    found, _ = join(frames(1, 50), x=spans((0, 1)), y=[])
    assert found == [("frame 1", {"x": ["0-1"], "y": []}), ("frame 50", {"x": [], "y": []})]
    assert join([], x=spans((0, 1)))[0] == []


@pytest.mark.parametrize("seed", range(3))
def test_any_order_within_the_bound_gives_the_same_moments(seed):
    random = np.random.default_rng(seed)

    def late(events):
        arrivals = np.argsort([event.start_s + random.uniform(0, 1.9) for event in events])
        return [events[i] for i in arrivals]

    moments = frames(*np.arange(0, 60, 0.3))
    chunks = spans(*((at, at + 0.7) for at in np.arange(0, 60, 0.5)))
    expected, _ = join(moments, x=chunks)
    found, joined = join(late(moments), x=late(chunks))
    assert found == expected
    assert not joined.dropped


def test_what_comes_later_than_the_bound_is_left_out_and_counted():
    chunks = [*spans((4, 5), (9, 10)), *spans((4.5, 5))]
    found, joined = join(frames(5, 10), x=chunks)
    assert joined.dropped == {}  # nothing after it was let go yet
    chunks = [*spans((4, 5), (5, 6), (9, 10)), *spans((4.5, 5))]
    found, joined = join(frames(5, 10), x=chunks)
    assert [values["x"] for _, values in found] == [["4-5", "5-6"], ["9-10"]]
    assert joined.dropped == {("x", "late"): 1}


def test_a_late_frame_is_counted_too():
    found, joined = join(frames(1, 5, 9, 2), x=[])
    assert [frame for frame, _ in found] == ["frame 1", "frame 5", "frame 9"]
    assert joined.dropped == {("frames", "late"): 1}


def test_memory_is_what_the_window_and_the_bound_hold():
    """A million events at a hundred a second; 1.5 s of window and 2 s of lateness are 350 of them."""
    pulled = 0

    def endless(step_s, count):
        nonlocal pulled
        for number in range(count):
            pulled += 1
            yield Event(number * step_s, number * step_s, number)

    joined = AsOfJoin(WINDOW)
    moments = joined(Stream(endless(0.5, 1_000), Clock()), {"x": Stream(endless(0.01, 1_000_000), Clock())})
    for number, moment in enumerate(moments):
        assert len(moment.near["x"]) <= 152
        if number == 100:
            assert pulled < 6_000  # only as far as this frame needs
    assert joined.most_held < 500


def test_events_that_never_end_are_held_up_to_a_bound():
    bounds = Bounds(before_s=1, after_s=1, lateness_s=0, max_held=10)
    chunks = spans(*((at, 1e9) for at in range(100)))
    found, joined = join(frames(200), bounds, x=chunks)
    assert found[0][1]["x"] == [f"{at}-1e+09" for at in range(90, 100)]
    assert joined.dropped == {("x", "crowded"): 90}


def test_events_that_all_wait_for_the_bound_are_let_go_beyond_a_number():
    bounds = Bounds(before_s=1, after_s=1, lateness_s=1e9, max_held=10)
    _, joined = join(frames(*range(100)), bounds, x=spans(*((at, at) for at in range(100))))
    assert joined.most_held <= 33


def test_an_event_that_ends_before_it_starts_has_no_length():
    assert near(frames(5), x=spans((5, 1))) == [["5-1"]]
