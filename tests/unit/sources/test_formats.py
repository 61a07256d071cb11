"""What a file is, is told by its bytes; its name counts where these say nothing."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tars import THREE, members_of, smashed_header, tar_bytes
from support.tfrecords import tfrecord

from mmray.sources import list_shards, read, take_listing
from mmray.sources.formats import Kind, by_bytes, by_name
from mmray.sources.options import ReadOptions

TAR = tar_bytes(members_of(THREE))


def old_tar():
    """As of before POSIX: no magic, a checksum alone."""
    block = bytearray(tarfile.TarInfo("PAR1.txt").tobuf(tarfile.USTAR_FORMAT)[:512])
    block[257:512] = bytes(255)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def parquet():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": ["a", "b"], "text": ["one", "two"]}), sink)
    return sink.getvalue().to_pybytes()


def lmdb_bytes(folder):
    path = folder / "made.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False) as opened, opened.begin(write=True) as transaction:
        transaction.put(b"a.txt", b"one")
    return path.read_bytes()


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("a.txt", "one")
    return buffer.getvalue()


KINDS = {
    "tar": (TAR, Kind("webdataset")),
    "old tar": (old_tar(), Kind("webdataset")),
    "damaged tar": (TAR[:100] + b"\xff" + TAR[101:], Kind("webdataset")),
    "tar.gz": (gzip.compress(TAR), Kind("webdataset", "gzip")),
    "tar.zst": (zstd(TAR), Kind("webdataset", "zstd")),
    "pzstd": (b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd(TAR), Kind("webdataset", "zstd")),
    "parquet": (parquet(), Kind("parquet")),
    "tfrecord": (tfrecord([{"text": b"x"}]), Kind("tfrecord")),
    "tfrecord.gz": (gzip.compress(tfrecord([{"text": b"x"}])), Kind("tfrecord", "gzip")),
}


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.tar.zst", "s.parquet", "s.tfrecord", "s.lmdb"])
@pytest.mark.parametrize("held", KINDS)
def test_bytes_win_over_the_name(name, held):
    content, kind = KINDS[held]
    assert by_bytes(content[: 64 << 10], by_name(name)) == (kind, "")


@pytest.mark.parametrize("content", [b"", b"hi", bytes(4096), b"\xa5" * 4096, smashed_header(TAR, "a.jpg")])
@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.parquet", "s.tfrecord", "s.mdb"])
def test_bytes_that_tell_nothing_are_what_their_name_says(name, content):
    hint = by_name(name)
    assert by_bytes(content, hint) == (hint, "")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (zipped(), "a zip archive"),
        (bz2.compress(parquet()), "a Parquet file in bz2"),
        (bz2.compress(zipped()), "a zip archive; repack it as a tar in bz2"),
        (lzma.compress(TAR), "xz"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (gzip.compress(parquet()), "a Parquet file in gzip"),
        (zstd(parquet()), "a Parquet file in zstd"),
        (gzip.compress(zipped()), "a zip archive; repack it as a tar in gzip"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, content, named):
    """And stops no other shard."""
    (tmp_path / "a.tar").write_bytes(content)
    (tmp_path / "b.tar").write_bytes(TAR)
    bad, good = list_shards([str(tmp_path)])
    assert len(list(read(good, ReadOptions()))) == 1
    with pytest.raises(OSError, match=f"a.tar: is .*{named}"):
        list(read(bad, ReadOptions()))


def test_a_shard_is_read_as_what_it_is_and_that_is_said_once(tmp_path):
    contents = {"a.tar": gzip.compress(TAR), "b.tar.gz": TAR, "c.tar": parquet(), "d.parquet": TAR}
    for name, content in {**contents, "e.tar": lmdb_bytes(tmp_path), "made.lmdb": TAR, "f.tar": TAR}.items():
        (tmp_path / name).write_bytes(content)
    listing = take_listing([f"{tmp_path}/{name}" for name in ("?.tar*", "*.parquet", "*.lmdb")])
    keys = {
        shard.name: [key for block in read(shard, ReadOptions()) for key in block["key"].to_pylist()]
        for shard in listing.shards
    }
    tarred = ["a", "b", "c"]
    assert keys == {
        **dict.fromkeys(("a.tar", "b.tar.gz", "d.parquet", "f.tar", "made.lmdb"), tarred),
        "c.tar": ["a", "b"],
        "e.tar": ["a"],
    }
    (note,) = listing.notes
    assert note.startswith("files that are read by their content, not by their names (6): ")
    assert "a.tar is a tar in gzip" in note


def test_a_file_that_is_named_needs_no_suffix(tmp_path):
    (tmp_path / "records").write_bytes(parquet())
    listing = take_listing([str(tmp_path / "records")])
    assert (listing.shards[0].format, listing.notes) == ("parquet", [])
