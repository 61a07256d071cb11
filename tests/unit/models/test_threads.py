"""Work on several threads: in order, a little ahead, one thread for each operator."""

import threading
import time

import pytest
import torch

from mmray.models.threads import map_in_order, one_thread


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_whoever_is_first(three_threads):
    def work(number):
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number, torch.get_num_threads()

    found = list(map_in_order(work, range(30)))
    assert found == [(number, 1) for number in range(30)]
    assert torch.get_num_threads() == 3


def test_works_on_several_items_at_once(three_threads):
    """Each waits until three are at work; alone, one would wait for ever."""
    together = threading.Barrier(3, timeout=30)
    assert list(map_in_order(lambda _: together.wait() >= 0, range(6))) == [True] * 6


def test_draws_only_a_few_items_ahead(three_threads):
    drawn = []
    results = map_in_order(lambda number: number, (drawn.append(n) or n for n in range(1000)))
    assert next(results) == 0
    assert len(drawn) < 10


def test_an_error_of_the_work_reaches_the_caller(three_threads):
    def work(number):
        return 1 / (number - 2)

    with pytest.raises(ZeroDivisionError):
        list(map_in_order(work, range(5)))
    assert torch.get_num_threads() == 3


def test_the_threads_come_back_after_an_error(three_threads):
    def work():
        with one_thread():
            raise RuntimeError(f"{torch.get_num_threads()} within")

    with pytest.raises(RuntimeError, match="1 within"):
        work()
    assert torch.get_num_threads() == 3
