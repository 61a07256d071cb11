"""S3, Google Cloud Storage and Azure alike: whole objects, faults that cost nothing, one winner of a race."""

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from mmray import remote
from mmray.errors import MmrayError
from mmray.remote import StoreError
from mmray.storage import Location

MIB = 1 << 20
DATA = random.Random(0).randbytes(12 * MIB)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF_S", 0.01)


@pytest.fixture
def place(store):
    place = Location.parse(store.url("a [1] %20 ü+b#/data"))
    place.write_atomically(DATA)
    store.server.requests.clear()
    return place


def is_transfer(request):
    return request.method == "GET" and request.range is not None


def test_reading_on_costs_one_request_for_each_piece(place, store):
    with place.open_input() as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == DATA
    pieces = [r.range for r in store.server.requests if is_transfer(r)]
    assert len(pieces) == len(set(pieces)) == 5  # of 1, 2, 4, 4 and 1 MiB


@pytest.mark.parametrize("kind", ["slow-down", "too-many", "conflict", "reset", "short", "late"])
def test_reading_gets_over_a_fault(place, store, kind):
    """A short body is one that breaks off before the length that was promised."""
    fault = store.fail(kind, 2, "GET", "data")
    with place.open_input() as file:
        assert file.read(100) + file.read() == DATA
    assert fault.made == 2


@pytest.mark.parametrize("kind", ["slow-down", "too-many", "conflict", "reset"])
def test_what_is_written_is_whole_whatever_answer_is_lost(store, kind):
    place = Location.parse(store.url("a"))
    faults = [store.fail(kind, 1, method, every=2) for method in ("POST", "PUT") for _ in range(2)]
    place.write_atomically(DATA)
    assert place.read_bytes() == DATA
    assert any(fault.made for fault in faults)


def test_what_is_refused_is_not_asked_for_again_and_says_what_to_do(place, store):
    fault = store.fail("denied", 100, "GET", "data")
    with pytest.raises(StoreError, match="check the credentials") as e, place.open_input() as file:
        file.read(10)
    assert place.url in str(e.value)
    assert "\n" not in str(e.value)
    assert fault.made == 1


def test_a_bucket_that_is_not_there_is_named(store):
    with pytest.raises(MmrayError, match="no bucket 'nowhere'") as e:
        Location.parse(store.url("a", bucket="nowhere")).write_atomically(b"x")
    assert store.url("", bucket="nowhere").partition("?")[0] in str(e.value)


def test_a_listing_tells_sizes_and_versions_as_asking_for_each_does(place, store):
    beside = place.beside("-b")
    beside.write_atomically(b"other")
    store.server.requests.clear()
    told = place.parent.listed(10)
    if place.filesystem.type_name == "abfs":
        assert told == {}
        return
    assert {path: one.size for path, one in told.items()} == {place.path: len(DATA), beside.path: 5}
    assert len(store.server.requests) == 1
    assert [told[one.path].version for one in (place, beside)] == [
        one.current_version() for one in (place, beside)
    ]
    assert list(place.parent.listed(1)) == [place.path]


def test_an_object_that_is_replaced_is_another_version(place):
    before = place.current_version()
    place.write_atomically(DATA[1:])
    assert before != place.current_version() != ""


def test_large_objects_go_in_pieces_within_every_store_s_limits(store):
    """S3: 5 MiB to 5 GiB each but the last, 10,000 at most; Azure 4,000 MiB, 50,000."""
    data = DATA + DATA + DATA
    Location.parse(store.url("large")).write_atomically(data)
    sent = [r.nbytes for r in store.server.requests if r.method == "PUT" and r.nbytes > 1024]
    assert sum(sent) >= len(data)
    assert all(5 * MIB <= nbytes <= 64 * MIB for nbytes in sent[:-1])
    assert Location.parse(store.url("large")).read_bytes() == data


WRITE = """
import signal, sys
from mmray.storage import Location
signal.signal(signal.SIGINT, signal.default_int_handler)
Location.parse(sys.argv[1]).write_atomically(bytes(30 << 20))
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_death_while_writing_leaves_the_old_or_none(store, old):
    """Azure by pyarrow would show an empty blob from the first moment on."""
    place = Location.parse(store.url("a"))
    if old is not None:
        place.write_atomically(old)
    store.server.requests.clear()
    process = subprocess.Popen([sys.executable, "-c", WRITE, place.url], stderr=subprocess.DEVNULL)
    while not any(r.nbytes > MIB for r in store.server.requests):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (place.read_bytes() if place.exists() else None) == old


def test_of_many_who_create_an_object_at_once_one_does(store):
    place, start = Location.parse(store.url("turn")), Barrier(6)

    def create(number):
        start.wait()
        return place.create(f"writer {number}".encode())

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(create, range(6)))
    assert sorted(made) == [False] * 5 + [True]
    assert place.read_bytes() == f"writer {made.index(True)}".encode()


def test_an_object_whose_answer_was_lost_is_known_for_one_s_own(store):
    fault = [store.fail("reset", 1, method, "turn|upload") for method in ("PUT", "POST")]
    place = Location.parse(store.url("turn"))
    assert place.create(b"mine") is True
    assert sum(f.made for f in fault) == 1
    assert place.create(b"another's") is False


@pytest.mark.parametrize("place", ["memory:///turn", "mock:///turn"])
def test_other_stores_say_that_they_cannot(place):
    assert Location.parse(place).create(b"mine") is None
    assert not Location.parse(place).exists()
