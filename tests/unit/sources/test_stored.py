"""Shards of a store: listed by few requests, told apart by ETag, read only as long as that stays."""

import gzip
import sys
from collections import Counter

import pytest
from support.tars import members_of, tar_bytes

import mmray.s3
from mmray import remote
from mmray.errors import ChangedError, InputError
from mmray.remote import RemoteFile
from mmray.sources import ReadOptions, changes, list_shards, listing, read, state, take_listing
from mmray.storage import Location

NAMES = [f"in/t-{i:03d}.tar" for i in range(40)]
LISTINGS, LOOKS = 1, 2  # a look is a HEAD and a GET, where a file is small
OPTIONS = ReadOptions(block_rows=4)


def tar(word, records=10):
    return tar_bytes(members_of([(f"{word}{i}", {"txt": b"a dog"}) for i in range(records)]))


@pytest.fixture
def stored(s3):
    """Many shards and an index beside the first, in a directory with other files."""
    for number, name in enumerate(NAMES):
        put(s3, name, tar(f"k{number}-"))
    put(s3, f"{NAMES[0]}.mmidx", b"index")
    s3.server.requests.clear()
    return s3


def put(s3, name, content):
    Location.parse(s3.url(name)).write_atomically(content)


def listings(s3):
    return [request.path for request in s3.server.requests if "list-type=2" in request.path]


def as_stable(monkeypatch):
    """As if what is stored had been there for long."""
    monkeypatch.setattr(state, "_STABLE_S", 0)


@pytest.mark.parametrize("as_list", [False, True], ids=["braces", "list"])
def test_many_names_cost_a_listing_and_a_look_at_each(stored, as_list):
    pattern = [stored.url("in/t-{000..039}.tar")]
    shards = list_shards([stored.url(name) for name in NAMES] if as_list else pattern)
    assert [shard.name for shard in shards] == [name.removeprefix("in/") for name in NAMES]
    assert [shard.indexed for shard in shards] == [True, *[False] * 39]
    assert len(listings(stored)) == LISTINGS
    assert len(stored.server.requests) == LISTINGS + LOOKS * len(NAMES)
    assert all(shard.state.version and shard.state.digest for shard in shards)


@pytest.fixture
def many(monkeypatch):
    """As if these were a great many shards."""
    monkeypatch.setattr(listing, "_MANY", 20)
    monkeypatch.setattr(listing, "_SOME", 5)


@pytest.mark.parametrize("client", ["works", "missing", "misconfigured"])
def test_of_a_great_many_shards_only_some_are_opened(stored, many, monkeypatch, client):
    """The versions of the others are listed, or asked for one by one; so a change of them is seen as well."""
    mmray.s3._client.cache_clear()
    if client == "missing":
        monkeypatch.setitem(sys.modules, "boto3", None)
    elif client == "misconfigured":
        monkeypatch.setenv("AWS_PROFILE", "nowhere")
        monkeypatch.setattr(remote, "BACKOFF_S", 0.01)
    shards = list_shards([stored.url("in")])
    asked = [(request.method, request.path) for request in stored.server.requests if ".tar" in request.path]
    assert sorted(Counter(asked).values()) == [1] * (2 * 5 if client == "works" else len(NAMES) + 5)
    assert sum(method == "GET" for method, _ in asked) == 5
    assert all(shard.state.version for shard in shards)
    assert sum(bool(shard.state.digest) for shard in shards) == 5
    unopened = next(shard for shard in shards if not shard.state.digest)
    assert [block.num_rows for block in read(unopened, OPTIONS)] == [4, 4, 2]
    put(stored, f"in/{unopened.name}", tar("m0-", 10))
    assert list(changes([unopened])) == [unopened.id]
    with pytest.raises(ChangedError):
        next(read(unopened, OPTIONS))


def test_where_one_is_not_what_it_is_called_all_are_opened(stored, many):
    put(stored, NAMES[8], gzip.compress(tar("k8-")))  # the second of those that are opened
    put(stored, NAMES[9], gzip.compress(tar("k9-")))
    shards = {shard.name: shard for shard in list_shards([stored.url("in")])}
    assert [shards[f"t-00{i}.tar"].compression for i in (7, 8, 9)] == ["", "gzip", "gzip"]
    assert all(shard.state.digest for shard in shards.values())


