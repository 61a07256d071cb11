"""An index cuts a shard into pieces that together are the shard."""

import gzip

import pytest
from support.reading import columns, read_rows, shard_at
from support.tars import THREE, good_records, members_of, tar_bytes, write_shard

from mmray.coverage import WHOLE, Missing
from mmray.errors import InputError
from mmray.sources import ReadOptions
from mmray.sources.index import Index, build_index, index_of, write_index

RECORDS = [(f"k{i:04d}", {"txt": b"%d" % i, "cls": b"x"}) for i in range(300)]


@pytest.fixture
def path(tmp_path):
    return write_shard(tmp_path / "s.tar", RECORDS)


@pytest.fixture
def index(path):
    return build_index(shard_at(path), ReadOptions())


@pytest.mark.parametrize("rows", [1, 64, 100, 299, 1000])
@pytest.mark.parametrize("cut", [WHOLE, Missing(70, None, 1), Missing(0, 130, 0), Missing(65, 66, 1)])
def test_the_pieces_of_a_gap_are_the_gap(path, index, rows, cut):
    whole = read_rows(path)
    gap = Missing(cut.first, cut.last, whole[cut.first]["offset"])
    pieces = list(index.cut(gap, lambda: rows))
    again = [row for piece in pieces for row in read_rows(path, piece)]
    expected = whole[gap.first : None if gap.last is None else gap.last + 1]
    assert columns(again, "row", "key", "text", "offset") == columns(expected, "row", "key", "text", "offset")
    assert [piece.last for piece in pieces][-1] == gap.last


def test_pieces_are_about_as_large_as_asked(index):
    sizes = [(299 if p.last is None else p.last) - p.first + 1 for p in index.cut(WHOLE, lambda: 100)]
    assert len(sizes) == 3
    assert max(sizes) <= 100 + 64


def test_an_index_is_found_beside_its_shard(path, index):
    write_index(shard_at(path))
    shard = shard_at(path)
    assert shard.indexed
    found = index_of(shard, ReadOptions())
    assert (found.rows, found.anchors.tolist()) == (index.rows, index.anchors.tolist())


def test_an_index_is_no_shard(path):
    write_index(shard_at(path))
    assert shard_at(path.parent).name == "s.tar"


def test_a_moved_shard_keeps_its_index(path, tmp_path):
    write_index(shard_at(path))
    (tmp_path / "deep").mkdir()
    for file in list(tmp_path.glob("s.tar*")):
        file.rename(tmp_path / "deep" / file.name)
    assert index_of(shard_at(tmp_path), ReadOptions()).rows == 300


def test_an_index_of_what_the_shard_was_before_is_refused_and_made_anew(path):
    write_index(shard_at(path))
    write_shard(path, RECORDS[:200])
    with pytest.raises(InputError, match="run `mmray index` again"):
        Index.load(shard_at(path))
    assert write_index(shard_at(path)).rows == 200
    assert Index.load(shard_at(path)).rows == 200


def test_so_is_one_of_another_content_of_the_same_size(path):
    """Its offsets would lead into the middle of records."""
    write_index(shard_at(path))
    size = path.stat().st_size
    write_shard(path, [("new", {"txt": b"long" * 200}), *RECORDS[:-2]])
    path.write_bytes(path.read_bytes()[:size].ljust(size, b"\0"))
    with pytest.raises(InputError, match=r"an earlier content of s\.tar@.*run `mmray index` again"):
        Index.load(shard_at(path))


@pytest.mark.parametrize("junk", [b"", b"junk", b"PAR1" + bytes(40) + b"PAR1"])
def test_a_file_that_is_no_index_is_refused_by_name(path, junk):
    (path.parent / "s.tar.mmidx").write_bytes(junk)
    with pytest.raises(InputError, match=r"s\.tar\.mmidx: not an index"):
        Index.load(shard_at(path))


def test_a_tar_without_an_index_is_not_split(path):
    assert index_of(shard_at(path), ReadOptions()) is None


def test_members_that_are_brought_together_are_not_split(path):
    write_index(shard_at(path))
    assert index_of(shard_at(path), ReadOptions(interleaved="regroup")) is None


def test_what_can_only_be_read_from_its_beginning_is_refused(tmp_path):
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(tar_bytes(members_of(THREE))))
    with pytest.raises(InputError, match="compressed"):
        build_index(shard_at(tmp_path / "s.tar.gz"), ReadOptions())
    apart = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3")]
    (tmp_path / "apart.tar").write_bytes(tar_bytes(apart))
    with pytest.raises(InputError, match="are not neighbours"):
        build_index(shard_at(tmp_path / "apart.tar"), ReadOptions())


def test_an_index_reads_no_payload(tmp_path):
    """Media of 300 records stay unread: the walk only meets headers."""
    path = write_shard(tmp_path / "s.tar", good_records(20))
    blocks = read_rows(path, payload=False)
    assert all(row[column] is None for row in blocks for column in ("image", "text", "audio", "meta"))
    assert columns(blocks, "row", "key", "offset", "length") == columns(
        read_rows(path), "row", "key", "offset", "length"
    )
