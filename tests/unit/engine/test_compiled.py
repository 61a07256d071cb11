"""What a provider compiled is kept for others once it is proved, and used only as it was kept."""

import os

import pytest

from mmray.engine.compiled import Compiled


@pytest.fixture
def place(tmp_path):
    return tmp_path / "engines" / "key"


def kept(place):
    """What another process finds."""
    other = Compiled(place)  # its files go with it
    return {f.name: f.read_bytes() for f in other.directory.iterdir() if f.name != "sha256.json"}


def test_what_was_compiled_is_there_for_the_next_once_it_is_kept(place):
    first = Compiled(place)
    (first.directory / "a.engine").write_bytes(b"kernels")
    assert kept(place) == {}
    first.keep()
    assert kept(place) == {"a.engine": b"kernels"}
    (first.directory / "b.engine").write_bytes(b"more")  # of a shape that came later
    assert kept(place) == {"a.engine": b"kernels"}
    first.keep()
    assert kept(place) == {"a.engine": b"kernels", "b.engine": b"more"}


def test_what_a_process_writes_later_is_its_own(place):
    first = Compiled(place)
    (first.directory / "a.engine").write_bytes(b"kernels")
    first.keep()
    (first.directory / "a.engine").write_bytes(b"others")
    assert kept(place) == {"a.engine": b"kernels"}


def test_damaged_files_are_compiled_anew(place):
    first = Compiled(place)
    (first.directory / "a.engine").write_bytes(b"kernels")
    first.keep()
    (place / "a.engine").write_bytes(b"kernelz")
    second = Compiled(place)
    assert not list(second.directory.iterdir())
    (second.directory / "a.engine").write_bytes(b"kernels")
    second.keep()
    assert kept(place) == {"a.engine": b"kernels"}


def test_copies_of_processes_that_were_killed_go(place):
    place.parent.mkdir()
    dead = place.parent / ".tmp-999999999-x"
    for left in (dead, place.parent / f".tmp-{os.getpid()}-x", place.parent / ".tmp-odd"):
        left.mkdir()
    Compiled(place)
    assert not dead.exists()
    assert (place.parent / ".tmp-odd").exists()
    assert (place.parent / f".tmp-{os.getpid()}-x").exists()
