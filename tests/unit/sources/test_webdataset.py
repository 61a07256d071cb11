"""A shard becomes rows: numbered, addressed, and grouped by the rules of the webdataset package."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest
from support.reading import columns, fault, read_rows, shard_at
from support.tars import BLOCK, THREE, good_records, write_shard, write_tar

from mmray.coverage import Missing
from mmray.schema import RECORDS
from mmray.sources import ReadOptions, read

PROCESS_IO = Path("/proc/self/io")


@pytest.fixture
def write(tmp_path):
    return partial(write_tar, tmp_path)


def test_each_record_is_a_row_with_its_members_in_their_columns(write):
    rows = read_rows(write(THREE))
    assert columns(rows, "row", "key", "image", "text", "audio", "meta") == [
        (0, "a", b"A", b"one", None, b"{}"),
        (1, "b", None, b"two", None, None),
        (2, "c", b"D", None, b"C", None),
    ]
    assert not any(row["error"] for row in rows)


def test_only_the_last_row_is_the_end(write):
    assert columns(read_rows(write(THREE), block_rows=1), "end") == [(False,), (False,), (True,)]


def test_rows_carry_the_shards_id_and_their_byte_ranges(write):
    path = write(THREE)
    rows = read_rows(path)
    assert {row["shard"] for row in rows} == {f"s.tar@{path.stat().st_size}"}
    assert columns(rows, "offset", "length") == [
        (0, 6 * BLOCK),
        (6 * BLOCK, 2 * BLOCK),
        (8 * BLOCK, 4 * BLOCK),
    ]


def test_blocks_have_the_schema_of_records(write):
    for block in read(shard_at(write(THREE)), ReadOptions(block_rows=2)):
        assert block.schema.equals(RECORDS)


@pytest.mark.parametrize(("block_rows", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_blocks_hold_at_most_block_rows(write, block_rows, sizes):
    path = write([(f"k{i}", {"txt": b"x"}) for i in range(7)])
    blocks = read(shard_at(path), ReadOptions(block_rows=block_rows))
    assert [block.num_rows for block in blocks] == sizes


def test_a_block_is_closed_as_soon_as_it_has_block_bytes(write):
    path = write([(f"k{i}", {"jpg": bytes(1000)}) for i in range(7)])
    blocks = read(shard_at(path), ReadOptions(block_bytes=2500))
    assert [block.num_rows for block in blocks] == [3, 3, 1]


@pytest.mark.parametrize(
    ("name", "key", "column"),
    [
        ("x.jpg", "x", "image"),
        ("x.JPEG", "x", "image"),
        ("dir.with.dots/x.png", "dir.with.dots/x", "image"),
        ("./x.txt", "./x", "text"),
        ("x.caption", "x", "text"),
        ("x.flac", "x", "audio"),
        ("x.json", "x", "meta"),
        ("x.seg.jpg", "x", None),  # the extension is all after the first dot
        ("x.pyd", "x", None),
    ],
)
def test_names_are_split_at_the_first_dot_of_the_file_name(write, name, key, column):
    (row,) = read_rows(write([(name, b"payload")]))
    assert row["key"] == key
    assert [c for c in ("image", "text", "audio", "meta") if row[c] is not None] == (
        [column] if column else []
    )


@pytest.mark.parametrize("name", ["README", ".hidden", "dir/README", "__meta__.json__", "__index__/0.json"])
def test_what_has_no_key_or_is_meta_information_is_no_record(write, name):
    rows = read_rows(write([("a.txt", b"1"), (name, b"2"), ("a.jpg", b"3"), ("b.txt", b"4")]))
    assert columns(rows, "key", "image", "text") == [("a", b"3", b"1"), ("b", None, b"4")]


def test_the_config_decides_which_extension_is_what(write):
    path = write([("a", {"heic": b"A", "jpg": b"B", "txt": b"C"})])
    (row,) = read_rows(path, extensions={"image": ("heic",), "text": (), "audio": (), "meta": ()})
    assert (row["image"], row["text"], fault(row)) == (b"A", None, None)


def test_a_row_ends_where_the_next_begins_so_that_reading_can_go_on_there(write):
    rows = read_rows(write(good_records(8)))
    assert [r["offset"] + r["length"] for r in rows[:-1]] == [r["offset"] for r in rows[1:]]


# Reading only what is missing


@pytest.mark.parametrize("known", [True, False], ids=["offset known", "offset unknown"])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 3), (2, 4), (3, None), (5, None), (5, 5), (0, None)])
def test_wanted_rows_are_the_same_as_in_a_full_read(write, first, last, known):
    path = write(good_records(6))
    rows = read_rows(path)
    start = rows[first]["offset"] if known else 0
    wanted = Missing(first, last, start)
    expected = [
        row | {"end": row["end"] and last is None} for row in rows[first : None if last is None else last + 1]
    ]
    got = read_rows(path, wanted)
    assert [row | {"end": row["end"] and last is None} for row in got] == expected


def test_several_gaps_are_read_in_one_walk(write):
    path = write(good_records(9))
    rows = read_rows(path)
    gaps = [
        Missing(1, 2, rows[1]["offset"]),
        Missing(4, 4, rows[4]["offset"]),
        Missing(7, None, rows[7]["offset"]),
    ]
    assert read_rows(path, *gaps) == [rows[i] for i in (1, 2, 4, 7, 8)]


def test_nothing_is_left_after_the_last_row(write):
    path = write(THREE)
    assert read_rows(path, Missing(3, None, read_rows(path)[-1]["offset"] + 4 * BLOCK)) == []


@pytest.mark.skipif(not PROCESS_IO.exists(), reason="needs Linux's count of the bytes that were read")
def test_only_wanted_payloads_are_read_from_the_disk(write):
    """The walk goes from header to header; payloads that nobody wants are not moved."""
    path = write([(f"k{i}", {"jpg": bytes(8_000_000), "txt": b"x"}) for i in range(3)])
    start = read_rows(path)[1]["offset"]
    for known in (start, 0):
        before = bytes_read()
        (row,) = read_rows(path, Missing(1, 1, known))
        assert len(row["image"]) == 8_000_000
        assert bytes_read() - before < 8_000_000 + 4_000_000


def bytes_read():
    """Bytes that this process has asked the kernel for."""
    return int(PROCESS_IO.read_text().partition("rchar:")[2].split()[0])


def test_a_shard_that_is_gone_is_an_oserror(write):
    shard = shard_at(write(THREE))
    gone = dataclasses.replace(shard, url=shard.url + ".gone")
    with pytest.raises(OSError, match="gone"):
        list(read(gone, ReadOptions()))


def test_bytes_are_passed_on_as_they_are(tmp_path):
    records = good_records(5)
    rows = read_rows(write_shard(tmp_path / "g.tar", records))
    for row, (key, fields) in zip(rows, records, strict=True):
        assert row["key"] == key
        assert {row[c] for c in ("image", "text", "audio", "meta")} - {None} == set(fields.values())
        assert json.loads(row["meta"])["number"] == row["row"]


def test_a_gap_behind_the_last_row_makes_no_other_row_the_last(write):
    path = write(THREE)
    stop = 12 * BLOCK
    assert columns(read_rows(path, Missing(0, 0, 0), Missing(3, None, stop)), "row", "end") == [(0, False)]
    assert read_rows(path, Missing(3, None, stop)) == []
