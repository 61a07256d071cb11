"""A file of a store reads as a local one, in few requests, whatever passes in between; else it says so."""

import gzip
import io
import random
import time
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.stores import CLIENT_ATTEMPTS

from mmray import remote
from mmray.remote import ATTEMPTS, PIECE_BYTES, STREAMS, RemoteFile, StoreError
from mmray.storage import Location

MIB = 1 << 20
DATA = random.Random(0).randbytes(20 * MIB)


@pytest.fixture
def sleeps(monkeypatch):
    """Seconds of each sleep, which are not slept."""
    taken = []
    monkeypatch.setattr(remote, "sleep", taken.append)
    return taken


@pytest.fixture
def place(s3):
    place = Location.parse(s3.url("data"))
    place.write_atomically(DATA)
    s3.server.requests.clear()
    return place


def ranges(s3):
    """First byte and size of each GET."""
    asked = [r.range.removeprefix("bytes=").split("-") for r in s3.server.requests if r.method == "GET"]
    return [(int(first), int(last) + 1 - int(first)) for first, last in asked]


def test_it_reads_as_a_file_in_memory_does(place):
    """Any reads and seeks, small and large, on and back."""
    chance, expected = random.Random(1), io.BytesIO(DATA)
    with place.open_input() as file:
        for _ in range(60):
            action = chance.choice(("read", "read", "seek", "end", "skip"))
            size = chance.choice((0, 1, 700, 3 * MIB, 9 * MIB))
            if action == "read":
                assert file.read(size) == expected.read(size)
            elif action == "seek":
                assert file.seek(size) == expected.seek(size)
            elif action == "end":
                assert file.seek(-size, io.SEEK_END) == expected.seek(-size, io.SEEK_END)
            else:
                assert file.seek(size, io.SEEK_CUR) == expected.seek(size, io.SEEK_CUR)
            assert file.tell() == expected.tell()
        assert file.read() == expected.read()


def test_reading_on_costs_few_requests_and_never_holds_more_than_is_allowed(place, s3):
    """2,560 reads of 8 KiB: the size, then 1, 2, and 4 MiB each, and what is left."""
    with place.open_input() as file:
        while file.read(8192):
            pass
    assert [request.method for request in s3.server.requests] == ["HEAD"] + ["GET"] * 7
    starts = [0, 1, 3, 7, 11, 15, 19]
    assert sorted(ranges(s3)) == [
        (start * MIB, (after - start) * MIB) for start, after in pairwise([*starts, 20])
    ]


def test_while_a_piece_is_read_the_next_two_are_on_their_way_and_no_more(place, s3):
    with place.open_input() as file:
        file.read(1)
        file.read(MIB)
        assert len(ranges(s3)) == 2
        file.read(2 * MIB)
        for _ in range(500):  # five seconds at most
            if len(ranges(s3)) >= 3 + STREAMS:
                break
            time.sleep(0.01)
        time.sleep(0.1)
        ahead = sorted(ranges(s3))[3:]
    assert [size for _, size in ahead] == [PIECE_BYTES] * STREAMS
    assert ahead[0][0] + PIECE_BYTES == ahead[1][0]


def test_a_read_elsewhere_requests_what_was_asked_for(place, s3):
    with place.open_input() as file:
        file.seek(5 * MIB)
        assert file.read(100) == DATA[5 * MIB : 5 * MIB + 100]
        file.seek(-10, io.SEEK_END)
        assert file.read() == DATA[-10:]
    assert ranges(s3) == [(5 * MIB, 100), (20 * MIB - 10, 10)]


def test_all_of_a_file_is_one_request(place, s3):
    assert place.read_bytes() == DATA
    assert ranges(s3) == [(0, 20 * MIB)]


