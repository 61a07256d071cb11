"""Compressed tars are read as a stream, and give the rows of the tar that they hold."""

import gzip
import io
import random

import pyarrow as pa
import pytest
from support.reading import columns, fault, read_rows, walk_all
from support.tars import BLOCK, THREE, cut_before, members_of, smashed_header, tar_bytes

from mmray.coverage import Missing
from mmray.sources.stream import DecompressedFile

TAR = tar_bytes(members_of(THREE))
LARGE = bytes(range(256)) * (3 << 12)  # 3 MiB, more than the file remembers


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESS = {"tar.gz": gzip.compress, "tgz": gzip.compress, "tar.zst": zstd}


@pytest.fixture(params=COMPRESS)
def write(request, tmp_path):
    """Write a tar compressed one way; returns its path."""

    def write_compressed(tar, cut=None):
        path = tmp_path / f"s.{request.param}"
        path.write_bytes(COMPRESS[request.param](tar)[:cut])
        return path

    return write_compressed


def test_a_compressed_tar_gives_the_rows_of_the_tar(write, tmp_path):
    (tmp_path / "s.tar").write_bytes(TAR)
    plain = read_rows(tmp_path / "s.tar")
    rows = read_rows(write(TAR))
    assert [row | {"shard": ""} for row in rows] == [row | {"shard": ""} for row in plain]
    assert columns(rows, "end") == [(False,), (False,), (True,)]


def test_a_shard_of_several_gzip_members_is_one_stream(tmp_path):
    """As pigz and `cat a.gz b.gz` make them."""
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(TAR[:1500]) + gzip.compress(TAR[1500:]))
    assert columns(read_rows(tmp_path / "s.tar.gz"), "key") == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize(
    "gaps", [[Missing(1, 1, 6 * BLOCK)], [Missing(0, 0, 0), Missing(2, None, 8 * BLOCK)]]
)
def test_what_is_done_is_passed_over(write, gaps):
    wanted = [row for gap in gaps for row in range(gap.first, 3 if gap.last is None else gap.last + 1)]
    assert columns(read_rows(write(TAR), *gaps), "row") == [(row,) for row in wanted]


def test_a_stream_that_breaks_off_is_a_row_with_an_error(write):
    """The rest is named, never missing in silence."""
    noise = random.Random(0).randbytes  # payloads that do not compress
    rows = read_rows(write(tar_bytes([(f"k{i}.jpg", noise(50_000)) for i in range(3)]), cut=75_000))
    assert columns(rows, "key", "end") == [("k0", False), ("k1", True)]
    assert [fault(row) for row in rows] == [None, "shard-truncated"]


def test_damaged_bytes_in_a_stream_are_a_row_that_says_so(tmp_path):
    packed = bytearray(gzip.compress(TAR, mtime=0))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "s.tar.gz").write_bytes(packed)
    last = read_rows(tmp_path / "s.tar.gz")[-1]
    assert last["end"]
    assert "compressed stream is damaged" in last["error"]["reason"]


def test_bytes_that_are_not_what_their_checksum_says_are_named_behind_the_end_mark_too(tmp_path):
    """The records are all there, and one of them is not what was packed: nobody knows which."""
    packed = bytearray(gzip.compress(TAR + bytes(300_000), compresslevel=0, mtime=0))
    packed[packed.index(b"one")] ^= 0x01
    (tmp_path / "s.tar.gz").write_bytes(packed)
    rows = read_rows(tmp_path / "s.tar.gz")
    assert [fault(row) for row in rows] == [None, None, "shard-damaged"]
    assert "compressed stream is damaged" in rows[-1]["error"]["reason"]


@pytest.mark.parametrize(
    "damaged", [smashed_header(TAR, "b.txt"), cut_before(TAR, "c.png"), b"", bytes(2048)]
)
def test_a_damaged_tar_is_damaged_in_the_same_way_compressed(write, tmp_path, damaged):
    (tmp_path / "s.tar").write_bytes(damaged)
    plain = read_rows(tmp_path / "s.tar")
    rows = read_rows(write(damaged))
    assert [(row["row"], row["key"], fault(row)) for row in rows] == [
        (row["row"], row["key"], fault(row)) for row in plain
    ]


def test_a_walk_without_a_known_size_ends_where_the_bytes_end():
    assert walk_all(TAR, size="unknown") == walk_all(TAR)


def test_a_file_steps_back_over_what_it_remembers():
    file = DecompressedFile(io.BytesIO(gzip.compress(LARGE)), "gzip")
    file.seek(2 << 20)
    assert file.read(8) == LARGE[2 << 20 :][:8]
    file.seek((2 << 20) - 1000)
    assert file.read(1000) == LARGE[(2 << 20) - 1000 : 2 << 20]
    with pytest.raises(ValueError, match="gone"):
        file.seek(0)


def test_a_file_ends_where_its_bytes_end():
    file = DecompressedFile(io.BytesIO(gzip.compress(LARGE)), "gzip")
    file.seek(1 << 40)
    assert (file.tell(), file.read(1), file.fault) == (len(LARGE), b"", None)


class FailingStore(io.BytesIO):
    """A store that breaks down in mid-file."""

    def read(self, size=-1, /):
        if self.tell() > 1 << 16:
            raise OSError("the store is gone")
        return super().read(size)


def test_a_store_that_fails_is_not_taken_for_damaged_bytes():
    """The shard must stay missing, and be read again."""
    store = FailingStore(gzip.compress(random.Random(0).randbytes(1 << 18)))
    file = DecompressedFile(store, "gzip")
    with pytest.raises(OSError, match="the store is gone"):
        file.read(1 << 18)
