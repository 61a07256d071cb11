"""A shard is read only as long as it is the file that was listed; a moved one is the same file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.tars import members_of, tar_bytes, write_shard

from mmray.coverage import Missing
from mmray.errors import ChangedError
from mmray.sources import ReadOptions, Shard, changes, list_shards, read, take_listing
from mmray.sources.state import State, look
from mmray.storage import Location

MIB = 1 << 20
RECORDS = [(f"k{i}", {"txt": b"a dog %d" % i}) for i in range(10)]
OTHER = [(f"k{i}", {"txt": b"a cat %d" % i}) for i in range(10)]
OPTIONS = ReadOptions(block_rows=3)


def rewrite(path, content=None):
    path.write_bytes(content or tar_bytes(members_of(OTHER)))


def replace(path):
    new = path.with_name("new")
    rewrite(new)
    new.replace(path)


def rewrite_with_its_time(path):
    times = path.stat()
    rewrite(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def change_the_middle(path):
    """Further in than what is hashed; the time tells."""
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"other")


@pytest.fixture
def shard(tmp_path):
    write_shard(tmp_path / "s.tar", RECORDS)
    return list_shards([str(tmp_path)])[0]


@pytest.fixture
def large(tmp_path):
    write_shard(tmp_path / "s.tar", [("a", {"txt": b"one", "bin": bytes(2 * MIB)})])
    return list_shards([str(tmp_path)])[0]


def path_of(shard):
    return Path(shard.url)


@pytest.mark.parametrize("change", [rewrite, replace, rewrite_with_its_time])
def test_a_shard_that_changed_before_it_is_opened_gives_no_row(shard, change):
    size = path_of(shard).stat().st_size
    change(path_of(shard))
    assert path_of(shard).stat().st_size == size
    with pytest.raises(ChangedError, match=r"s.tar: changed since the run was planned: another content"):
        next(read(shard, OPTIONS))
    assert issubclass(ChangedError, OSError)  # the pipeline counts it as a shard that cannot be read
    assert list(changes([shard])) == [shard.id]


def test_so_does_one_whose_middle_changed(large):
    change_the_middle(path_of(large))
    with pytest.raises(ChangedError, match=r"written at .*, was at "):
        next(read(large, OPTIONS))
    assert "written at" in changes([large])[large.id]


@pytest.mark.parametrize("change", [rewrite, replace])
@pytest.mark.parametrize("wanted", [Missing(0, None, 0), Missing(0, 5, 0)], ids=["to the end", "a piece"])
def test_a_shard_that_changes_while_it_is_read_gives_no_further_row(shard, change, wanted):
    blocks = read(shard, OPTIONS, [wanted])
    next(blocks)
    change(path_of(shard))
    with pytest.raises(ChangedError):
        next(blocks)


def move(source, target):
    source.rename(target)


def copy_with_times(source, target):
    shutil.copytree(source, target)


def copy_as_tar_does(source, target):
    """It keeps times to the second."""
    shutil.copytree(source, target)
    for path in target.iterdir():
        os.utime(path, (0, int(path.stat().st_mtime)))


def touch_nothing_but_rights(source, target):
    source.rename(target)
    for path in target.iterdir():
        path.chmod(0o600)


@pytest.mark.parametrize("way", [move, copy_with_times, copy_as_tar_does, touch_nothing_but_rights])
def test_a_data_set_that_moves_with_its_times_is_the_same(tmp_path, way):
    write_shard(tmp_path / "old/s.tar", RECORDS)
    (before,) = list_shards([str(tmp_path / "old")])
    way(tmp_path / "old", tmp_path / "new")
    (after,) = list_shards([str(tmp_path / "new")])
    assert before.id == after.id
    assert before.state.difference(after.state) == ""


def test_one_that_was_copied_without_them_is_so_when_asked_to_look_at_content_alone(tmp_path):
    source = write_shard(tmp_path / "s.tar", RECORDS)
    before, _ = look(Location.parse(source))
    os.utime(source, (1, 1))
    after, _ = look(Location.parse(source))
    assert before.difference(after).startswith("written at 1970-01-01")
    assert before.difference(after, moved=True) == ""
    rewrite(source)
    assert before.difference(look(Location.parse(source))[0], moved=True) == "another content"


def test_versions_of_a_store_count_alone():
    then = State(9, 1, "", "etag", "digest")
    assert then.difference(State(9, 2, "", "etag", "")) == ""
    assert then.difference(State(9, 1, "", "other", "digest")) == "version other, was etag"
    assert then.difference(State(9, 5, "7.8", "", "digest"), moved=True) == "", "copied to a disk"
    assert then.difference(State(8, 1, "", "etag", "digest")) == "8 bytes, was 9"


@pytest.mark.parametrize(
    "state", [State(9, 12, "1f.2", "", "abc"), State(9), State(9, 0, "", 'W/"a b"', "d")]
)
def test_a_state_comes_back_from_a_plan(state):
    assert State.from_text(9, state.to_text()) == state
    shard = Shard("a@9", "/a", 9, "parquet", state=state)
    assert Shard.from_list(shard.to_list()) == shard


OPENED = """
import sys
opened = []
def note(event, args):
    if event == "open" and str(args[0]).endswith(".tar"): opened.append(args[0])
sys.addaudithook(note)
from mmray.sources import changes, take_listing
shards = take_listing([sys.argv[1]]).shards
first = len(opened)
assert take_listing([sys.argv[1]], shards).shards == shards and changes(shards) == {}
print(first, len(opened) - first)
"""


def test_what_nobody_touched_is_not_opened_again(tmp_path):
    for name in ("a", "b", "c"):
        write_shard(tmp_path / f"{name}.tar", RECORDS)
    told = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["3", "0"]


def test_a_shard_that_is_gone_did_not_change(shard):
    path_of(shard).unlink()
    assert changes([shard]) == {}


def test_a_shard_without_a_state_is_compared_with_nothing(shard):
    rewrite(path_of(shard))
    plain = Shard(shard.id, shard.url, shard.size)
    assert changes([plain]) == {}
    assert sum(block.num_rows for block in read(plain, OPTIONS)) == 10


def test_a_listing_with_what_was_known_sees_what_changed(shard, tmp_path):
    rewrite(path_of(shard))
    (now,) = take_listing([str(tmp_path)], [shard]).shards
    assert shard.state.difference(now.state) == "another content"
