"""An LMDB becomes rows: whatever its layout, from any row on, and never at the price of the process."""

import dataclasses
import gc
import json
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import lmdb
import msgpack
import pyarrow as pa
import pytest
from support.lmdbs import commit, write_images, write_lmdb, write_maps, write_members
from support.media import image_bytes
from support.reading import columns, fault, read_rows, shard_at
from support.scripts import ROOT
from support.tars import THREE, good_records, write_tar

from mmray.coverage import Missing
from mmray.errors import InputError
from mmray.schema import RECORDS, VIEWS
from mmray.sources import ReadOptions, environment, list_shards, read
from mmray.sources.lmdb import layout_of
from mmray.sources.lmdb_check import data_file

PAYLOAD = ("image", "text", "audio", "meta")
PNG = image_bytes()
CORPUS = ROOT / "tests" / "fault" / "corpus"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.lmdb"


# Rows


def test_each_group_of_members_is_a_row(path):
    rows = read_rows(write_members(path, THREE))
    assert columns(rows, "row", "key", *PAYLOAD) == [
        (0, "a", b"A", b"one", None, b"{}"),
        (1, "b", None, b"two", None, None),
        (2, "c", b"D", None, b"C", None),
    ]
    assert not any(row["error"] for row in rows)
    assert columns(rows, "end") == [(False,), (False,), (True,)]


def test_offsets_and_lengths_are_entries(path):
    assert columns(read_rows(write_members(path, THREE)), "offset", "length") == [(0, 3), (3, 1), (4, 2)]


def test_a_tar_and_its_members_and_its_maps_give_the_same_rows(path, tmp_path):
    records = good_records(40)
    tar = read_rows(write_tar(tmp_path, records))
    for write, name in ((write_members, "members"), (write_maps, "msgpack")):
        assert layout_of(shard_at(write(path, records))) == name
        rows = read_rows(path, block_rows=7)
        assert columns(rows, "row", "key", "end", "error", *PAYLOAD) == columns(
            tar, "row", "key", "end", "error", *PAYLOAD
        )


@pytest.mark.parametrize("subdir", [True, False], ids=["directory", "file"])
def test_an_environment_is_a_directory_or_a_file(path, subdir):
    write_members(path, THREE, subdir=subdir)
    shard = shard_at(path)
    assert shard.size == data_file(str(path)).stat().st_size
    assert shard.id == f"s.lmdb@{shard.size}t1"
    assert {row["shard"] for row in read_rows(path)} == {shard.id}


@pytest.mark.parametrize("block_rows", [1, 2, 3, 100])
def test_blocks_have_the_schema_and_at_most_block_rows(path, block_rows):
    write_members(path, good_records(5))
    blocks = list(read(shard_at(path), ReadOptions(block_rows=block_rows)))
    assert all(block.schema.equals(RECORDS) for block in blocks)
    assert [block.num_rows for block in blocks[:-1]] == [block_rows] * (len(blocks) - 1)
    assert sum(block.num_rows for block in blocks) == 5
    for block in blocks:
        block.validate(full=True)


def test_a_block_is_closed_as_soon_as_it_has_block_bytes(path):
    write_members(path, [(f"k{i}", {"jpg": bytes([i]) * 1000}) for i in range(7)])
    blocks = list(read(shard_at(path), ReadOptions(block_bytes=2500)))
    assert [block.num_rows for block in blocks] == [3, 3, 1]
    assert [row["image"][0] for block in blocks for row in block.to_pylist()] == list(range(7))


@pytest.mark.parametrize("version", [0, 1], ids=["LMDB 0.9", "LMDB 1.0"])
def test_both_file_formats_are_read(path, version):
    """Also where the tree of keys has branches."""
    for count in (3, 3000):
        write_members(path, [(f"{i:04d}", {"txt": b"%d" % i}) for i in range(count)], lib_version=version)
        assert [row["text"] for row in read_rows(path)] == [b"%d" % i for i in range(count)]


@pytest.mark.parametrize("version", [0, 1], ids=["LMDB 0.9", "LMDB 1.0"])
def test_values_are_found_behind_keys_of_any_length(path, version):
    """Within their page and in pages of their own; LMDB 1.0 begins them at even places."""
    records = [("k" * size, {"jpg": b"%d" % size * (3000 if size % 3 else 1)}) for size in range(1, 40)]
    rows = read_rows(write_members(path, records, lib_version=version))
    assert columns(rows, "key", "image") == [(key, fields["jpg"]) for key, fields in records]


def test_the_id_of_a_shard_has_the_transaction_that_lmdb_says(path):
    write_members(path, good_records(30), subdir=True)
    commit(path, "z.txt", "later", subdir=True)
    with lmdb.open(str(path), readonly=True, lock=False) as opened:
        assert shard_at(path).id.endswith(f"t{opened.info()['last_txnid']}")


# Names of members


@pytest.mark.parametrize(
    ("name", "key", "column"),
    [
        ("x.jpg", "x", "image"),
        ("x.JPEG", "x", "image"),
        ("dir.with.dots/x.png", "dir.with.dots/x", "image"),
        ("./x.txt", "./x", "text"),
        ("x.seg.jpg", "x", None),
        ("x.pyd", "x", None),
        ("äöü.txt", "äöü", "text"),
    ],
)
def test_names_are_split_as_those_of_a_tar(path, name, key, column):
    write_lmdb(path, [(name, b"payload"), ("0.txt", b"so that the layout is known")])
    (row,) = (row for row in read_rows(path) if row["key"] != "0")
    assert row["key"] == key
    assert [c for c in PAYLOAD if row[c] is not None] == ([column] if column else [])


