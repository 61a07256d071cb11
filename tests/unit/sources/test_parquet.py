"""A Parquet file becomes rows: by column names, with what is damaged named instead of raised."""

import dataclasses
import io
import uuid
from decimal import Decimal
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.reading import columns, fault, read_rows, shard_at
from support.tars import good_records

from mmray.coverage import WHOLE, Missing
from mmray.schema import RECORDS
from mmray.sources import EXTENSIONS, ReadOptions, parquet, read

#: An image or a clip as Hugging Face's datasets store it (datasets.features.Image and Audio, storage type).
EMBEDDED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

TEXTS = {"key": ["a", "b", "c"], "text": ["one", "two", "three"]}


@pytest.fixture
def write(tmp_path):
    return partial(write_parquet, tmp_path)


def write_parquet(folder, content, **options):
    """Write s.parquet of bytes, a table or its columns; returns its path."""
    path = folder / "s.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), path, **options)
    return path


def test_each_row_has_its_columns(write):
    path = write(
        {
            "key": ["a", "b", "c"],
            "image": [b"A", None, b"D"],
            "text": ["one", "zw\xf6lf", None],
            "audio": [None, None, b"C"],
            "meta": ["{}", None, None],
            "width": [1, 2, 3],
            "faces": [[1.0], [], None],
        }
    )
    rows = read_rows(path)
    assert columns(rows, "row", "key", "image", "text", "audio", "meta") == [
        (0, "a", b"A", b"one", None, b"{}"),
        (1, "b", None, "zw\xf6lf".encode(), None, None),
        (2, "c", b"D", None, b"C", None),
    ]
    assert not any(row["error"] for row in rows)
    assert columns(rows, "offset", "length", "end") == [(0, 1, False), (1, 1, False), (2, 1, True)]
    assert {row["shard"] for row in rows} == {f"s.parquet@{path.stat().st_size}"}


def test_images_and_clips_of_hugging_face_datasets_are_read(write):
    images = pa.array([{"bytes": b"A", "path": "a.jpg"}, {"bytes": b"B", "path": None}, None], EMBEDDED)
    clips = pa.array([None, {"bytes": b"", "path": "b.wav"}, {"bytes": None, "path": None}], EMBEDDED)
    rows = read_rows(write({"image": images, "audio": clips, "text": ["x", "y", "z"]}))
    assert columns(rows, "image", "audio") == [(b"A", None), (b"B", b""), (None, None)]
    assert not any(row["error"] for row in rows)


def test_paths_are_not_followed(write, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"A")
    place = str(tmp_path / "a.jpg")
    images = pa.array([{"bytes": None, "path": place}, {"bytes": b"B", "path": place}], EMBEDDED)
    rows = read_rows(write({"image": images, "audio": ["https://host/a.wav", None], "text": ["x", "y"]}))
    assert [(row["image"], row["text"], fault(row)) for row in rows] == [
        (None, None, "parquet-path"),
        (b"B", b"y", None),
    ]
    assert "'image' is a path" in rows[0]["error"]["reason"]


@pytest.mark.parametrize(
    "type",
    [
        *[pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)],
        *[pa.string(), pa.large_string(), pa.string_view(), pa.json_()],
        *[pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.binary())],
    ],
    ids=str,
)
def test_text_and_keys_are_of_any_type_that_holds_bytes(write, type):
    values = pa.array([b"one", None, b"six"]).cast(pa.string()).cast(type)
    path = write({"text": values, "id": values})
    assert pq.read_schema(path).field("text").type == type
    rows = read_rows(path)
    assert columns(rows, "text", "key") == [(b"one", "one"), (None, "1"), (b"six", "six")]


