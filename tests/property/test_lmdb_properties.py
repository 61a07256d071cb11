"""An LMDB against a tar of the same members, against itself, and against bytes that are no maps."""

import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import msgpack
import numpy as np
import pyarrow as pa
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.lmdbs import write_images, write_lmdb
from support.media import image_bytes
from support.reading import columns, fault, read_rows, shard_at
from support.tars import write_tar

from mmray.coverage import Missing
from mmray.sources import EXTENSIONS, ReadOptions, read
from mmray.sources import maps as maps_module
from mmray.sources.pages import read_header
from mmray.sources.plain_maps import plain_fields
from mmray.sources.tree import Tree
from mmray.sources.views import Source

COLUMN_OF = {extension: column for column, extensions in EXTENSIONS.items() for extension in extensions}
PAYLOAD = tuple(EXTENSIONS)
FIRST = {"!.txt": b"tells the layout"}
PNG = image_bytes(size=(2, 2))

stem = st.text("ab_猫", min_size=1, max_size=3)
folder = st.lists(st.text("a.b", min_size=1, max_size=4), max_size=2)
extension = st.sampled_from(["jpg", "JPG", "png", "txt", "ogg", "json", "cls", "seg.png"])
name = st.one_of(
    st.builds(lambda f, s, e: "/".join([*f, f"{s}.{e}"]), folder, stem, extension),
    st.sampled_from(["__len__", "__meta__/a.jpg", "README", ".hidden", "a/.b", "a.b/c", "a."]),
    st.sampled_from(["__a.b__", "__a.c", "_.b__", "__.jpg", "a/.jpg", "a.b/.jpg", "a.jpg/b", "/a.jpg"]),
)
members = st.dictionaries(name, st.binary(max_size=9), min_size=1, max_size=30)
byte = st.sampled_from([0, 1, 2, 3, 255]) | st.integers(0, 255)
stretch = st.sampled_from([2, 3, 5, 4096])


@contextmanager
def folder_with(stretch_entries):
    """A folder, while keys are read ahead so many at a time."""
    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch("mmray.sources.lmdb._STRETCH_ENTRIES", stretch_entries),
    ):
        yield Path(place)


@settings(deadline=None, max_examples=200)
@given(members, stretch, st.integers(1, 4))
def test_members_are_read_as_a_tar_of_the_same_in_order(members, stretch, block_rows):
    assume(len({name.lower() for name in members}) == len(members))
    entries = sorted({**FIRST, **members}.items(), key=lambda entry: entry[0].encode())
    with folder_with(stretch) as place:
        tar = read_rows(write_tar(place, entries))
        rows = read_rows(write_lmdb(place / "s.lmdb", entries), block_rows=block_rows)
    assert [fault(row) for row in rows] == [fault(row) for row in tar]
    assert columns(rows, "row", "key", "end", *PAYLOAD) == columns(tar, "row", "key", "end", *PAYLOAD)


def maps(members):
    return [
        (name.replace("__", "_"), msgpack.packb({"txt": name, "meta": {"n": len(data)}}))
        for name, data in members
    ]


def write_one(place, layout, members):
    path = place / "s.lmdb"
    if layout == "images":
        captions = {name: f"of {name}" for i, name in enumerate(sorted(members)) if i % 3}
        return write_images(path, [(name, PNG) for name in members], captions)
    entries = dict(maps(members.items())) if layout == "msgpack" else {**FIRST, **members}
    return write_lmdb(path, entries.items())


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["members", "msgpack", "images"]), members, stretch, st.data())
def test_any_split_into_missing_rows_reads_what_a_full_read_reads(layout, members, stretch, data):
    """Whatever a crash left undone, reading it later gives the rows that the first run would have seen."""
    with folder_with(stretch) as place:
        path = write_one(place, layout, members)
        rows = read_rows(path)
        owner = [data.draw(st.integers(0, 2)) for _ in rows]
        again = []
        for worker in range(3):
            gaps = gaps_of([row for row, its in enumerate(owner) if its == worker], rows)
            if gaps and gaps[-1].last == len(rows) - 1 and data.draw(st.booleans(), label="total unknown"):
                gaps[-1] = gaps[-1]._replace(last=None)
            again += read_rows(path, *gaps, block_rows=data.draw(st.integers(1, 3))) if gaps else []
        assert sorted(again, key=lambda row: row["row"]) == rows
    assert [row["row"] for row in rows] == list(range(len(rows)))


def gaps_of(chosen, rows):
    """The Missing intervals that stand for the chosen row numbers, with the offsets of a full read."""
    stops = [0] + [row["offset"] + row["length"] for row in rows]  # of the row before each
    runs = []
    for row in chosen:
        if runs and runs[-1][-1] == row - 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return [Missing(run[0], run[-1], stops[run[0]]) for run in runs]


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=5), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
field = st.sampled_from(["image", "text", "audio", "meta", "jpg", "TXT", "label", "ü", ""])
fields = st.dictionaries(field, st.one_of(st.binary(max_size=300), st.text(max_size=40), plain), max_size=5)


def column_named(name):
    return COLUMN_OF.get(name.lower()) or (name if name in PAYLOAD else None)