@pytest.mark.parametrize("name", ["a.d/README", "README", ".hidden", "__len__", "__index__/0.json", "a."])
def test_what_is_no_member_is_passed_over_but_counted(path, name):
    rows = read_rows(write_lmdb(path, [("a.jpg", b"3"), (name, b"2"), ("a.txt", b"1"), ("z.txt", b"4")]))
    assert columns(rows, "key", "image", "text") == [("a", b"3", b"1"), ("z", None, b"4")]
    entries = sorted(["a.jpg", name, "a.txt", "z.txt"])
    assert [row["offset"] for row in rows] == [entries.index("a.jpg"), 3]
    assert rows[0]["offset"] + rows[0]["length"] == entries.index("a.txt") + 1


def test_a_key_that_is_not_utf8_is_shown_in_hexadecimal(path):
    rows = read_rows(write_lmdb(path, [(b"a.txt", b"1"), (b"\xff\xfe.txt", b"2"), (b"\xff\xff.txt", b"3")]))
    assert columns(rows, "key", "text") == [("a", b"1"), ("0xfffe", b"2"), ("0xffff", b"3")]


def test_two_members_of_one_column_are_an_error(path):
    rows = read_rows(
        write_members(path, [("a", {"jpg": b"1", "png": b"2"}), ("b", {"JPG": b"1", "jpg": b"2"})])
    )
    assert [fault(row) for row in rows] == ["repeated-member", "repeated-member"]
    assert rows[0]["image"] is None
    assert "a.png" in rows[0]["error"]["reason"]


@pytest.mark.parametrize("folders", [1, 3000], ids=["in one stretch", "over stretches"])
def test_members_that_lie_apart_are_an_error_wherever_reading_begins(path, folders):
    """Sorted keys put `a.d/…` between `a.c` and `a.jpg`."""
    between = [(f"a.d/{i:06d}.{e}", b"x") for i in range(folders) for e in ("jpg", "txt")]
    write_lmdb(path, [("a.cls", b"1"), *between, ("a.jpg", b"2"), ("a.txt", b"3"), ("b.txt", b"4")])
    rows = read_rows(path)
    assert [row["key"] for row in rows] == ["a", *(f"a.d/{i:06d}" for i in range(folders)), "a", "b"]
    assert [i for i, row in enumerate(rows) if row["error"]] == [folders + 1]
    assert fault(rows[-2]) == "interleaved-members"
    assert read_rows(path, Missing(folders + 1, None, rows[-2]["offset"])) == rows[-2:]


