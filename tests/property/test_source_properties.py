"""TFRecords and Parquet files against the libraries that write them, against themselves, and damaged."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reading import fault, read_rows
from support.tfrecords import example, example_class, tfrecord

from mmray.coverage import missing, of_rows
from mmray.sources import EXTENSIONS

#: Names of features that are not those of extensions.
BUILT_IN = {
    "image": ("image/encoded", "image"),
    "text": ("text", "image/caption"),
    "audio": ("audio/encoded", "audio"),
    "meta": ("meta",),
}
KEYS = ("key", "__key__", "image/filename", "id")


@contextmanager
def on_disk(data, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def is_whole(rows):
    """Whether these are the rows of a whole shard, each beginning where the one before it ends."""
    numbered = [row["row"] for row in rows] == list(range(len(rows)))
    ended = [row["end"] for row in rows] == [False] * (len(rows) - 1) + [True]
    stops = [0, *(row["offset"] + row["length"] for row in rows)]
    bare = all(row[column] is None for row in rows if row["error"] for column in EXTENSIONS)
    return numbered and ended and bare and [row["offset"] for row in rows] == stops[:-1]


def read_in_parts(path, rows, data):
    """The rows as read by workers among whom they are shared in any way, each told what it lacks."""
    owner = [data.draw(st.integers(0, 2)) for _ in rows]
    again = []
    for worker in set(owner):
        others = [(row["row"], row["offset"] + row["length"]) for row in rows if owner[row["row"]] != worker]
        total = data.draw(st.sampled_from([len(rows), None]), label="total known")
        gaps = missing(of_rows(others), total)
        again += read_rows(path, *gaps, block_rows=data.draw(st.integers(1, 3)))
    return sorted(again, key=lambda row: row["row"])


# TFRecords

integers = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(
    st.binary(max_size=300),
    integers,
    st.lists(st.binary(max_size=5), max_size=3),
    st.lists(integers, max_size=3),
    st.lists(st.floats(width=32), min_size=1, max_size=3),
)
names = st.sampled_from(["jpg", "png", "txt", *sum(BUILT_IN.values(), ()), *KEYS, "label", "\xe9"])
#: Fields that another version of the message might have: of number 15, one of each wire type.
unknown = st.sampled_from([b"", b"\x78\x96\x01", b"\x79" + bytes(8), b"\x7a\x02hi", b"\x7d" + bytes(4)])
messages = st.tuples(unknown, st.dictionaries(names, values, max_size=6).map(example), unknown).map(b"".join)


def protobuf_reads(data):
    """What protobuf makes of an Example: whether it can be used, its key, and what is in each column."""
    message = example_class()()
    message.ParseFromString(data)
    first = {
        name: getattr(feature, kind).value[0]
        for name, feature in message.features.feature.items()
        if (kind := feature.WhichOneof("kind")) and getattr(feature, kind).value
    }
    keys = [first[name] for name in KEYS if isinstance(first.get(name), bytes | int)]
    key = [k.decode(errors="backslashreplace") if isinstance(k, bytes) else str(k) for k in keys]
    found = []
    for column, extensions in EXTENSIONS.items():
        by_rank = [
            [first[name] for name in names if isinstance(first.get(name), bytes)]
            for names in (extensions, BUILT_IN[column])
        ]
        found.append(by_rank[0] or by_rank[1])
    sound = all(len(values) < 2 for values in found)
    return sound, key[:1], [values[0] if sound and values else None for values in found]


@settings(deadline=None, max_examples=100)
@given(st.lists(messages, min_size=1, max_size=5), st.data())
def test_examples_are_read_as_protobuf_reads_them_and_in_any_parts(records, data):
    with on_disk(tfrecord(records), "s.tfrecord") as path:
        rows = read_rows(path)
        assert is_whole(rows)
        assert read_in_parts(path, rows, data) == rows
    for row, record in zip(rows, records, strict=True):
        sound, key, columns = protobuf_reads(record)
        assert fault(row) == (None if sound else "repeated-member")
        assert [row["key"]] == (key or [str(row["row"])])
        assert [row[column] for column in EXTENSIONS] == columns


EXAMPLE = example({"key": b"k", "image": bytes(300), "text": [b"x", b"y"], "id": [7, 8], "f": 1.5})
mutated = st.tuples(st.integers(0, len(EXAMPLE) - 1), st.binary(max_size=4)).map(
    lambda at: EXAMPLE[: at[0]] + at[1] + EXAMPLE[at[0] + len(at[1]) :]
)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=60), mutated))
def test_no_bytes_in_a_sound_frame_cost_more_than_their_row(data):
    with on_disk(tfrecord([EXAMPLE, data, EXAMPLE]), "s.tfrecord") as path:
        rows = read_rows(path)
    assert is_whole(rows)
    assert [(row["key"], fault(row)) for row in rows[::2]] == [("k", None)] * 2
    assert fault(rows[1]) in (None, "record-malformed", "repeated-member")


SHARD = tfrecord({"key": b"%d" % i, "image": bytes([i]) * 40 * i} for i in range(8))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(SHARD) - 1), st.integers(0, 255), st.data())
def test_one_damaged_byte_costs_its_record_or_all_from_there_on(at, flip, data):
    """A flip of nothing stands for a file that breaks off there."""
    damaged = SHARD[:at] + bytes([SHARD[at] ^ flip]) + SHARD[at + 1 :] if flip else SHARD[:at]
    with on_disk(SHARD, "s.tfrecord") as path:
        whole = read_rows(path)
    with on_disk(damaged, "s.tfrecord") as path:
        rows = read_rows(path)
        assert is_whole(rows)
        assert read_in_parts(path, rows, data) == rows
    hit = max(i for i, row in enumerate(whole) if row["offset"] <= at)
    begin = whole[hit]["offset"]
    follow = whole[hit + 1 :] if flip and at >= begin + 12 else []  # unless its length is not to be believed
    lost = [] if not flip and at == begin and at else [None]
    assert [row["image"] for row in rows] == [
        *(row["image"] for row in whole[:hit]),
        *lost,
        *(row["image"] for row in follow),
    ]


# Parquet files

cells = st.one_of(st.none(), st.binary(max_size=40), st.integers(0, 30).map(lambda n: bytes(100 * n)))
texts = st.one_of(st.none(), st.text(max_size=10))
tables = st.lists(st.tuples(cells, texts, st.one_of(st.none(), integers)), min_size=1, max_size=20)
layouts = st.fixed_dictionaries(
    {
        "row_group_size": st.integers(1, 20),
        "data_page_size": st.sampled_from([1, 200, 1 << 20]),
        "write_batch_size": st.sampled_from([1, 3, 1024]),
        "use_dictionary": st.booleans(),
        "compression": st.sampled_from(["none", "snappy", "zstd"]),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
    }
)
EMBEDDED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet_bytes(rows, embedded, layout):
    images, captions, ids = (list(column) for column in zip(*rows, strict=True))
    if embedded:
        images = [image if image is None else {"bytes": image, "path": "x"} for image in images]
    columns = {
        "image": pa.array(images, EMBEDDED if embedded else pa.binary()),
        "text": pa.array(captions, pa.string()),
        "id": pa.array(ids, pa.int64()),
        "faces": [[1.5]] * len(ids),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **layout)
    return sink.getvalue().to_pybytes()


@settings(deadline=None, max_examples=100)
@given(tables, st.booleans(), layouts, st.data())
def test_tables_are_read_as_they_were_written_and_in_any_parts(table, embedded, layout, data):
    with on_disk(parquet_bytes(table, embedded, layout), "s.parquet") as path:
        rows = read_rows(path)
        assert is_whole(rows)
        assert read_in_parts(path, rows, data) == rows
    assert [(row["image"], row["text"], row["key"]) for row in rows] == [
        (image, None if text is None else text.encode(), str(i if id is None else id))
        for i, (image, text, id) in enumerate(table)
    ]


TABLE = [(bytes([i]) * 50, f"text {i % 3}", i) for i in range(12)]
damages = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)


@pytest.mark.timeout(60)
@settings(deadline=None, max_examples=150)
@given(layouts, st.booleans(), damages)
def test_no_damage_of_a_parquet_file_raises_or_hangs(layout, embedded, damages):
    content = bytearray(parquet_bytes(TABLE, embedded, layout))
    for place, value in damages:
        content[round(place * (len(content) - 1))] = value
    with on_disk(bytes(content), "s.parquet") as path:
        rows = read_rows(path)
    assert is_whole(rows)
    assert len(rows) in (1, len(TABLE))
