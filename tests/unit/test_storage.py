"""A file is there whole or not at all, whatever interrupts its writing; torn ones are never listed."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pytest
from support.stores import STORES

from mmray import remote
from mmray.errors import InputError
from mmray.mirror import mirror
from mmray.put import TEMPORARY
from mmray.remote import StoreError
from mmray.storage import Location


def names(place, **options):
    return [file.base_name for file in place.files(**options)]


@pytest.fixture
def folder(tmp_path):
    return Location.parse(tmp_path)


@pytest.fixture(params=["local", *STORES, "memory", "mock"])
def anywhere(request, store_of, tmp_path):
    """A directory on a disk, on stores whose PUT is atomic, and on two others, of fsspec and of pyarrow."""
    if request.param == "local":
        return Location.parse(tmp_path)
    if request.param in STORES:
        return Location.parse(store_of(request.param).bucket().url("folder"))
    place = Location.parse(f"{request.param}:///{tmp_path.name}")
    place.make_directory()
    return place


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    """Workers have other working directories."""
    monkeypatch.chdir(tmp_path)
    assert Location.parse("a/b").path == str(tmp_path / "a/b")
    assert (Location.parse("a") / "b").path == str(tmp_path / "a/b")
    assert str(Location.parse("a")) == str(tmp_path / "a")


def test_a_home_directory_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Location.parse("~/a").path == str(tmp_path / "a")


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_a_file_url_is_a_local_path(tmp_path, scheme):
    place = Location.parse(f"{scheme}://{tmp_path}/a")
    assert place.is_local
    assert place.path == str(tmp_path / "a")


@pytest.mark.parametrize("data", [b"", b"content", memoryview(b"content"), bytes(3_000_000)])
def test_what_is_written_is_what_is_read(anywhere, data):
    (anywhere / "a").write_atomically(data)
    assert (anywhere / "a").read_bytes() == bytes(data)
    assert names(anywhere) == ["a"]
    assert anywhere.leftovers() == []


def test_what_looks_compressed_is_left_alone(anywhere):
    (anywhere / "a.gz").write_atomically(b"not compressed")
    assert (anywhere / "a.gz").read_bytes() == b"not compressed"


def test_writing_replaces(anywhere):
    for content in (b"old and longer", b"new"):
        (anywhere / "a").write_atomically(content)
    assert (anywhere / "a").read_bytes() == b"new"
    assert names(anywhere) == ["a"]


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


def test_listing_skips_what_is_not_in_place_and_is_sorted(anywhere):
    (anywhere / "deep").make_directory()
    for name in ("b", "a", f"{TEMPORARY}1-c", "deep/d", f"deep/{TEMPORARY}1-e"):
        (anywhere / name).write_atomically(b"x")
    assert names(anywhere) == ["a", "b"]
    assert names(anywhere, recursive=True) == ["a", "b", "d"]
    assert [place.path for place in anywhere.leftovers()] == [f"{anywhere.path}/{TEMPORARY}1-c"]


def test_a_directory_that_is_not_there_holds_nothing(anywhere):
    assert (anywhere / "nowhere").files() == []
    assert (anywhere / "nowhere").leftovers() == []
    assert not (anywhere / "nowhere").exists()


def test_deleting_what_is_not_there_is_no_fault(anywhere):
    (anywhere / "a").write_atomically(b"x")
    for _ in range(2):
        (anywhere / "a").delete()
    assert not (anywhere / "a").exists()


def test_a_local_file_is_opened_without_anything_between(folder):
    (folder / "a").write_atomically(b"content")
    with (folder / "a").open_input() as file:
        assert isinstance(file, pa.NativeFile)


def test_a_web_server_is_listed_with_sizes(tmp_path):
    """Its listing has names alone."""
    (tmp_path / "a.tar").write_bytes(b"four")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        files = Location.parse(f"http://127.0.0.1:{server.server_port}").files()
        server.shutdown()
    assert [(file.base_name, file.size) for file in files] == [("a.tar", 4)]


@pytest.mark.parametrize(
    ("what", "act"),
    [
        ("HEAD", lambda place: place.info()),
        ("GET", lambda place: place.files()),
        ("POST", lambda place: place.write_atomically(b"new")),
        ("PUT", lambda place: place.write_atomically(bytes(11 << 20))),
        ("DELETE", lambda place: place.delete()),
        ("PUT", lambda place: place.make_directory()),
    ],
)
def test_operations_on_a_store_get_over_faults(s3, what, act, monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF_S", 0.01)
    place = Location.parse(s3.url("folder/a"))
    place.write_atomically(b"old")
    fault = s3.fail("conflict", 2, what)
    act(place)
    assert fault.made == 2


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("kind", ["reset", "conflict"])
def test_what_is_written_is_whole_whatever_answer_is_lost(s3, monkeypatch, method, kind):
    monkeypatch.setattr(remote, "BACKOFF_S", 0.01)
    place, data = Location.parse(s3.url("a")), os.urandom(21 << 20)  # three pieces of an upload
    for _ in range(3):
        s3.fail(kind, 1, method, every=2)
    place.write_atomically(data)
    assert place.read_bytes() == data
    assert all(fault.made for fault in s3.server.faults)


def test_a_write_that_fails_for_good_leaves_the_old_one(s3, monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF_S", 0.01)
    place = Location.parse(s3.url("a"))
    place.write_atomically(b"old")
    s3.fail("conflict", 1000, "PUT")
    with pytest.raises(StoreError, match="409"):
        place.write_atomically(bytes(21 << 20))
    assert place.read_bytes() == b"old"


# Ctrl-C may be ignored where the tests run (in the background of a shell), which a child inherits.
WRITE = """
import signal, sys
from mmray.storage import Location
signal.signal(signal.SIGINT, signal.default_int_handler)
Location.parse(sys.argv[1]).write_atomically(b"new")
"""


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_between_opening_and_writing_leaves_the_old_or_the_new(s3, number, old):
    """An upload that was begun is published by pyarrow, empty, when an exception ends the writing."""
    place = Location.parse(s3.url("a"))
    if old is not None:
        place.write_atomically(old)
    opening = s3.fail("slow-down", 5, "POST", "uploads")  # it takes a second to begin the upload
    process = subprocess.Popen([sys.executable, "-c", WRITE, place.url], stderr=subprocess.DEVNULL)
    while not opening.made:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == -number
    expected = b"new" if number == signal.SIGINT else old
    assert place.exists() == (expected is not None)
    if expected is not None:
        assert place.read_bytes() == expected


DEATH_BY_FSSPEC = """
import os, sys
import pyarrow.fs as pafs
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem
from mmray.storage import Location

