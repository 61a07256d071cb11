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
from mmray.pipeline.meter import Meter
from mmray.pipeline.snapshot import Doing, Place, Snapshot

# Workers of the session's cluster cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_cluster")

PLACES = (Place("a.tar@9", Missing(64, 127, 4096)),)


class Worker:
    """Does what it is told, and makes no progress meanwhile."""

    def __init__(self, meter: object, stall_s: float) -> None:
        self._meter = meter
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

    def process(self, rows: int, block_rows: int, *, sure: bool) -> list[tuple[Place, Doing]]:
        """Go through rows, a block at a time; of each block its place, and what the meter knew then."""
        known = []
        self._report.sure = sure
        with self._report.working("read"):
            for first in range(0, rows, block_rows):
                here = Place("a.tar@9", Missing(first, first + block_rows - 1, 64 * first))
                self._report.enter("preprocess", (here,))
                known.append((here, next(iter(ray.get(self._meter.read.remote()).doing.values()))))
                self._report.enter("model")
                self._report.add({"rows": block_rows, "model": 0.5}, {"busy": 1.0}, "GPU 0")
                self._report.enter("read")
        return known

    def stay_in(self, stage: str, seconds: float) -> None:
        with self._report.working("read", PLACES):
            self._report.enter(stage)
            time.sleep(seconds)

    def threads(self) -> list[str]:
        return [thread.name for thread in threading.enumerate()]


def sleep() -> None:
    time.sleep(600)


def hold() -> None:
    """Regular expressions let no other thread of the interpreter run."""
    re.match("(a+)+$", "a" * 60 + "b")


def fail() -> None:
    raise OSError("no space left on device\nand more")


class CountingMeter(Meter):
    """Counts what workers say."""

    said = 0

    def tell(self, *arguments: object) -> None:
        self.said += 1
        super().tell(*arguments)

    def leave(self, *arguments: object) -> None:
        self.said += 1
        super().leave(*arguments)

    def messages(self) -> int:
        return self.said


@pytest.fixture
def meter():
    made = ray.remote(num_cpus=0)(CountingMeter).remote()
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


def start(meter, stall_s=60.0):
    return ray.remote(num_cpus=0)(Worker).remote(meter, stall_s)


@pytest.mark.parametrize(("rows", "most"), [(6_400, 12), (12_800, 18)])
def test_messages_are_one_for_a_thousand_rows_and_rows_are_known_before_they_are_touched(meter, rows, most):
    begun = time.monotonic()
    known = ray.get(start(meter).process.remote(rows, 64, sure=False))
    for block, doing in known:
        (told,) = doing.places
        assert told.shard == block.shard
        assert told.rows.first <= block.rows.first <= block.rows.last <= told.rows.last
        assert told.rows.last - told.rows.first < 1_000 + 64
    now_and_then = time.monotonic() - begun + 1  # one a second at most
    assert ray.get(meter.messages.remote()) <= most + now_and_then
    snapshot = ray.get(meter.read.remote())
    assert (snapshot.rows, snapshot.seconds["model"]) == (rows, rows / 128)
    assert snapshot.devices["GPU 0"].busy_s == rows / 64


def test_where_a_worker_died_before_each_step_is_known_with_its_rows_alone(meter):
    known = ray.get(start(meter).process.remote(256, 64, sure=True))
    assert [doing for _, doing in known] == [Doing("preprocess", (block,)) for block, _ in known]
    assert ray.get(meter.messages.remote()) == 1 + 3 * 4 + 1


def test_a_stage_that_takes_long_is_known_while_it_lasts(meter):
    staying = start(meter).stay_in.remote("model", 4.0)
    until = time.monotonic() + 60
    while (doing := list(ray.get(meter.read.remote()).doing.values())) != [Doing("model", PLACES)]:
        assert time.monotonic() < until, doing
        time.sleep(0.1)
    ray.get(staying)


def test_rows_are_named_by_shard_from_the_first_to_those_that_are_read_ahead():
    rows = {"shard": ["a", "a", "b"], "row": [5, 6, 0], "offset": [50, 60, 0], "image": [b"", b"", b""]}
    table = pa.table(rows)
    assert places_of(table, ahead=2) == (Place("a", Missing(5, 8, 50)), Place("b", Missing(0, 2, 0)))
    assert places_of(table.slice(0, 0)) == ()