def test_text_that_is_not_utf8_is_for_the_decoder_to_say(write):
    broken = pa.array([b"caf\xe9"]).view(pa.string())
    (row,) = read_rows(write({"text": broken, "key": broken}))
    assert (row["text"], row["key"], fault(row)) == (b"caf\xe9", "caf\\xe9", None)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *[("image", "image"), ("jpg", "image"), ("PNG", "image"), ("audio", "audio"), ("flac", "audio")],
        *[("text", "text"), ("caption", "text"), ("txt", "text"), ("TEXT", "text")],
        *[("meta", "meta"), ("json", "meta"), ("images", None), ("image.bytes", None)],
    ],
)
def test_columns_are_told_by_their_names(write, name, column):
    (row,) = read_rows(write({name: [b"payload"], "webp" if column != "image" else "txt": [b"other"]}))
    found = {c: row[c] for c in EXTENSIONS if row[c] not in (None, b"other")}
    assert found == ({column: b"payload"} if column else {})


def test_the_config_decides_which_column_is_what(write):
    path = write({"heic": [b"A"], "image": [b"B"], "jpg": [b"C"], "audio": [b"D"]})
    (row,) = read_rows(path, extensions={"image": ("heic",), "text": ("audio",)})
    assert (row["image"], row["text"], row["audio"]) == (b"A", b"D", None)


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"key": ["k", None], "id": [7, 8]}, ["k", "1"]),
        ({"__key__": ["k", "l"], "id": [7, 8]}, ["k", "l"]),
        ({"id": [7, -8]}, ["7", "-8"]),
        ({"id": pa.array([2**64 - 1, 0], pa.uint64())}, ["18446744073709551615", "0"]),
        ({"id": [Decimal("1.50"), None]}, ["1.50", "1"]),
        ({"id": [True, False]}, ["True", "False"]),
        ({"id": ["k" * 5000, ""]}, ["k" * 1024, ""]),
        ({"id": [[1], [2]], "key": [{"bytes": b"a"}, None]}, ["0", "1"]),
        ({"id": pa.array([2**62, 0], pa.timestamp("us"))}, ["0", "1"]),  # after the year 9999
        ({}, ["0", "1"]),
    ],
)
def test_the_key_is_a_column_or_else_the_row(write, content, keys):
    rows = read_rows(write({"text": ["x", "y"], **content}))
    assert [row["key"] for row in rows] == keys


def test_a_column_may_be_both_key_and_text(write):
    rows = read_rows(write({"id": ["x", "y"]}), extensions={"text": ("id",)})
    assert columns(rows, "key", "text") == [("x", b"x"), ("y", b"y")]


def test_a_uuid_is_a_key(write):
    id = uuid.uuid4()
    (row,) = read_rows(write({"text": ["x"], "id": pa.array([id.bytes], pa.uuid())}))
    assert row["key"] == id.bytes.decode(errors="backslashreplace")


def test_blocks_have_the_schema_of_records_and_keep_the_bounds(write):
    shard = shard_at(write({"image": [bytes(1000)] * 7}))
    assert all(block.schema.equals(RECORDS) for block in read(shard, ReadOptions()))
    assert [block.num_rows for block in read(shard, ReadOptions(block_rows=3))] == [3, 3, 1]
    assert [block.num_rows for block in read(shard, ReadOptions(block_bytes=1500))] == [2, 2, 2, 1]


def test_bytes_are_passed_on_as_they_are(write):
    records = good_records(15)
    names = ["jpg", "png", "webp", "txt", "wav", "ogg", "flac", "json"]
    cells = {name: pa.array([fields.get(name) for _, fields in records], pa.binary()) for name in names}
    rows = read_rows(write({"key": [key for key, _ in records], **cells}, row_group_size=4))
    for row, (key, fields) in zip(rows, records, strict=True):
        assert row["key"] == key
        assert {row[column] for column in EXTENSIONS} - {None} == set(fields.values())


def test_without_payload_only_keys_are_read(write):
    path = write({**TEXTS, "image": [b"A", bytes(200), None]}, row_group_size=2)
    rows = read_rows(path, payload=False, member_bytes=100)
    assert rows == [row | dict.fromkeys([*EXTENSIONS, "error"]) for row in read_rows(path, member_bytes=100)]


# Reading only what is missing


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 3), (2, 4), (3, None), (6, 6), (0, None)])
def test_wanted_rows_are_the_same_as_in_a_full_read(write, first, last):
    path = write({"text": [str(i) for i in range(7)]}, row_group_size=3)
    rows = read_rows(path)
    assert read_rows(path, Missing(first, last, first)) == rows[first : None if last is None else last + 1]
    assert read_rows(path, Missing(7, None, 7)) == []