def torn(self, data):
    self.f.write(bytes(data)[:2])
    self.f.flush()
    os._exit(9)

LocalFileOpener.write = torn
store = pafs.PyFileSystem(pafs.FSSpecHandler(LocalFileSystem()))
Location(store, sys.argv[1] + "/a").write_atomically(b"new")
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_death_while_writing_to_a_store_that_shows_it_tears_nothing(folder, tmp_path, old):
    if old is not None:
        (folder / "a").write_atomically(old)
    done = subprocess.run([sys.executable, "-c", DEATH_BY_FSSPEC, str(tmp_path)], timeout=60)
    assert done.returncode == 9
    assert [(f.base_name, f.size) for f in folder.files()] == ([] if old is None else [("a", len(old))])
    assert len(folder.leftovers()) == 1


def test_deleting_costs_no_look_beforehand(s3):
    with s3.counting() as methods:
        Location.parse(s3.url("nowhere")).delete()
    assert methods == ["HEAD"]  # pyarrow's own


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_a_mirror_has_all_files_or_is_not_there(s3, tmp_path):
    source = Location.parse(s3.url("source"))
    content = {"a": b"1", "deep/b": b"2" * 100_000}
    for name, data in content.items():
        (source / name).write_atomically(data)
    files = {name: digest(data) for name, data in content.items()}
    for wrong, error in [
        (files | {"deep/b": digest(b"3")}, StoreError),
        (files | {"c": "0"}, FileNotFoundError),
    ]:
        with pytest.raises(error, match=r"/b|/c"):
            mirror(source, wrong, tmp_path / "cache" / "it")
        assert not (tmp_path / "cache" / "it").exists()
        assert not list((tmp_path / "cache").glob(f"{TEMPORARY}*"))
    mirror(source, files, tmp_path / "cache" / "it")
    found = [path for path in (tmp_path / "cache" / "it").rglob("*") if path.is_file()]
    assert {str(p.relative_to(tmp_path / "cache" / "it")): p.read_bytes() for p in found} == content


def test_a_copy_that_was_damaged_since_is_made_anew(tmp_path):
    source = Location.parse(tmp_path / "source")
    (tmp_path / "source/deep").mkdir(parents=True)
    (tmp_path / "source/deep/file").write_bytes(b"whole")
    files = {"deep/file": hashlib.sha256(b"whole").hexdigest()}
    copy = tmp_path / "cache" / "it"
    mirror(source, files, copy)
    for damage in (lambda file: file.write_bytes(b"hole!"), lambda file: file.unlink()):
        damage(copy / "deep/file")
        mirror(source, files, copy)
        assert (copy / "deep/file").read_bytes() == b"whole"


@pytest.mark.parametrize("recursive", [False, True])
def test_a_name_that_is_not_utf_8_is_refused_by_name(tmp_path, recursive):
    """Arrow cannot tell it, and its UnicodeDecodeError names nothing."""
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("mine")
    with pytest.raises(InputError, match=r"not UTF-8: .*xff.txt.*; rename it"):
        Location.parse(tmp_path).files(recursive=recursive)
