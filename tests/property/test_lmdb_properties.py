"""An LMDB against a tar of the same members, against itself, and against bytes that are no maps."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import msgpack
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.lmdbs import write_images, write_lmdb
from support.media import image_bytes
from support.reading import columns, fault, read_rows
from support.scripts import ROOT
from support.tars import write_tar

from mmray.coverage import Missing
from mmray.sources import EXTENSIONS, ReadOptions, Shard, read

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
change = st.tuples(st.booleans(), st.integers(0, 1 << 20), byte)  # in a head, which of its bytes, to what
stretch = st.sampled_from([2, 3, 5, 4096])


@contextmanager
def folder_with(entries):
    """A folder, while so many entries are found together, and as many lie between keys that are kept."""
    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch("mmray.sources.environment._MARK_ENTRIES", entries),
        mock.patch("mmray.sources.environment._CHUNK_ENTRIES", entries),
    ):
        yield Path(place)


def rows_of(path, *wanted, **options):
    """As `read_rows`, of an LMDB that need not be looked at by another process first."""
    shard = Shard(path.name, str(path), path.stat().st_size, "lmdb")
    blocks = read(shard, ReadOptions(**options), *([wanted] if wanted else []))
    return [row for block in blocks for row in block.to_pylist()]


@settings(deadline=None, max_examples=200)
@given(members, stretch, st.integers(1, 4))
def test_members_are_read_as_a_tar_of_the_same_in_order(members, stretch, block_rows):
    assume(len({name.lower() for name in members}) == len(members))
    entries = sorted({**FIRST, **members}.items(), key=lambda entry: entry[0].encode())
    with folder_with(stretch) as place:
        tar = read_rows(write_tar(place, entries))
        rows = rows_of(write_lmdb(place / "s.lmdb", entries), block_rows=block_rows)
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
        rows = rows_of(path)
        owner = [data.draw(st.integers(0, 2)) for _ in rows]
        again = []
        for worker in range(3):
            gaps = gaps_of([row for row, its in enumerate(owner) if its == worker], rows)
            if gaps and gaps[-1].last == len(rows) - 1 and data.draw(st.booleans(), label="total unknown"):
                gaps[-1] = gaps[-1]._replace(last=None)
            again += rows_of(path, *gaps, block_rows=data.draw(st.integers(1, 3))) if gaps else []
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


@cache
def sound_file(version):
    """Bytes of an LMDB with branches and large values, and the places in it that tell where others are."""
    entries = [(f"{i:04d}.{e}", b"%d" % i * 200 * (i % 5) ** 2) for i in range(90) for e in ("jpg", "txt")]
    with folder_with(4096) as place:
        data = write_lmdb(place / "s.lmdb", entries, lib_version=version).read_bytes()
    heads = [at + i for at in range(2 * 4096, len(data), 4096) for i in range(80)]
    keys = [data.index(name.encode()) for name, _ in entries]
    return data, heads, [at + i for at in keys for i in range(-8, 18)]


READER = """
import json, sys
from mmray.sources import ReadOptions, list_shards, read
for line in sys.stdin:
    faults = []
    for shard in list_shards(json.loads(line)):
        try:
            for block in read(shard, ReadOptions(views=True)): block.validate(full=True); block.to_pylist()
            faults.append("")
        except OSError as e: faults.append(str(e))
    print(json.dumps(faults), flush=True)
"""


@pytest.fixture(scope="module")
def reader():
    """Reads LMDBs in another process, so that one which ends it is found."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", READER], env=environment, **pipes) as process:
        yield process
        process.stdin.close()


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([0, 1]), st.lists(st.lists(change, min_size=1, max_size=3), min_size=30, max_size=30))
def test_damage_is_an_error_or_other_values_within_the_file(reader, version, damages):
    """Whatever bytes of its tree change; neither who lists the files ends by it nor who reads them."""
    whole, heads, nodes = sound_file(version)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, changes in enumerate(damages):
            damaged = bytearray(whole)
            for in_head, at, value in changes:
                places = heads if in_head else nodes
                damaged[places[at % len(places)]] = value
            paths.append(str(Path(folder) / f"{number:02d}.lmdb"))
            Path(paths[-1]).write_bytes(damaged)
        reader.stdin.write(json.dumps(paths) + "\n")
        reader.stdin.flush()
        answer = reader.stdout.readline()
        assert answer, changes
        assert len(json.loads(answer)) == len(paths)


def row_of(value):
    """The row of one map, in an environment whose layout another tells."""
    with folder_with(4096) as place:
        path = write_lmdb(place / "s.lmdb", [("0", msgpack.packb({"text": "first"})), ("1", value)])
        return rows_of(path)[1]