@settings(deadline=None, max_examples=200)
@given(fields)
def test_maps_are_read_as_the_msgpack_package_reads_them(fields):
    known = {name: value for name, value in fields.items() if column_named(name) and value is not None}
    taken = [column_named(name) for name in known]
    row = row_of(msgpack.packb(fields))
    if len(set(taken)) < len(taken):
        assert fault(row) in ("repeated-member", "lmdb-layout")
    elif all(isinstance(value, bytes | str) for value in known.values()):
        expected = {column_named(n): v.encode() if isinstance(v, str) else v for n, v in known.items()}
        assert {c: row[c] for c in PAYLOAD if row[c] is not None} == expected
        assert row["error"] is None
    elif not isinstance(known.get("meta", {}), dict):
        assert fault(row) == "lmdb-layout"


@settings(deadline=None, max_examples=300)
@given(fields.map(msgpack.packb), st.data())
def test_no_bytes_are_anything_but_a_row(value, data):
    """Whatever is cut off, put in or changed."""
    kind = data.draw(st.sampled_from(["cut", "change", "random"]))
    if kind == "random":
        value = data.draw(st.binary(max_size=40))
    elif value:
        where = data.draw(st.integers(0, len(value) - 1))
        value = value[:where] + (
            b"" if kind == "cut" else data.draw(st.binary(max_size=3)) + value[where + 1 :]
        )
    row = row_of(value)
    if row["error"]:
        assert [row[c] for c in PAYLOAD] == [None] * 4
        return
    # The hook: of extensions that the format reserves msgpack makes no object, and a field that we pass over
    # may hold one.
    plain = msgpack.unpackb(value, raw=True, strict_map_key=False, ext_hook=lambda *_: None)
    assert isinstance(plain, dict)


@settings(deadline=None, max_examples=300)
@given(st.lists(fields, min_size=1, max_size=6), st.data())
def test_plain_maps_hold_what_is_found_one_by_one(maps, data):
    """Whatever is wrong with them or lies around them; and those that are plain are found to be."""
    values, sound = [msgpack.packb(each) for each in maps], [True] * len(maps)
    for i, value in enumerate(values):
        if data.draw(st.booleans()):
            cut = data.draw(st.integers(0, len(value)))
            values[i] = value[:cut] + data.draw(st.binary(max_size=3)) + value[cut + 1 :]
            sound[i] = False
    sizes = np.array([len(value) for value in values])
    behind = data.draw(st.sampled_from([b"", b"\xa4text\xa1t"]))
    source = Source(pa.py_buffer(b"".join([*values, behind]) or b"\0"))
    found = plain_fields(source, np.cumsum(sizes) - sizes, sizes, PLACES.get)
    contents = [[] for _ in values]
    for row, column, at, size in zip(*(each.tolist() for each in found[1:]), strict=True):
        contents[row].append((column, bytes(source.value(at, size))))
    for i, (value, plain) in enumerate(zip(values, found.plain.tolist(), strict=True)):
        if plain:
            one_by_one = [one for one in maps_module.fields(memoryview(value)) if not one.is_nil]
            assert contents[i] == [
                (PLACES.get(one.name), value[one.span.start : one.span.stop])
                for one in one_by_one
                if PLACES.get(one.name) >= 0
            ]
        else:
            assert contents[i] == []
            assert not sound[i] or not all(isinstance(v, bytes | str | None) for v in maps[i].values())


class Places(dict):
    """A column for some names."""

    def get(self, name):
        return super().get(name, -1)


PLACES = Places({"image": 0, "text": 1, "meta": 3, "ü": 2})


@cache
def sound_file(version):
    """Bytes of an LMDB with branches and large values, and the places in it that say where others are."""
    entries = [(f"{i:04d}.{e}", b"%d" % i * 200 * (i % 5) ** 2) for i in range(90) for e in ("jpg", "txt")]
    with folder_with(4096) as place:
        path = write_lmdb(place / "s.lmdb", entries, lib_version=version)
        tree = Tree(str(path), read_header(str(path)))
        places = tree.places(0, len(tree))
        data = path.read_bytes()
    heads = [at + i for at in range(2 * 4096, len(data), 4096) for i in range(80)]
    nodes = [int(key) + i for key in places.key for i in range(-8, 18)]
    return data, heads, nodes


@settings(deadline=None, max_examples=600)
@given(st.sampled_from([0, 1]), st.data())
def test_damage_is_an_error_or_other_values_within_the_file(version, data):
    """Whatever bytes of its tree change."""
    whole, heads, nodes = sound_file(version)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.sampled_from(data.draw(st.sampled_from([heads, nodes]))))] = data.draw(byte)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "s.lmdb"
        path.write_bytes(damaged)
        try:
            tree = Tree(str(path), read_header(str(path)))
            places = tree.places(0, len(tree))
            blocks = list(read(shard_at(path), ReadOptions(views=True)))
        except OSError:
            return
    for at, size in ((places.key, places.key_bytes), (places.value, places.value_bytes)):
        assert at.min() >= 0
        assert (at + size).max() <= len(whole)
    for block in blocks:
        block.validate(full=True)


def row_of(value):
    """The row of one map, in an environment whose layout another tells."""
    with folder_with(4096) as place:
        path = write_lmdb(place / "s.lmdb", [("0", msgpack.packb({"text": "first"})), ("1", value)])
        return read_rows(path)[1]
