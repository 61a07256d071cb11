"""A file is there whole or not at all, whatever interrupts its writing; torn ones are never listed."""

import os
import subprocess
import sys

import pytest

from mmray.errors import UsageError
from mmray.storage import TEMPORARY, Location


def names(place, **options):
    return [file.base_name for file in place.files(**options)]


@pytest.fixture
def folder(tmp_path):
    return Location.parse(tmp_path)


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    """Workers have other working directories."""
    monkeypatch.chdir(tmp_path)
    assert Location.parse("a/b").path == str(tmp_path / "a/b")
    assert (Location.parse("a") / "b").path == str(tmp_path / "a/b")
    assert str(Location.parse("a")) == str(tmp_path / "a")


def test_a_home_directory_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Location.parse("~/a").path == str(tmp_path / "a")


def test_a_file_url_is_a_local_path(tmp_path):
    place = Location.parse(f"file://{tmp_path}/a")
    assert place.is_local
    assert place.path == str(tmp_path / "a")


@pytest.mark.parametrize("url", ["gopher://host/a", "://a"])
def test_a_url_that_cannot_be_opened_is_refused_by_name(url):
    with pytest.raises(UsageError) as e:
        Location.parse(url)
    assert url in str(e.value)


@pytest.mark.parametrize("data", [b"", b"content", memoryview(b"content"), bytes(3_000_000)])
def test_what_is_written_is_what_is_read(folder, data):
    (folder / "a").write_atomically(data)
    assert (folder / "a").read_bytes() == bytes(data)
    assert names(folder) == ["a"]
    assert folder.leftovers() == []


def test_writing_replaces(folder):
    for content in (b"old and longer", b"new"):
        (folder / "a").write_atomically(content)
    assert (folder / "a").read_bytes() == b"new"


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there_and_no_litter(folder, tmp_path, old):
    if old is not None:
        (folder / "a").write_atomically(old)
    with pytest.raises(TypeError):
        (folder / "a").write_atomically("text is not bytes")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("a", old)] if old else [])


def test_a_write_that_cannot_take_its_place_leaves_no_litter(folder, tmp_path):
    """A directory has the name already."""
    (tmp_path / "a" / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match="a"):
        (folder / "a").write_atomically(b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


DEATH = """
import os, pathlib, sys
from mmray.storage import Location

def die(*_, **__):
    os._exit(9)  # no handler, no finally: as a power cut

if sys.argv[2] == "while writing":
    real_open = pathlib.Path.open
    def open_torn(self, *a, **k):
        file = real_open(self, *a, **k)
        file.write(b"ne"); file.flush()
        die()
    pathlib.Path.open = open_torn
elif sys.argv[2] == "before flushing":
    os.fsync = die
elif sys.argv[2] == "before replacing":
    pathlib.Path.replace = die
elif sys.argv[2] == "after replacing":
    real_fsync, calls = os.fsync, []
    def second_dies(fd):
        calls.append(fd)
        if len(calls) == 2:
            die()
        real_fsync(fd)
    os.fsync = second_dies
(Location.parse(sys.argv[1]) / "a").write_atomically(b"new")
"""


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize(
    "moment", ["while writing", "before flushing", "before replacing", "after replacing"]
)
def test_death_between_any_two_steps_leaves_the_old_or_the_new(folder, tmp_path, moment, old):
    if old is not None:
        (folder / "a").write_atomically(old)
    done = subprocess.run([sys.executable, "-c", DEATH, str(tmp_path), moment], timeout=60)
    assert done.returncode == 9
    expected = b"new" if moment == "after replacing" else old
    assert names(folder) == ([] if expected is None else ["a"])
    if expected is not None:
        assert (folder / "a").read_bytes() == expected
    leftovers = folder.leftovers()
    assert len(leftovers) == (moment != "after replacing")
    for place in leftovers:
        place.delete()
    (folder / "a").write_atomically(b"again")
    assert (folder / "a").read_bytes() == b"again"


def test_a_write_is_flushed_before_it_is_moved_and_the_directory_after(folder, monkeypatch):
    """Else a power cut may leave the new name with no content."""
    steps = []
    real_fsync, real_replace = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.path.isdir(fd)), real_fsync(fd)))  # noqa: PTH112
    monkeypatch.setattr(os, "replace", lambda *a, **k: (steps.append("replace"), real_replace(*a, **k)))
    (folder / "a").write_atomically(b"new")
    assert steps == [False, "replace", True]


def test_listing_skips_what_is_not_in_place_and_is_sorted(folder, tmp_path):
    for name in ("b", "a", f"{TEMPORARY}1-c", "deep/d", f"deep/{TEMPORARY}1-e"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert names(folder) == ["a", "b"]
    assert names(folder, recursive=True) == ["a", "b", "d"]
    assert [place.path for place in folder.leftovers()] == [str(tmp_path / f"{TEMPORARY}1-c")]


def test_a_directory_that_is_not_there_holds_nothing(folder):
    assert (folder / "nowhere").files() == []
    assert (folder / "nowhere").leftovers() == []
    assert not (folder / "nowhere").exists()


def test_deleting_what_is_not_there_is_no_fault(folder):
    (folder / "a").write_atomically(b"x")
    for _ in range(2):
        (folder / "a").delete()
    assert not (folder / "a").exists()