def test_a_record_after_a_folder_that_begins_as_it_does_is_whole(path):
    rows = read_rows(write_lmdb(path, [("a.d/x.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"3")]))
    assert columns(rows, "key", "image", "error") == [("a.d/x", b"1", None), ("a", b"2", None)]


def test_a_record_may_have_many_members(path):
    """More than are looked at together."""
    many = [(f"b.x{i:05d}", b"") for i in range(5000)]
    write_lmdb(path, [("a.txt", b"1"), *many, ("b.y.txt", b"2"), ("b.zzz", b""), ("c.txt", b"3")])
    rows = read_rows(path)
    assert columns(rows, "key", "offset", "length") == [("a", 0, 1), ("b", 1, 5002), ("c", 5003, 1)]
    assert read_rows(path, Missing(1, 1, 1))[0] == rows[1]


# msgpack maps


def packed(**fields):
    return msgpack.packb(fields)


def rows_of_values(path, *values, **options):
    write_lmdb(
        path,
        [("0", packed(text="so that the layout is known")), *((f"k{i}", v) for i, v in enumerate(values))],
    )
    return read_rows(path, **options)[1:]


def test_fields_are_named_by_column_or_extension(path):
    (row,) = rows_of_values(
        path, packed(image=b"1", TXT="zwei", ogg=b"3", meta={"ü": [1, None, 2.5]}, label=7)
    )
    assert (row["image"], row["text"], row["audio"], fault(row)) == (b"1", b"zwei", b"3", None)
    assert json.loads(row["meta"]) == {"ü": [1, None, 2.5]}


@pytest.mark.parametrize("meta", ['{"a": 1}', b'{"a": 1}', {"a": 1}])
def test_metadata_is_a_map_or_json(path, meta):
    (row,) = rows_of_values(path, packed(text=b"t", meta=meta))
    assert json.loads(row["meta"]) == {"a": 1}


def test_nil_and_an_empty_map_are_missing_modalities(path):
    rows = rows_of_values(path, packed(image=None, text=b"t"), packed())
    assert columns(rows, *PAYLOAD, "error") == [(None, b"t", None, None, None), (None,) * 5]


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("kind", [bytes, str])
def test_strings_of_every_length_are_read(path, size, kind):
    (row,) = rows_of_values(path, packed(text="x" * size if kind is str else b"x" * size))
    assert row["text"] == b"x" * size


def nested(depth):
    return b"\x91" * depth + b"\x01"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"", "lmdb-layout"),
        (b"just text", "lmdb-layout"),
        (msgpack.packb([1, 2]), "lmdb-layout"),
        (packed(text=b"t") + b"\x01", "lmdb-layout"),
        (packed(text=b"t" * 300)[:-1], "lmdb-layout"),
        (packed(text=b"t" * 300)[:7], "lmdb-layout"),
        (b"\x81", "lmdb-layout"),
        (b"\x81\xa4text", "lmdb-layout"),
        (b"\xdf\xff\xff\xff\xff", "lmdb-layout"),
        (b"\xde\x00", "lmdb-layout"),
        (b"\x81\xa4text\xdb\xff\xff\xff\xffx", "lmdb-layout"),
        (msgpack.packb({1: b"t"}), "lmdb-layout"),
        (msgpack.packb({b"\xff": b"t"}), "lmdb-layout"),
        (packed(text=5), "lmdb-layout"),
        (packed(image={"a": 1}), "lmdb-layout"),
        (packed(image=msgpack.ExtType(5, b"x")), "lmdb-layout"),
        (packed(meta=msgpack.ExtType(5, b"x")), "lmdb-layout"),
        (packed(meta={"when": msgpack.Timestamp(0)}), "lmdb-layout"),
        (packed(meta={"raw": b"\xff"}), "lmdb-layout"),
        (packed(meta={"nan": float("nan")}), "lmdb-layout"),
        (msgpack.packb({"meta": {1: 2}}, strict_types=True), "lmdb-layout"),
        (b"\x81\xa4meta\x81\xa1a\xc1", "lmdb-layout"),
        (b"\x81\xa4meta\x81\xa1a" + nested(100_000), "lmdb-layout"),
        (b"\x82\xa4text\xa1t\xa5other" + nested(100_000), "lmdb-layout"),
        (packed(meta={"a": [0] * (2 << 20)}), "lmdb-layout"),
        (packed(image=b"1", jpg=b"2"), "repeated-member"),
        (pickle.dumps({"image": b"x"}), "lmdb-pickle"),
        (pickle.dumps({"image": b"x"}, 2), "lmdb-pickle"),
    ],
)
def test_a_value_that_is_no_such_map_is_a_row_with_an_error(path, value, kind):
    first, second = rows_of_values(path, value, packed(text=b"t"))
    assert fault(first) == kind
    assert [first[c] for c in PAYLOAD] == [None] * 4
    assert (second["text"], second["error"]) == (b"t", None)


def test_a_hostile_map_costs_little_memory(path):
    """64 MB of maps within a map would be 4 GB of Python objects."""
    hostile = b"\x82\xa4text\xa1t\xa4meta\xdd" + struct.pack(">I", 64 << 20) + b"\x80" * (64 << 20)
    write_lmdb(path, [("0", packed(text=b"t")), ("1", hostile)])
    script = (
        "import resource, sys; from support.reading import read_rows\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        "print([row['error'] and row['error']['type'] for row in read_rows(sys.argv[1])])"
    )
    done = run_script(script, path)
    assert done.stdout.strip() == "[None, 'lmdb-layout']", done.stderr


# Images with captions


def test_images_find_their_captions_beside_the_environment(path):
    write_images(
        path, [("a", PNG), ("b\xff", PNG), ("c", PNG)], {"a": "one", "aa": "nobody's", "c": "drei\tü"}
    )
    rows = read_rows(path)
    assert layout_of(shard_at(path)) == "images"
    assert columns(rows, "key", "image", "text", "error") == [
        ("a", PNG, b"one", None),
        ("b\xff", PNG, None, None),
        ("c", PNG, "drei\tü".encode(), None),
    ]


@pytest.mark.parametrize("captions", [None, {}], ids=["no file", "empty file"])
def test_captions_may_be_missing(path, captions):
    rows = read_rows(write_images(path, [("a", PNG), ("b", PNG)], captions))
    assert columns(rows, "image", "text", "audio") == [(PNG, None, None)] * 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_images_of_every_format_are_known(path, format):
    (row,) = read_rows(write_images(path, [("a", image_bytes(format))]))
    assert row["error"] is None


def test_captions_are_found_from_any_row_on(path):
    keys = [f"{i:04d}" for i in range(0, 300, 2)]
    captions = {f"{i:04d}": f"caption {i}" for i in range(0, 300, 3)}
    rows = read_rows(write_images(path, [(key, PNG) for key in keys], captions))
    assert [row["text"] and row["text"].decode() for row in rows] == [captions.get(key) for key in keys]
    for first in range(0, 150, 7):
        assert read_rows(path, Missing(first, first + 1, first)) == rows[first : first + 2]
    backwards = [read_rows(path, Missing(i, i, i))[0] for i in range(149, 0, -10)]
    assert backwards == [rows[i] for i in range(149, 0, -10)]


def test_captions_survive_blocks_that_are_cut_short(path):
    captions = {f"{i}": f"caption {i}" for i in range(8)}
    write_images(path, [(f"{i}", PNG) for i in range(8)], captions)
    rows = read_rows(path, block_bytes=1, block_rows=4)
    assert [row["text"].decode() for row in rows] == list(captions.values())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"b\tone\na\ttwo\n", "byte 6: key b'a' comes after b'b'"),
        (b"a\tone\na\ttwo\n", "byte 6: key b'a' comes after b'a'"),
        (b"a\tone\nno tab\n", "byte 6: not a line of a key"),
        (b"a\tone\n\nb\ttwo\n", "byte 6: not a line"),
        (b"\tone\n", "byte 0: not a line"),
        (b"k" * 600 + b"\tone\n", "byte 0: not a line of a key .of at most 511 bytes"),
    ],
)
def test_captions_that_are_not_sorted_lines_are_refused(path, lines, said):
    write_images(path, [("a", PNG), ("b", PNG), ("c", PNG)])
    path.with_name("s.lmdb.captions.tsv").write_bytes(lines)
    with pytest.raises(OSError, match=said) as e:
        read_rows(path)
    assert "s.lmdb.captions.tsv" in str(e.value)
    assert "LC_ALL=C sort" in str(e.value) or "correct or delete" in str(e.value)


def test_a_last_line_needs_no_newline(path):
    write_images(path, [("a", PNG), ("b", PNG)])
    path.with_name("s.lmdb.captions.tsv").write_bytes(b"a\tone\nb\ttwo")
    assert [row["text"] for row in read_rows(path)] == [b"one", b"two"]


def test_an_entry_that_is_no_image_is_a_row_with_an_error(path):
    images = [("a", PNG), ("b", b"text"), ("c", pickle.dumps(1)), ("d", PNG)]
    rows = read_rows(write_images(path, images, {name: f"of {name}" for name, _ in images}))
    assert [fault(row) for row in rows] == [None, "lmdb-layout", "lmdb-pickle", None]
    assert [row["text"] for row in rows] == [b"of a", None, None, b"of d"]