def test_a_gap_without_rows_makes_no_earlier_row_the_last(write):
    rows = read_rows(write(TEXTS), Missing(0, 0, 0), Missing(3, None, 3))
    assert columns(rows, "row", "end") == [(0, False)]


def test_several_gaps_are_read_past_damage_that_lies_between_them(write):
    path = write(smashed({"text": [str(i) for i in range(8)]}, b"3", row_group_size=2))
    assert [fault(row) for row in read_rows(path)] == [None] * 2 + ["shard-damaged"] * 2 + [None] * 4
    gaps = [Missing(0, 1, 0), Missing(4, 4, 4), Missing(7, None, 7)]
    assert [(row["row"], fault(row)) for row in read_rows(path, *gaps)] == [
        *[(0, None), (1, None), (4, None), (7, None)]
    ]


# Damage


def smashed(content, value, **options):
    """A Parquet file in which one value is not what its page's checksum says."""
    sink = pa.BufferOutputStream()
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table(content), sink, write_page_checksum=True, **plain, **options)
    data = sink.getvalue().to_pybytes()
    at = data.index(value)
    return data[:at] + b"\0" * len(value) + data[at + len(value) :]


def test_a_damaged_page_costs_the_rest_of_its_row_group_alone(write):
    images = [b"%d" % i * 900 for i in range(8)]
    one_a_page = {"data_page_size": 1, "write_batch_size": 1}
    path = write(smashed({"image": images}, b"6" * 900, row_group_size=4, **one_a_page))
    rows = read_rows(path)
    assert [fault(row) for row in rows] == [None] * 6 + ["shard-damaged"] * 2
    assert [row["image"] for row in rows[:6]] == images[:6]
    assert rows[6]["error"]["reason"].startswith("row group 1: ")
    for i, row in enumerate(rows):  # wherever reading begins, it is the same
        assert read_rows(path, Missing(i, i, i)) == [row]


@pytest.mark.parametrize("group_bytes", [parquet._GROUP_BYTES, 0], ids=["at once", "as a stream"])
def test_row_groups_of_all_sizes_are_read_the_same(write, monkeypatch, group_bytes):
    monkeypatch.setattr(parquet, "_GROUP_BYTES", group_bytes)
    path = write({"image": [bytes([i]) * 50_000 for i in range(60)]}, row_group_size=25)
    assert [row["image"] for row in read_rows(path)] == [bytes([i]) * 50_000 for i in range(60)]


def whole():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(TEXTS), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "shard-damaged"),
        (b"hi", "shard-damaged"),
        (b"\xa5" * 4096, "shard-damaged"),
        (whole()[:-20], "shard-damaged"),
        (whole()[:-8] + b"\xff\xff\xff\x7fPAR1", "shard-damaged"),
        (whole().replace(b"\x16\x06", b"\x16\x08", 1), "shard-damaged"),
        (whole().replace(b"text", b"te\xff\xff"), "shard-damaged"),
        (pa.table({"text": pa.array([], pa.string())}), "shard-empty"),
    ],
    ids=["nothing", "text", "noise", "cut", "footer length", "4 rows in groups of 3", "a name", "no rows"],
)
def test_a_shard_without_records_is_one_row_with_an_error(write, content, kind):
    path = write(content)
    (row,) = read_rows(path)
    assert (row["row"], row["end"], fault(row)) == (0, True, kind)
    assert read_rows(path, Missing(1, None, 1)) == []


def test_a_file_without_a_modality_rejects_every_row_and_names_its_columns(write):
    """Not an exception: a worker that meets such a file among others goes on with them."""
    path = write(
        {"key": ["a", "b"], "url": ["u", "v"], "image": [1, 2], "meta": ["{}"] * 2, "text": [[], []]}
    )
    rows = read_rows(path)
    assert [(row["row"], row["end"], fault(row)) for row in rows] == [
        (0, False, "columns-missing"),
        (1, True, "columns-missing"),
    ]
    assert "key, url, image, meta, text" in rows[0]["error"]["reason"]


