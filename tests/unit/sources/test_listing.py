"""Each file is one shard, however many names lead to it; the other names are said."""

import os

import pytest
from support.tars import tar_bytes, write_shard
from support.tfrecords import tfrecord

from mmray.errors import InputError
from mmray.sources import Shard, list_shards, take_listing
from mmray.unread import SYSTEM


@pytest.fixture
def data(tmp_path, monkeypatch):
    for number, name in enumerate(("in/b.tar", "in/sub/a.tar")):
        write_shard(tmp_path / name, [(f"{name}-{number}", {"txt": b"a dog"})])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def names(*inputs):
    return [shard.name for shard in list_shards(inputs)]


@pytest.mark.parametrize(
    "inputs",
    [
        ["in", "in/sub"],
        ["in/sub", "in"],
        ["in", "in/../in/"],
        ["in", "./in/sub/../sub/*.tar"],
        ["in", "in/sub/a.tar", "in/{b,sub/a}.tar"],
    ],
)
def test_inputs_that_overlap_give_each_file_once(data, inputs):
    listing = take_listing(inputs)
    assert [shard.name for shard in listing.shards] == ["b.tar", "sub/a.tar"]
    (note,) = listing.notes
    assert note.startswith("further names of the same files, ignored (")


def test_a_file_has_the_name_that_is_no_link(data):
    """In whatever order they come."""
    (data / "a-link.tar").symlink_to("sub/a.tar")
    (data / "dir").symlink_to("sub")
    (data / "around").symlink_to(".")
    (data / "dangling.tar").symlink_to("/nowhere/x.tar")
    assert names("in") == names("in/a-link.tar", "in", "in/around/sub") == ["b.tar", "sub/a.tar"]
    assert f"{data}/a-link.tar is {data}/sub/a.tar" in take_listing(["in/a-link.tar", "in/sub"]).notes[0]


def test_two_hard_links_are_one_file(data):
    os.link(data / "b.tar", data / "sub/b-again.tar")
    listing = take_listing(["in"])
    assert [shard.name for shard in listing.shards] == ["b.tar", "sub/a.tar"]
    assert listing.notes == [
        f"further names of the same files, ignored (1): {data}/sub/b-again.tar is {data}/b.tar"
    ]


def test_a_copy_is_another_file(data):
    (data / "sub/b.tar").write_bytes((data / "b.tar").read_bytes())
    assert names("in") == ["b.tar", "sub/a.tar", "sub/b.tar"]


def test_nothing_is_said_where_there_is_nothing_to_say(data):
    assert take_listing(["in/b.tar", "in/sub"]).notes == []


def test_a_name_that_is_missing_from_a_list_is_named(data):
    with pytest.raises(InputError, match=r"in/sub/n-3.tar: not found; check --input"):
        list_shards(["in/b.tar", "in/sub/{a,n-3}.tar"])


def test_shards_of_an_earlier_version_are_read_from_a_plan():
    """It told compression by the end of the URL, and kept no state."""
    shard = Shard.from_list(["a.tar.gz@9", "/x/a.tar.gz", 9, "webdataset"])
    assert (shard.compressed, shard.state) == (True, None)
    stored = "s3://b/a.tar.zst?endpoint_override=127.0.0.1:1&scheme=http&region=x"
    assert Shard.from_list(["a.tar.zst@9", stored, 9, "webdataset"]).compression == "zstd"


def test_pieces_of_tensorflow_datasets_are_shards_by_name_or_by_bytes(tmp_path):
    data = tfrecord([{"text": b"a dog"}])
    for i, name in enumerate(("a.tfrecord-00000-of-00002", "a.tfrecord-00001-of-00002", "b-00000-of-00001")):
        (tmp_path / name).write_bytes(data * (i + 1))
    (tmp_path / "features.json").write_bytes(b"{}")
    (tmp_path / "other-00000-of-00001").write_bytes(b"something else")
    listing = take_listing([str(tmp_path)])
    assert [shard.format for shard in listing.shards] == ["tfrecord"] * 3
    assert {kind: count.number for kind, count in listing.unread.counts.items()} == {
        ".json files of no record": 1,
        "files without a suffix of no record": 1,
    }


def test_files_that_macos_left_are_no_shards(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("0.txt", b"a")]))
    (tmp_path / "._a.tar").write_bytes(bytes.fromhex("00051607"))
    listing = take_listing([str(tmp_path)])
    assert [shard.name for shard in listing.shards] == ["a.tar"]
    assert list(listing.unread.counts) == [SYSTEM]


def test_tables_that_lie_beside_shards_are_counted(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("0.txt", b"a")]))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.tar.mmidx").write_bytes(b"")
    listing = take_listing([str(tmp_path)])
    assert list(listing.unread.counts) == [".parquet files of no record"]
