"""Reading ahead changes when items are made, never which and in what order."""

import threading
import time

import pytest

from mmray.sources.readahead import readahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("readahead")]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_all_items_come_in_order(count, depth):
    assert list(readahead(range(count), depth)) == list(range(count))
    assert not threads()


def test_falsy_items_and_exceptions_as_items_are_items():
    items = [None, 0, "", ValueError("an item")]
    assert list(readahead(items)) == items


def test_an_exception_is_raised_where_the_consumer_meets_it():
    def items():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    consumer = readahead(items(), depth=5)
    assert [next(consumer), next(consumer)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(consumer)
    assert not threads()


def test_items_are_made_while_the_consumer_works_and_no_further_than_depth():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    consumer = readahead(items(), depth=2)
    next(consumer)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert made == [0, 1, 2, 3]  # the one that was taken, two that wait, and one that waits to be put
    consumer.close()


def test_a_consumer_that_stops_early_lets_the_thread_go():
    closed = threading.Event()

    def items():
        try:
            yield from range(1_000_000)
        finally:
            closed.set()

    for item in readahead(items()):
        if item == 3:
            break
    assert closed.wait(5)
    assert not threads()


def test_nothing_is_started_before_the_first_item_is_asked_for():
    readahead(iter([1]))
    assert not threads()