def test_columns_of_one_modality_spoil_the_rows_that_have_both(write):
    rows = read_rows(write({"jpg": [b"1", b"2", None], "png": [None, b"3", b"4"], "image": [b"5"] * 3}))
    assert [row["image"] for row in rows] == [b"1", None, b"4"]
    assert [fault(row) for row in rows] == [None, "repeated-member", None]


def test_columns_of_one_name_are_not_mixed_up(write):
    table = pa.Table.from_arrays([pa.array([b"1", None]), pa.array([b"2", b"3"])], names=["image", "image"])
    assert [(row["image"], fault(row)) for row in read_rows(write(table))] == [
        (None, "repeated-member"),
        (b"3", None),
    ]


def test_a_value_over_the_limit_spoils_its_row_alone(write):
    rows = read_rows(write({"image": [bytes(101), bytes(100)], "text": ["x", "y"]}), member_bytes=100)
    assert [(row["text"], fault(row)) for row in rows] == [(None, "member-too-large"), (b"y", None)]
    assert "limits.member_bytes=100" in rows[0]["error"]["reason"]


class AskedStore(io.BytesIO):
    """A file that remembers how many bytes it was asked for."""

    asked = ()

    def read(self, size=-1, /):
        self.asked = [*self.asked, size]
        return super().read(size)


class FailingStore(io.BytesIO):
    """A file whose first bytes cannot be read."""

    def __init__(self, data, lost):
        super().__init__(data)
        self.lost = lost

    def read(self, size=-1, /):
        if self.tell() < self.lost:
            raise OSError("the store is gone")
        return super().read(size)


@pytest.mark.parametrize("group_bytes", [parquet._GROUP_BYTES, 0], ids=["at once", "as a stream"])
def test_a_store_that_fails_is_an_oserror_and_no_damage(write, monkeypatch, group_bytes):
    """pyarrow raises OSError for both; rows must not be rejected for a network that is down."""
    monkeypatch.setattr(parquet, "_GROUP_BYTES", group_bytes)
    path = write({"image": [bytes(100_000)]}, compression="none")
    source = parquet._Watched(FailingStore(path.read_bytes(), lost=4000))
    records = parquet._Records(shard_at(path), source, ReadOptions())
    with pytest.raises(OSError, match="the store is gone"):
        next(records.read([WHOLE]))


def test_no_more_is_asked_of_a_store_than_it_has():
    """A damaged file claims to be larger; a store may make room for what it is asked for."""
    store = AskedStore(b"0123456789")
    source = parquet._Watched(store)
    source.seek(4)
    assert source.read(1 << 40) == b"456789"
    source.seek(99)
    assert source.read(1 << 40) == b""
    assert store.asked == [6, 0]


def test_a_row_group_that_holds_nothing_wanted_is_not_read(write):
    path = write({"image": [bytes(100_000), b"1"]}, row_group_size=1, compression="none")
    source = parquet._Watched(FailingStore(path.read_bytes(), lost=4000))
    records = parquet._Records(shard_at(path), source, ReadOptions())
    assert [row["image"] for row in records.read([Missing(1, None, 1)])] == [b"1"]


def test_a_shard_that_is_gone_is_an_oserror(write):
    shard = shard_at(write(TEXTS))
    gone = dataclasses.replace(shard, url=shard.url + ".gone")
    with pytest.raises(OSError, match="gone"):
        list(read(gone, ReadOptions()))


def test_a_dictionary_that_lacks_a_value_spoils_the_rows_that_have_it():
    """Arrow takes an empty one for what it is, and trips over it only where a value is asked for."""
    columns = parquet.Columns(pa.schema([("text", pa.dictionary(pa.int32(), pa.string()))]), ReadOptions())
    indices, empty = pa.array([0], pa.int32()), pa.array([], pa.string())
    broken = pa.DictionaryArray.from_arrays(indices, empty, safe=False)
    assert fault(columns.fields([("text", broken[0])])) == "record-damaged"