def test_what_pyarrow_reads_from_a_file_it_reads_from_a_store(s3):
    rows = pa.table({"number": range(1000), "text": [str(i) for i in range(1000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    place = Location.parse(s3.url("rows.parquet"))
    place.write_atomically(sink.getvalue())
    with s3.counting() as methods, place.open_input() as file:
        assert pq.read_metadata(file).num_rows == 1000
    assert methods == ["HEAD", "GET"]
    with place.open_input() as file:
        assert pq.read_table(file).equals(rows)
    packed = Location.parse(s3.url("rows.gz"))
    packed.write_atomically(gzip.compress(DATA[:MIB]))
    with packed.open_input() as file, pa.CompressedInputStream(file, "gzip") as stream:
        assert stream.read() == DATA[:MIB]


@pytest.mark.parametrize(
    ("kind", "times", "slept"),
    [
        ("conflict", 2, 2),
        ("reset", CLIENT_ATTEMPTS + 2, 1),  # more than pyarrow's client gets over by itself
        ("short", 2, 0),
        ("slow-down", 2, 0),
    ],
)
def test_reading_goes_on_after_a_fault(place, s3, sleeps, kind, times, slept):
    fault = s3.fail(kind, times, "GET", "data")
    with place.open_input() as file, io.BufferedReader(file, MIB) as reader:
        first = reader.read(100)
        assert first + reader.read() == DATA
    assert fault.made == times
    assert len(sleeps) == slept
    assert ranges(s3)[:times] == [(0, MIB)] * times
    served = sorted(ranges(s3)[times:])
    assert [start for start, _ in served[1:]] == [start + size for start, size in served[:-1]]


def test_faults_amid_a_file_cost_one_piece_each(place, s3, sleeps):
    fault = s3.fail("conflict", 100, "GET", "data", every=2)
    with place.open_input() as file:
        pieces = iter(lambda: file.read(50_000), b"")
        assert b"".join(pieces) == DATA
    assert fault.made == len(sleeps) >= 4
    assert len(set(ranges(s3))) == 7


class Stingy(io.BytesIO):
    """A stream that gives a little at a time, and breaks off at each megabyte."""

    opened = 0

    def __init__(self):
        super().__init__(DATA)
        Stingy.opened += 1
        self.given = 0

    def size(self):
        return len(DATA)

    def read_at(self, nbytes, offset):
        if self.given >= MIB:
            raise ConnectionResetError("broke off")
        self.seek(offset)
        got = self.read(min(nbytes, 100_000))
        self.given += len(got)
        return got


def test_a_fresh_stream_goes_on_from_the_last_good_byte(sleeps):
    """Else 3 MiB could never be read from a stream that breaks off at each megabyte."""
    with RemoteFile(Stingy, "stingy://data") as file:
        assert file.read(3 * MIB) == DATA[: 3 * MIB]
    assert Stingy.opened == 3
    assert len(sleeps) == 2


@pytest.mark.parametrize("kind", ["short", "reset", "slow-down"])
def test_errors_that_another_driver_defines_are_got_over_too(place, s3, sleeps, kind):
    """Over http, by fsspec: those of aiohttp are no OSErrors."""
    host, port = s3.server.server_address
    web = Location.parse(f"http://{host}:{port}/{s3.name}/data")
    fault = s3.fail(kind, 2, "GET", "data")
    with web.open_input() as file:
        assert file.read(100) + file.read() == DATA
    assert fault.made == len(sleeps) == 2


def test_it_gives_up_and_names_the_place_the_bytes_and_the_reason(place, s3, sleeps):
    fault = s3.fail("conflict", 100, "GET", "data")
    with place.open_input() as file:
        file.seek(7)
        with pytest.raises(StoreError) as e:
            file.read(5000)
    for part in (place.url, "bytes 7 to 5007", f"{ATTEMPTS} times", "409"):
        assert part in str(e.value)
    assert fault.made == ATTEMPTS
    assert len(sleeps) == ATTEMPTS - 1


def test_a_fault_of_the_store_is_no_fault_of_the_file(s3, sleeps):
    """Else a part that cannot be read for a moment would be taken for none."""
    place = Location.parse(s3.url("rows.parquet"))
    place.write_atomically(b"PAR1" * 100)
    s3.fail("conflict", 100, "GET", "rows")
    with place.open_input() as file, pytest.raises(StoreError):
        pq.read_metadata(file)


def test_sleeps_are_random_below_a_bound_that_doubles(s3, sleeps, monkeypatch):
    monkeypatch.setattr(remote, "random", random.Random(0))
    s3.fail("conflict", 100_000, "HEAD")
    for _ in range(50):
        with pytest.raises(StoreError):
            Location.parse(s3.url("a")).info()
    for attempt in range(ATTEMPTS - 1):
        bound = min(remote.MAX_BACKOFF_S, remote.BACKOFF_S * 2**attempt)
        taken = sleeps[attempt :: ATTEMPTS - 1]
        assert 0 <= min(taken) < bound / 4
        assert bound * 3 / 4 < max(taken) <= bound


@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, IsADirectoryError])
def test_an_answer_is_not_asked_for_again(sleeps, kind):
    def answer():
        raise kind("no")

    with pytest.raises(kind):
        remote.retrying(answer, "what")
    assert not sleeps


def test_a_store_that_refuses_is_named_at_once(place, s3, sleeps):
    s3.fail("denied", 100, "GET", "data")
    with place.open_input() as file, pytest.raises(StoreError, match="ACCESS_DENIED") as e:
        file.read(10)
    assert place.url in str(e.value)
    assert not sleeps


def test_a_file_that_was_changed_meanwhile_is_not_read_on(place, s3, sleeps):
    with place.open_input() as file:
        assert file.read(10) == DATA[:10]
        place.write_atomically(DATA[:-1])
        s3.fail("conflict", 1, "GET", "data")
        file.seek(10 * MIB)
        with pytest.raises(StoreError, match="changed while it was read"):
            file.read(1000)


def test_a_file_that_is_not_there_is_not_opened(s3):
    with pytest.raises(FileNotFoundError):
        Location.parse(s3.url("nowhere")).open_input()
