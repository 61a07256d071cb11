"""A digest is that of the bytes that are there now; what was sealed is used as it was, or not at all."""

import hashlib
import json
import os

import pytest

from mmray import digests
from mmray.digests import computed_sha256, is_sealed, seal, sealed, sha256_of, sha256_of_all, unsealed


@pytest.fixture
def stable(monkeypatch):
    """Files need not be unchanged for two seconds before their digest is kept."""
    monkeypatch.setattr(digests, "_STABLE_NS", -1)


@pytest.fixture
def computed(monkeypatch):
    """Files whose bytes were read."""
    read = []
    monkeypatch.setattr(digests, "computed_sha256", lambda path: read.append(path) or computed_sha256(path))
    return read


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.usefixtures("stable")
def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path, computed):
    (tmp_path / "a").write_bytes(b"weights")
    assert [sha256_of(tmp_path / "a") for _ in range(3)] == [digest(b"weights")] * 3
    assert computed == [tmp_path / "a"]


@pytest.mark.usefixtures("stable")
def test_a_change_is_seen_whatever_the_file_says_of_its_time(tmp_path):
    """Same size, same time of modification."""
    file = tmp_path / "a"
    file.write_bytes(b"weights")
    about = file.stat()
    assert sha256_of(file) == digest(b"weights")
    file.write_bytes(b"weighed")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert sha256_of(file) == digest(b"weighed")


@pytest.mark.usefixtures("stable")
def test_another_file_in_its_place_is_seen(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "b").write_bytes(b"weighed")
    sha256_of(tmp_path / "a")
    (tmp_path / "b").replace(tmp_path / "a")
    assert sha256_of(tmp_path / "a") == digest(b"weighed")


def test_a_file_that_changed_just_now_is_read_again(tmp_path, computed):
    """The clock of files ticks too slowly to tell two changes within a tick."""
    (tmp_path / "a").write_bytes(b"weights")
    sha256_of(tmp_path / "a")
    sha256_of(tmp_path / "a")
    assert len(computed) == 2


@pytest.mark.usefixtures("stable")
def test_of_a_large_file_other_processes_know_it_too(tmp_path, monkeypatch, computed):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_LARGE_BYTES", 4)
    (tmp_path / "a").write_bytes(b"weights")
    for damage in (None, lambda text: text.replace("a", "b"), lambda _: ""):
        digests._known.clear()  # as in a new process
        if damage:
            [kept] = (tmp_path / "cache/digests").iterdir()
            kept.write_text(damage(kept.read_text()))
        assert sha256_of(tmp_path / "a") == digest(b"weights")
    assert len(computed) == 3
    digests._known.clear()
    assert sha256_of(tmp_path / "a") == digest(b"weights")
    assert len(computed) == 3


def test_files_together_have_a_digest_of_all_of_them(tmp_path):
    (tmp_path / "a").write_bytes(b"graph")
    (tmp_path / "b").write_bytes(b"weights")
    assert sha256_of_all([tmp_path / "a"]) == digest(b"graph")
    both = sha256_of_all([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b").write_bytes(b"weighed")
    assert sha256_of_all([tmp_path / "a", tmp_path / "b"]) != both


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "deep/a").write_bytes(b"weighed"),
        lambda folder: (folder / "deep/a").unlink(),
        lambda folder: (folder / "more").write_bytes(b""),
        lambda folder: (folder / "sha256.json").unlink(),
        lambda folder: (folder / "sha256.json").write_bytes(b"{"),
    ],
    ids=["changed", "gone", "another", "no seal", "broken seal"],
)
def test_a_sealed_folder_is_known_to_be_whole(tmp_path, damage):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a").write_bytes(b"weights")
    seal(tmp_path)
    assert is_sealed(tmp_path)
    damage(tmp_path)
    assert not is_sealed(tmp_path)


def test_what_was_sealed_comes_back_and_nothing_else():
    assert unsealed(sealed({"variant": "fp32"})) == {"variant": "fp32"}
    altered = json.loads(sealed({"variant": "fp32"})) | {"variant": "int8"}
    for junk in (json.dumps(altered).encode(), b"", b"[]", b"{}", b"3", b"\xff", b"[" * 100_000):
        assert unsealed(junk) == {}
