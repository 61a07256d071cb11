"""Workers that stand still end themselves, and say what they are at while they can."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable

import pyarrow as pa
import pytest
import ray

from mmray.coverage import Missing
from mmray.pipeline.liveness import Reporter, places_of
from mmray.pipeline.meter import Doing, Meter, Place, Snapshot

# Workers of the session's cluster cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_cluster")

PLACES = (Place("a.tar@9", Missing(64, 127, 4096)),)


class Worker:
    """Does what it is told, and makes no progress meanwhile."""

    def __init__(self, meter: object, stall_s: float) -> None:
        self._report = Reporter(meter, stall_s)

    def work(self, act: Callable[[], object]) -> None:
        with self._report.working("preprocess", PLACES):
            act()

    def rest(self) -> None:
        with self._report.working("read"):
            for _ in range(3):
                time.sleep(0.7)
                self._report.move()
            self._report.rest()
            time.sleep(2)

    def threads(self) -> list[str]:
        return [thread.name for thread in threading.enumerate()]


def sleep() -> None:
    time.sleep(600)


def hold() -> None:
    """Regular expressions let no other thread of the interpreter run."""
    re.match("(a+)+$", "a" * 60 + "b")


def fail() -> None:
    raise OSError("no space left on device\nand more")


@pytest.fixture
def meter():
    made = ray.remote(num_cpus=0)(Meter).remote()
    yield made
    ray.kill(made)


def work(meter, act, stall_s=1.0):
    worker = ray.remote(num_cpus=0, max_restarts=0)(Worker).remote(meter, stall_s)
    ray.get(worker.work.remote(act))


@pytest.mark.parametrize(("act", "end"), [(sleep, "hung"), (hold, "died")])
def test_a_worker_that_stands_still_ends_itself(meter, act, end):
    """Also where it can no longer say so: then it counts as one that died."""
    with pytest.raises(ray.exceptions.ActorDiedError):
        work(meter, act)
    assert ray.get(meter.take_lost.remote()) == [Doing("preprocess", PLACES, end=end)]


def test_a_worker_that_gets_on_or_waits_for_others_does_not(meter):
    worker = ray.remote(num_cpus=0)(Worker).remote(meter, 1.0)
    ray.get(worker.rest.remote())
    assert ray.get(meter.take_lost.remote()) == []
    assert "liveness" not in ray.get(worker.threads.remote())


def test_what_a_worker_raises_is_told_and_is_no_loss(meter):
    with pytest.raises(OSError, match="no space"):
        work(meter, fail)
    snapshot: Snapshot = ray.get(meter.read.remote())
    assert snapshot.broken == "OSError: no space left on device"
    assert ray.get(meter.take_lost.remote()) == []


def test_rows_are_named_by_shard_from_the_first_to_those_that_are_read_ahead():
    rows = {"shard": ["a", "a", "b"], "row": [5, 6, 0], "offset": [50, 60, 0], "image": [b"", b"", b""]}
    table = pa.table(rows)
    assert places_of(table, ahead=2) == (Place("a", Missing(5, 8, 50)), Place("b", Missing(0, 2, 0)))
    assert places_of(table.slice(0, 0)) == ()