def test_what_is_known_costs_a_listing_alone(stored, monkeypatch):
    as_stable(monkeypatch)
    pattern = stored.url("in/t-{000..039}.tar")
    shards = list_shards([pattern])
    stored.server.requests.clear()
    assert take_listing([pattern], shards).shards == shards
    assert changes(shards) == {}
    assert len(stored.server.requests) == len(listings(stored)) == 2


def test_a_time_that_the_next_content_may_share_is_not_trusted(stored):
    """A store tells seconds: what is replaced within one has the same size and time."""
    shards = list_shards([stored.url("in/t-00{0..9}.tar")])
    put(stored, NAMES[3], tar("new"))
    assert list(changes(shards)) == [shards[3].id]
    assert take_listing([stored.url("in/t-00{0..9}.tar")], shards).shards[3].state != shards[3].state


def test_a_name_that_is_missing_is_named(stored):
    with pytest.raises(InputError, match=r"in/t-040.tar\?.*: not found; check --input"):
        list_shards([stored.url("in/t-{030..040}.tar")])


def test_compression_is_told_by_bytes_whatever_follows_the_path(s3):
    """Options of the store follow it: such a shard was read as a plain tar, and all of it was lost."""
    put(s3, "in/b.tar.gz", gzip.compress(tar("k")))
    (shard,) = list_shards([s3.url("in")])
    assert (shard.compression, shard.format) == ("gzip", "webdataset")
    assert [block.num_rows for block in read(shard, OPTIONS)] == [4, 4, 2]


def test_one_store_by_two_spellings_is_one(stored):
    other = stored.url("in").replace("127.0.0.1", "localhost")
    listing = take_listing([stored.url("in/"), other])
    assert len(listing.shards) == len(NAMES)
    assert "further names of the same files, ignored (40)" in listing.notes[0]


def test_what_changed_is_not_opened(stored):
    (shard,) = list_shards([stored.url(NAMES[0])])
    put(stored, NAMES[0], tar("m0-"))
    with pytest.raises(ChangedError, match=r"changed since the run was planned: version .*, was "):
        next(read(shard, OPTIONS))


def test_what_changes_while_it_is_read_does_not_end(stored):
    (shard,) = list_shards([stored.url(NAMES[0])])
    blocks = read(shard, OPTIONS)
    first = next(blocks)
    put(stored, NAMES[0], tar("m0-"))
    with pytest.raises(ChangedError):
        list(blocks)
    assert first.num_rows == 4


def test_opening_and_ending_cost_one_request_more(stored):
    (shard,) = list_shards([stored.url(NAMES[0])])
    stored.server.requests.clear()
    assert sum(block.num_rows for block in read(shard, OPTIONS)) == 10
    methods = [request.method for request in stored.server.requests]
    assert methods.count("HEAD") == 2
    plain = Location.parse(shard.url)
    stored.server.requests.clear()
    with plain.open_input() as file:
        assert isinstance(file, RemoteFile)
        file.read()
    assert [request.method for request in stored.server.requests].count("HEAD") == 1


def test_a_web_server_tells_versions_too(stored):
    host, port = stored.server.server_address
    web = f"http://{host}:{port}/{stored.name}"
    shards = list_shards([f"{web}/{name}" for name in NAMES[:6]])
    assert [shard.state.version != "" for shard in shards] == [True] * 6
    assert sum(block.num_rows for block in read(shards[0], OPTIONS)) == 10
    spellings = [f"http://{name}:{port}/{stored.name}/{NAMES[0]}" for name in ("localhost", "LOCALHOST")]
    same = take_listing(spellings)
    assert len(same.shards) == 1
    put(stored, NAMES[0], tar("m0-"))
    with pytest.raises(ChangedError):
        next(read(shards[0], OPTIONS))
    assert list(changes(shards)) == [shards[0].id]


def test_a_shard_that_may_not_be_opened_stops_no_other(stored):
    stored.fail("denied", 100, "GET", NAMES[1])
    shards = list_shards([stored.url("in/t-00{0..9}.tar")])
    assert [shard.state is None for shard in shards] == [False, True, *[False] * 8]
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        next(read(shards[1], OPTIONS))