# Layouts that are refused


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("key", ["0", "0.jpg"])
def test_pickles_are_refused_and_never_loaded(path, protocol, key):
    class Trap:
        def __reduce__(self):
            return (os.abort, ())

    write_lmdb(path, [("__len__", b"x"), (key, pickle.dumps(Trap(), protocol))])
    for call in (layout_of, lambda shard: list(read(shard, ReadOptions()))):
        with pytest.raises((InputError, OSError), match=f"s.lmdb: key b'{key}' has a Python pickle.*rewrite"):
            call(shard_at(path))


def test_an_unknown_layout_is_refused_with_what_was_seen(path):
    write_lmdb(path, [("n01440764_1", b"\x01\x02 raw pixels")])
    with pytest.raises(InputError, match=r"s.lmdb: key b'n01440764_1' holds 13 bytes .*'010220726177") as e:
        layout_of(shard_at(path))
    with pytest.raises(OSError, match="check `extensions`"):
        read_rows(path)
    assert "msgpack map" in str(e.value)


def test_notes_before_the_first_record_do_not_hide_it(path):
    notes = [(f"__{i:03d}__", pickle.dumps(i)) for i in range(200)]
    rows = read_rows(write_images(path, [*notes, ("a", PNG)]))
    assert columns(rows, "key", "offset", "row") == [("a", 200, 0)]


def test_an_empty_environment_is_one_row_with_an_error(path):
    for entries in ([], [("__len__", b"0")]):
        (row,) = read_rows(write_lmdb(path, entries))
        assert (fault(row), row["end"], row["row"], row["offset"]) == ("shard-empty", True, 0, 0)
        assert row["length"] == len(entries)


def test_extensions_of_the_config_tell_the_layout(path):
    write_lmdb(path, [("a.ppm", b"1")])
    with pytest.raises(OSError, match="check `extensions`"):
        read_rows(path)
    (row,) = read_rows(path, extensions={"image": ("ppm",), "text": (), "audio": (), "meta": ()})
    assert row["image"] == b"1"


# Views


def views_of(path, **options):
    return list(read(shard_at(path), ReadOptions(views=True, **options)))


def test_views_are_what_copies_are(path):
    """Of every layout, with values that lie in the file, beside it, or that were made."""
    records = good_records(30)
    captions = {f"{i}": f"a caption of more than twelve bytes {i}" for i in range(0, 30, 3)}
    for write in (
        lambda: write_members(path, [*records, ("twice", {"jpg": b"1", "png": b"2"})]),
        lambda: write_maps(
            path, [*records, ("map", {"text": "t", "meta": {"is": "made"}}), ("bad", {"jpg": 1})]
        ),
        lambda: write_images(path, [(f"{i}", PNG) for i in range(30)], captions),
    ):
        write()
        blocks = views_of(path, block_rows=7)
        assert all(block.schema.equals(VIEWS) for block in blocks)
        for block in blocks:
            block.validate(full=True)
        assert [row for block in blocks for row in block.to_pylist()] == read_rows(path)


def test_views_copy_no_large_value(path):
    write_members(path, [(f"k{i}", {"jpg": bytes(1 << 20)}) for i in range(20)])
    before = pa.total_allocated_bytes()
    blocks = views_of(path)
    assert sum(block.num_rows for block in blocks) == 20
    assert pa.total_allocated_bytes() - before < 1 << 16


@pytest.mark.parametrize("write", [write_members, write_maps])
def test_values_of_every_length_are_viewed(path, write):
    """Within the view, beside others, and in the file; also as parts of a map."""
    sizes = [0, 1, 4, 11, 12, 13, 100, 1023, 1024, 1025, 2040, 4095, 4096, 4097, 70_000]
    payload = {size: os.urandom(size) for size in sizes}
    rng = random.Random(7)
    order = [size for _ in range(20) for size in rng.sample(sizes, len(sizes))]
    write(path, [(f"{i:04d}", {"jpg": payload[n], "txt": b"t" * (i % 2)}) for i, n in enumerate(order)])
    blocks = views_of(path, block_rows=50)
    for block in blocks:
        block.validate(full=True)
    assert [row["image"] for block in blocks for row in block.to_pylist()] == [payload[n] for n in order]


def test_views_outlive_the_environment_and_its_file(path):
    rows = read_rows(write_members(path, good_records(12)))
    blocks = views_of(path, block_rows=5)
    path.unlink()
    gc.collect()
    read_rows(write_members(path, [("x", {"txt": b"new"})]))
    assert [row for block in blocks for row in block.to_pylist()] == rows


def test_an_environment_that_nobody_refers_to_is_unmapped(path):
    blocks = views_of(write_members(path, [("k", {"jpg": bytes(10_000)})]))
    assert str(path) in Path("/proc/self/maps").read_text()
    del blocks
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_no_value_is_looked_at_far_ahead_of_its_block(path):
    """Of the 64 entries that are found together, lmdb sees the first page; the system maps those beside."""
    write_members(path, [(f"k{i:03d}", {"jpg": bytes(64 << 10)}) for i in range(800)])
    blocks = read(shard_at(path), ReadOptions(views=True, block_bytes=512 << 10))
    next(blocks)
    (mapped,) = re.findall(rf"{path}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    assert int(mapped) < 800 * 64 / 4


def test_an_empty_environment_has_the_schema_of_views(path):
    (block,) = views_of(write_lmdb(path, []))
    assert block.schema.equals(VIEWS)


# Limits


def test_a_member_that_is_too_large_is_a_row_with_an_error(path):
    records = [("a", {"jpg": bytes(2000), "txt": b"t"}), ("b", {"jpg": bytes(1000)})]
    for write in (write_members, write_maps):
        first, second = read_rows(write(path, records), member_bytes=1000)
        assert (fault(first), first["image"], first["text"]) == ("member-too-large", None, None)
        assert "1000" in first["error"]["reason"]
        assert len(second["image"]) == 1000


def test_a_map_that_is_too_large_is_not_read(path):
    write_maps(path, [("a", {"txt": b"t"}), ("b", {"other": bytes(5000)})])
    assert [fault(row) for row in read_rows(path, member_bytes=1000)] == [None, "member-too-large"]


def test_a_caption_that_is_too_large_is_a_row_with_an_error(path):
    write_images(path, [("a", PNG), ("b", PNG)], {"a": "x" * 5000, "b": "short"})
    rows = read_rows(path, member_bytes=4000)
    assert [fault(row) for row in rows] == ["member-too-large", None]


@pytest.mark.parametrize(("what", "kept"), [("first two rows", 2), ("addresses", 0)])
def test_payload_that_is_not_wanted_is_not_touched(path, what, kept):
    """It is cut off while the reader is at work, which ends a process that touches it."""
    write_members(path, [(f"k{i}", {"jpg": bytes([65 + i]) * 100_000, "txt": b"x"}) for i in range(3)])
    start = path.read_bytes().index(bytes([65 + kept]) * 100)
    script = (
        "import os, sys; from mmray.coverage import Missing; from mmray.sources import ReadOptions, read\n"
        "from support.reading import shard_at\n"
        "path, cut, addresses = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'addresses'\n"
        "options = ReadOptions(block_rows=1, payload=not addresses)\n"
        "blocks = read(shard_at(path), options, [Missing(0, None if addresses else 1, 0)])\n"
        "next(blocks)\n"
        "os.truncate(path, cut)\n"
        "print(*(block['key'][0] for block in blocks))"
    )
    done = run_script(script, path, start, what)
    assert done.stdout.split() == (["k1"] if kept else ["k1", "k2"]), done.stderr


def run_script(script, *arguments):
    """Run a script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )


# Reading only what is missing


@pytest.mark.parametrize("known", [True, False], ids=["offset known", "offset unknown"])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 3), (2, 4), (3, None), (5, None), (5, 5), (0, None)])
@pytest.mark.parametrize("write", [write_members, write_maps])
def test_wanted_rows_are_the_same_as_in_a_full_read(path, write, first, last, known):
    rows = read_rows(write(path, good_records(6)))
    wanted = Missing(first, last, rows[first]["offset"] if known else 0)
    assert read_rows(path, wanted) == rows[first : None if last is None else last + 1]


def test_gaps_far_apart_are_each_gone_to(path):
    """Beyond the first remembered keys, in either order of calls."""
    write_lmdb(path, [(f"{i:06d}.{e}", b"%d" % i) for i in range(9_000) for e in ("cls", "txt")])
    rows = read_rows(path, block_rows=1000)
    chosen = (8_999, 3, 4_000, 600)
    for row in chosen:
        assert read_rows(path, Missing(row, row, 2 * row)) == [rows[row]]
    gaps = [Missing(row, row, 2 * row) for row in sorted(chosen)]
    assert read_rows(path, *gaps) == [rows[row] for row in sorted(chosen)]


def test_without_payload_rows_are_the_same_but_for_it(path):
    for write in (write_members, write_maps):
        rows = read_rows(write(path, good_records(9)))
        bare = read_rows(path, payload=False)
        assert bare == [row | dict.fromkeys(PAYLOAD) for row in rows]


def test_nothing_is_left_after_the_last_row(path):
    write_members(path, THREE)
    assert read_rows(path, Missing(3, None, 6)) == []


def test_an_iterator_may_be_driven_from_several_threads(path):
    rows = read_rows(write_members(path, good_records(12)))
    blocks = read(shard_at(path), ReadOptions(block_rows=1))
    got = []
    for _ in range(12):
        thread = threading.Thread(target=lambda: got.extend(next(blocks).to_pylist()))
        thread.start()
        thread.join()
    assert got == rows
    assert next(blocks, None) is None


def test_iterators_may_be_driven_by_threads_at_once(path):
    rows = read_rows(write_members(path, good_records(300)))
    with ThreadPoolExecutor(8) as pool:
        assert all(got == rows for got in pool.map(lambda n: read_rows(path, block_rows=n), range(1, 30)))


# Environments that are opened once, and changed


def environments_open():
    """How many, without those that only the tracebacks of earlier tests hold."""
    gc.collect()
    return len(environment._environments)


def test_readers_share_one_environment_and_it_goes_when_it_was_replaced(path):
    write_members(path, THREE)
    shard = shard_at(path)
    first, second = (read(shard, ReadOptions(block_rows=1)) for _ in range(2))
    next(first), next(second)
    assert environments_open() == 1
    other = write_members(path.with_name("new"), [("x", {"txt": b"new"})])
    other.replace(path)
    assert [row["key"] for row in read_rows(path)] == ["x"]
    # The readers of the old file go on with it, and the last of them lets go of it.
    assert [row["key"] for block in first for row in block.to_pylist()] == ["b", "c"]
    assert environments_open() == 1
    second.close()
    assert environments_open() == 0


def test_one_file_under_two_names_is_opened_once(path):
    write_members(path, THREE)
    link = path.with_name("link.lmdb")
    os.link(path, link)
    one, other = environment.opened(str(path)), environment.opened(str(link))
    assert [bytes(key) for key, _ in one.walk()] == [bytes(key) for key, _ in other.walk()]
    assert environments_open() == 1


def test_an_environment_that_nobody_reads_is_closed_and_may_be_opened_by_others(path):
    for i in range(30):
        read_rows(write_members(path.with_name(f"{i}.lmdb"), THREE))
    assert environments_open() == 0
    with lmdb.open(str(path.with_name("29.lmdb")), subdir=False, readonly=True, lock=False) as opened:
        assert opened.stat()["entries"] == 6


def test_an_environment_is_opened_again_while_another_thread_lets_go_of_it(path):
    rows = read_rows(write_members(path, THREE))
    with ThreadPoolExecutor(4) as pool:
        assert all(got == rows for got in pool.map(lambda _: read_rows(path), range(200)))


def test_a_file_that_was_written_to_is_read_anew_also_while_its_old_rows_are_there(path):
    write_members(path, [("a", {"jpg": bytes(10_000)})])
    blocks = views_of(path)
    commit(path, "b.txt", "new")
    assert [row["key"] for row in read_rows(path)] == ["a", "b"]
    assert blocks[0].to_pylist()[0]["image"] == bytes(10_000)


def test_what_a_writer_adds_is_a_new_shard_and_ends_old_readers(path):
    write_members(path, THREE)
    shard = shard_at(path)
    blocks = read(shard, ReadOptions(block_rows=1))
    next(blocks)
    commit(path, "zz.txt", "new")
    assert (shard.id[-2:], shard_at(path).id[-2:]) == ("t1", "t2")
    with pytest.raises(OSError, match="changed while it was read"):
        next(blocks)
    assert [row["key"] for row in read_rows(path)] == ["a", "b", "c", "zz"]


def test_behind_a_lock_a_reader_goes_on_with_what_it_began_with(path):
    write_members(path, THREE)
    Path(f"{path}-lock").touch()
    blocks = read(shard_at(path), ReadOptions(block_rows=1))
    next(blocks)
    commit(path, "bb.txt", "new")
    assert [row["key"] for block in blocks for row in block.to_pylist()] == ["b", "c"]
    assert [row["key"] for row in read_rows(path)] == ["a", "b", "bb", "c"]


@pytest.mark.parametrize("subdir", [True, False], ids=["directory", "file"])
def test_no_lock_file_is_made(path, subdir):
    write_members(path, THREE, subdir=subdir)
    read_rows(path)
    assert [p.name for p in path.parent.rglob("*") if "lock" in p.name] == []


def test_a_shard_that_changed_since_it_was_listed_is_refused(path):
    write_members(path, THREE)
    shard = shard_at(path)
    for _ in range(2):
        commit(path, "zz.txt", "new")
    with pytest.raises(
        OSError, match=r"s.lmdb: changed since the run was planned: transaction 3, was 1; run"
    ):
        list(read(shard, ReadOptions()))


WRITER = """
import lmdb, sys
with lmdb.open(sys.argv[1], subdir=False, map_size=1 << 28, sync=False, lock=sys.argv[2] == "True") as opened:
    for i in range(2000):
        with opened.begin(write=True) as transaction:
            transaction.put(b"%05d.txt" % i, b"new %05d" % i * 20)
            transaction.put(b"new-%05d.txt" % i, b"new %05d" % i * 20)
        if not i: print("writes", flush=True)
"""
READER = """
import sys
from mmray.sources import ReadOptions, list_shards, read
def expected(commits):
    old = [("%05d" % i, (b"new %05d" if i < commits else b"old %05d") % i * 20) for i in range(2000)]
    return old + [("new-%05d" % i, b"new %05d" % i * 20) for i in range(commits)]
seen, first = 0, True
while seen < 2000:
    shard, rows, fault = list_shards([sys.argv[1]])[0], [], None
    seen = int((shard.id + "t0").split("t")[-2]) - 1 if "t" in shard.id.rpartition("@")[2] else seen
    try:
        for block in read(shard, ReadOptions(block_rows=7)):
            rows += [(row["key"], row["text"]) for row in block.to_pylist()]
            if first: print("reads", flush=True); sys.stdin.readline(); first = False
    except OSError as e: fault = str(e).partition(": ")[2].partition(";")[0].partition(":")[0]
    assert rows == expected(seen)[:len(rows) if fault else None], (shard, rows, fault)
    print(len(rows), fault, flush=True)
"""


@pytest.mark.parametrize("locked", [True, False], ids=["lock file", "no lock file"])
def test_a_busy_writer_never_puts_other_records_under_known_rows(path, locked):
    """2000 commits: rows are those of the snapshot that was listed, or reading ends with an OSError."""
    write_members(path, [(f"{i:05d}", {"txt": b"old %05d" % i * 20}) for i in range(2000)])
    if locked:
        Path(f"{path}-lock").touch()
    begin = partial(
        subprocess.Popen,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    with begin([sys.executable, "-c", READER, str(path)]) as reader:
        assert reader.stdout.readline() == "reads\n"
        with begin([sys.executable, "-c", WRITER, str(path), str(locked)]) as writer:
            assert writer.stdout.readline() == "writes\n"
            said, faults = reader.communicate("go\n", timeout=120)
    assert (writer.returncode, reader.returncode) == (0, 0), faults
    first, *others = said.splitlines()
    assert first == "2000 None" if locked else first.endswith("changed while it was read")
    assert others[-1] == "4000 None"
    assert {line.partition(" ")[2] for line in others} <= {
        "None",
        "changed while it was read",
        "changed since the run was planned",
    }


# Named databases


def write_named(path, version=0):
    """Two named databases; the main one lists them."""
    with lmdb.open(str(path), subdir=False, max_dbs=4, lock=False, lib_version=version) as opened:
        for name in ("one", "two"):
            database = opened.open_db(name.encode())
            with opened.begin(write=True, db=database) as transaction:
                for i in range(200):
                    transaction.put(f"{i:04d}.txt".encode(), f"{name} {i}".encode())
    return path


@pytest.mark.parametrize("version", [0, 1], ids=["LMDB 0.9", "LMDB 1.0"])
def test_a_named_database_is_read(path, version):
    write_named(path, version)
    for name in ("one", "two"):
        rows = read_rows(path, database=name)
        assert [row["text"].decode() for row in rows] == [f"{name} {i}" for i in range(200)]
        assert read_rows(path, Missing(150, 151, 150), database=name) == rows[150:152]
    assert layout_of(shard_at(path), ReadOptions(database="one")) == "members"


@pytest.mark.parametrize("version", [0, 1], ids=["LMDB 0.9", "LMDB 1.0"])
def test_a_main_database_that_only_lists_others_is_refused(path, version):
    write_named(path, version)
    with pytest.raises(
        OSError, match=r"s.lmdb: its main database only lists others: one, two; .*lmdb.database"
    ):
        read_rows(path)


def test_a_database_that_is_not_there_is_refused_with_those_that_are(path):
    write_named(path)
    with pytest.raises(OSError, match=r"s.lmdb: no database 'three' .*there are: one, two"):
        read_rows(path, database="three")
    write_members(path, THREE)
    with pytest.raises(OSError, match=r"no database 'a.jpg' .*there are: none"):
        read_rows(path, database="a.jpg")


def test_records_of_the_size_of_a_listing_are_records(path):
    rows = read_rows(write_members(path, [(f"{i:02d}", {"txt": b"x" * 48}) for i in range(30)]))
    assert [row["text"] for row in rows] == [b"x" * 48] * 30


@pytest.mark.parametrize("flag", ["dupsort", "reverse_key", "integerkey"])
def test_keys_in_another_order_are_refused(path, flag):
    with lmdb.open(str(path), subdir=False, max_dbs=1, lock=False) as opened:
        database = opened.open_db(b"one", **{flag: True})
        with opened.begin(write=True, db=database) as transaction:
            for i in range(3):
                transaction.put(i.to_bytes(8, sys.byteorder), b"x")
                transaction.put(i.to_bytes(8, sys.byteorder), b"y")
    with pytest.raises(OSError, match=r"s.lmdb: keys are reversed, integers or repeated; rewrite"):
        read_rows(path, database="one")


# Environments that cannot be opened


@pytest.mark.parametrize("version", [0, 1], ids=["LMDB 0.9", "LMDB 1.0"])
def test_a_truncated_environment_is_refused(path, version):
    """Wherever it was cut: to touch what is missing would end the process."""
    write_members(path, good_records(20), subdir=True, lib_version=version)
    script = (
        "import os, sys; from support.reading import read_rows\n"
        "path = sys.argv[1]\n"
        "whole = read_rows(path)\n"
        "for size in range(os.path.getsize(path + '/data.mdb') - 1, -1, -1001):\n"
        "    os.truncate(path + '/data.mdb', size)\n"
        "    rows = read_rows(path)\n"
        "    reason = rows[0]['error'] and rows[0]['error']['reason'].partition(': ')[2]\n"
        "    print('whole' if rows == whole else reason if len(rows) == 1 else 'other rows')\n"
    )
    done = run_script(script, path)
    said = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert len(said) > 60, done.stderr
    assert set(said) <= {"whole", "truncated"}
    assert said.count("truncated") > 60
    assert said.count("whole") < 5  # free pages at the end


def test_free_pages_at_the_end_may_be_missing(path):
    """LMDB itself does not write them where the last transaction freed them."""
    with lmdb.open(str(path), subdir=False, lock=False, sync=False, map_size=1 << 26) as opened:
        for put, delete in (("ab", "b"), ("c", ""), ("d", "cd")):
            with opened.begin(write=True) as transaction:
                for name in put:
                    transaction.put(f"{name}.txt".encode(), bytes(60_000))
                for name in delete:
                    transaction.delete(f"{name}.txt".encode())
        pages = opened.info()["last_pgno"] + 1
        page_bytes = opened.stat()["psize"]
    assert path.stat().st_size < pages * page_bytes
    assert [row["key"] for row in read_rows(path)] == ["a"]


def test_what_is_no_lmdb_is_refused(path):
    path.write_bytes(b"anything" * 2000)
    assert shard_at(path).id == "s.lmdb@16000"
    assert "not an LMDB" in lost(path)["reason"]


def lost(path):
    """The error of the one row that stands for all the records of a damaged LMDB."""
    (row,) = read_rows(path)
    assert (row["row"], row["end"], row["offset"], row["length"]) == (0, True, 0, 0)
    assert (row["error"]["stage"], fault(row)) == ("shard", "shard-damaged")
    assert read_rows(path, Missing(1, None, 1)) == []
    with pytest.raises(OSError, match=re.escape(row["error"]["reason"])):
        layout_of(shard_at(path))
    return row["error"]


@pytest.mark.parametrize("version", [0, 1], ids=["LMDB 0.9", "LMDB 1.0"])
@pytest.mark.parametrize("junk", [b"\0", pytest.param(b"\xa5", marks=pytest.mark.long)])
def test_a_page_that_was_never_copied_does_not_end_the_process(path, version, junk):
    """LMDB itself would abort it; a copy that broke off may leave such holes."""
    write_members(path, good_records(60), lib_version=version)
    script = (
        "import sys; from pathlib import Path; from support.reading import read_rows\n"
        "path, junk = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]) * 4096\n"
        "whole = path.read_bytes()\n"
        "for at in range(0, len(whole), 4096):\n"
        "    path.write_bytes(whole[:at] + junk + whole[at + 4096 :])\n"
        "    (error, *_), count = [row['error'] for row in read_rows(path)], len(read_rows(path))\n"
        "    print('damaged' if error and error['stage'] == 'shard' and count == 1 else 'rows')"
    )
    done = run_script(script, path, junk.hex())
    said = [line.split()[0] for line in done.stdout.splitlines()]
    assert len(said) == len(path.read_bytes()) // 4096, done.stderr
    assert said.count("damaged") > 3
    assert "rows" in said  # pages that are free, or within a large value


def test_listing_goes_on_behind_a_file_that_ends_the_process_that_looks_at_it(path):
    """It is damaged where liblmdb aborts: the leaves of a tree of two levels are no pages of it."""
    whole = write_members(path, good_records(60)).read_bytes()
    folder = path.parent
    path.unlink()
    names = [f"{i:02d}.lmdb" for i in range(len(whole) // 4096 - 2)]
    for i, name in enumerate(names):
        at = (i + 2) * 4096
        (folder / name).write_bytes(whole[:at] + b"\xff" * 4096 + whole[at + 4096 :])
        (folder / f"{name[:2]}-sound.lmdb").write_bytes(whole)
    shards = {shard.name: shard for shard in list_shards([str(folder)])}
    assert [name for name, shard in shards.items() if "sound" in name and shard.fault] == []
    faults = [shards[name].fault for name in names if shards[name].fault]
    assert len(faults) > 3
    assert all(re.search(r"/\d\d.lmdb: damaged: .*; copy it again$", fault) for fault in faults)
    # A plan has no faults, but that the shard has no transaction.
    (faulty, *_) = (shards[name] for name in names if shards[name].fault)
    planned = type(faulty).from_list(faulty.to_list())
    (row,) = (row for block in read(planned, ReadOptions()) for row in block.to_pylist())
    assert row["error"]["stage"] == "shard"
    assert row["error"]["reason"] in faulty.fault
    (folder / faulty.name).write_bytes(whole)
    with pytest.raises(OSError, match="could not be read when it was listed, but can be now; run again"):
        list(read(planned, ReadOptions()))


def test_a_file_of_which_nothing_is_found_is_refused_all_the_same(path, monkeypatch):
    write_members(path, THREE)
    script = path.with_name("dies.py")
    script.write_text("import os; os.abort()")
    monkeypatch.setattr("mmray.sources.lmdb_check.__file__", str(script))
    assert shard_at(path).fault == f"{path}: reading it ended the process: signal 6; copy it again"
    assert "signal 6" in lost(path)["reason"]
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")  # as for want of memory
    with pytest.raises(OSError, match="signal 9"):
        read_rows(path)


def damaged_header(path, offset, value):
    data = bytearray(path.read_bytes())
    for meta in (16, 4096 + 16):
        data[meta + offset : meta + offset + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (24, struct.pack("=I", 0), "damaged: .* page size 0"),
        (24, struct.pack("=I", 5000), "damaged: .* page size 5000"),
        (120, struct.pack("=Q", 1 << 60), "damaged: .* 1152921504606846977"),
        (104, struct.pack("=Q", 1 << 60), "damaged: 1152921504606846976 entries, but 6 keys"),
    ],
)
def test_headers_that_make_no_sense_are_refused(path, offset, value, said):
    write_members(path, THREE)
    damaged_header(path, offset, value)
    assert re.search(said, lost(path)["reason"])


def test_a_header_that_says_that_keys_are_repeated_is_refused(path):
    damaged_header(write_members(path, THREE), 76, struct.pack("=H", 0x04))
    with pytest.raises(OSError, match="repeated"):
        read_rows(path)


def test_whatever_lmdb_trips_over_is_damage_of_that_file_alone(path):
    """A page size of 0 once ended each run over the directory of this one with a ZeroDivisionError."""
    shutil.copy(CORPUS / "zero_page.lmdb", path)
    assert "page size" in lost(path)["reason"]


def test_pages_that_cannot_be_read_on_are_one_row_or_those_that_were_asked_for(path, monkeypatch):
    """They could when it was listed. Of an open gap nobody knows how many rows are lost."""
    write_members(path, [(f"{i:03d}", {"txt": b"x"}) for i in range(200)])
    shard = shard_at(path)
    walk = environment.Snapshot._cursor_at

    def breaking(self, entry):
        class Broken:
            def iternext(self, **options):
                yield from islice(walk(snapshot, entry).iternext(**options), max(0, 130 - entry))
                raise lmdb.PageNotFoundError("a page of another life")

        snapshot = self
        return Broken()

    monkeypatch.setattr(environment.Snapshot, "_cursor_at", breaking)

    def rows(*wanted):
        return [row for block in read(shard, ReadOptions(block_rows=7), wanted) for row in block.to_pylist()]

    every = rows(Missing(0, None, 0))
    assert [row["row"] for row in every] == list(range(len(every)))
    assert [row["end"] for row in every] == [False] * (len(every) - 1) + [True]
    assert [fault(row) for row in every] == [None] * (len(every) - 1) + ["shard-damaged"]
    assert "PageNotFoundError" in every[-1]["error"]["reason"]
    assert len(every) == 128  # chunks of 64 entries come whole, and the last record of them may go on
    some = rows(Missing(100, 149, 100), Missing(160, 160, 160))
    assert [row["row"] for row in some] == [*range(100, 150), 160]
    assert [row["row"] for row in some if row["error"]] == [*range(100, 150), 160]
    assert not any(row["end"] for row in some)
    assert {row["error"]["stage"] for row in some if row["error"]} == {"shard"}
    monkeypatch.undo()
    assert len(read_rows(path)) == 200


def test_a_shard_that_is_gone_is_an_oserror(path):
    shard = shard_at(write_members(path, THREE))
    with pytest.raises(OSError, match="gone"):
        list(read(dataclasses.replace(shard, url=shard.url + ".gone"), ReadOptions()))


def test_an_lmdb_on_an_object_store_is_refused(tmp_path, monkeypatch):
    write_members(tmp_path / "s.lmdb", THREE)
    monkeypatch.setattr("mmray.storage.Location.is_local", False)
    with pytest.raises(InputError, match=r"s.lmdb: an LMDB can only be read from a local disk"):
        list_shards([str(tmp_path)])
