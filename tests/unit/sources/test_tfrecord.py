"""A TFRecord of Examples becomes rows: by feature names, with what is damaged named instead of raised."""

import dataclasses
import struct
from functools import partial
from pathlib import Path

import pytest
from support.reading import columns, fault, read_rows, shard_at
from support.tars import good_records
from support.tfrecords import example, frame, masked_crc, tfrecord, write_tfrecord

from mmray.coverage import Missing
from mmray.schema import RECORDS
from mmray.sources import EXTENSIONS, ReadOptions, read

PROCESS_IO = Path("/proc/self/io")
HEAD, TAIL = 12, 4  # bytes around the data of a record

THREE = [
    {"key": b"a", "image/encoded": b"A", "text": b"one", "meta": b"{}"},
    {"key": b"b", "text": b"two"},
    {"key": b"c", "audio/encoded": b"C", "image": b"D"},
]


@pytest.fixture
def write(tmp_path):
    return partial(write_tfrecord, tmp_path)


def test_the_writer_of_these_tests_has_the_checksum_of_the_format():
    """As the writer of github.com/SunDoge/tfrecord_slow makes it."""
    assert masked_crc(b"1234567890asdfghjkl") == struct.pack("<I", 4134599430)


def test_each_example_is_a_row_with_its_features_in_their_columns(write):
    rows = read_rows(write(THREE))
    assert columns(rows, "row", "key", "image", "text", "audio", "meta") == [
        (0, "a", b"A", b"one", None, b"{}"),
        (1, "b", None, b"two", None, None),
        (2, "c", b"D", None, b"C", None),
    ]
    assert not any(row["error"] for row in rows)
    assert columns(rows, "end") == [(False,), (False,), (True,)]


def test_rows_carry_the_shards_id_and_the_byte_ranges_of_their_frames(write):
    path = write(THREE)
    rows = read_rows(path)
    assert {row["shard"] for row in rows} == {f"s.tfrecord@{path.stat().st_size}"}
    offset = 0
    for row, fields in zip(rows, THREE, strict=True):
        assert (row["offset"], row["length"]) == (offset, len(frame(example(fields))))
        offset += row["length"]
    assert offset == path.stat().st_size


def test_blocks_have_the_schema_of_records_and_keep_the_bounds(write):
    path = write([{"image": bytes(1000)}] * 7)
    shard = shard_at(path)
    assert all(block.schema.equals(RECORDS) for block in read(shard, ReadOptions()))
    assert [block.num_rows for block in read(shard, ReadOptions(block_rows=3))] == [3, 3, 1]
    assert [block.num_rows for block in read(shard, ReadOptions(block_bytes=1500))] == [2, 2, 2, 1]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *[("image/encoded", "image"), ("image", "image"), ("jpg", "image"), ("JPG", "image")],
        *[("text", "text"), ("caption", "text"), ("image/caption", "text"), ("txt", "text")],
        *[("audio/encoded", "audio"), ("audio", "audio"), ("flac", "audio")],
        *[("meta", "meta"), ("json", "meta")],
        *[("image/height", None), ("images", None), ("", None)],
    ],
)
def test_features_are_told_by_their_names(write, name, column):
    (row,) = read_rows(write([{name: b"payload"}]))
    assert {c: row[c] for c in EXTENSIONS if row[c] is not None} == ({column: b"payload"} if column else {})


def test_the_config_decides_which_feature_is_what(write):
    path = write([{"heic": b"A", "image": b"B", "jpg": b"C", "audio": b"D"}])
    (row,) = read_rows(path, extensions={"image": ("heic",), "text": ("audio",)})
    assert (row["image"], row["text"], row["audio"]) == (b"A", b"D", None)


def test_the_first_of_several_values_counts(write):
    (row,) = read_rows(write([{"caption": [b"one", b"two"], "image": [b"", b"x"]}]))
    assert (row["text"], row["image"]) == (b"one", b"")


@pytest.mark.parametrize("value", [[], 7, [1.0, 2.0]], ids=["no values", "an integer", "floats"])
def test_a_feature_that_holds_no_bytes_is_no_modality(write, value):
    (row,) = read_rows(write([{"image": value, "text": b"x"}]))
    assert (row["image"], row["text"], fault(row)) == (None, b"x", None)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"key": b"k", "id": 7}, "k"),
        ({"__key__": b"k", "image/filename": b"f.jpg"}, "k"),
        ({"image/filename": b"f.jpg", "id": 7}, "f.jpg"),
        ({"id": 7}, "7"),
        ({"id": -(2**63)}, "-9223372036854775808"),
        ({"id": [2**63 - 1, 1]}, "9223372036854775807"),
        ({"key": b"caf\xe9"}, "caf\\xe9"),
        ({"key": b"k" * 5000}, "k" * 1024),
        ({"key": 1.5}, "0"),
        ({}, "0"),
    ],
)
def test_the_key_is_a_feature_or_else_the_row(write, fields, key):
    (row,) = read_rows(write([{"text": b"x", **fields}]))
    assert row["key"] == key


def test_a_missing_payload_changes_nothing_else(write):
    content = tfrecord([*THREE, b"\xff", {"text": bytes(200)}])
    rows = read_rows(write(content), member_bytes=100)
    assert [fault(row) for row in rows] == [None, None, None, "record-malformed", "member-too-large"]
    bare = read_rows(write(content), member_bytes=100, payload=False)
    assert bare == [row | dict.fromkeys(EXTENSIONS) for row in rows]


def test_bytes_are_passed_on_as_they_are(write):
    records = good_records(5)
    rows = read_rows(write([{"key": key.encode(), **fields} for key, fields in records]))
    for row, (key, fields) in zip(rows, records, strict=True):
        assert row["key"] == key
        assert {row[column] for column in EXTENSIONS} - {None} == set(fields.values())


# Reading only what is missing


@pytest.mark.parametrize("known", [True, False], ids=["offset known", "offset unknown"])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 3), (2, 4), (3, None), (5, 5), (0, None)])
def test_wanted_rows_are_the_same_as_in_a_full_read(write, first, last, known):
    path = write([{"text": b"%d" % i} for i in range(6)])
    rows = read_rows(path)
    wanted = Missing(first, last, rows[first]["offset"] if known else 0)
    assert read_rows(path, wanted) == rows[first : None if last is None else last + 1]


def test_each_gap_is_gone_to_at_once(write):
    """So that no damage before it is met."""
    first, second, third = (frame(example(fields)) for fields in THREE)
    path = write(b"\xa5" * len(first) + second + b"\xa5" * len(second) + third)
    gaps = [Missing(1, 1, len(first)), Missing(3, 3, len(first + second) + len(second))]
    assert columns(read_rows(path, *gaps), "row", "text", "image") == [(1, b"two", None), (3, None, b"D")]


def test_nothing_is_left_after_the_last_row(write):
    path = write(THREE)
    assert read_rows(path, Missing(3, None, path.stat().st_size)) == []
    assert read_rows(write(b""), Missing(1, None, 0)) == []


def test_a_gap_without_rows_makes_no_earlier_row_the_last(write):
    path = write(THREE)
    rows = read_rows(path, Missing(0, 0, 0), Missing(3, None, path.stat().st_size))
    assert columns(rows, "row", "end") == [(0, False)]


@pytest.mark.skipif(not PROCESS_IO.exists(), reason="needs Linux's count of the bytes that were read")
def test_only_wanted_records_are_read_from_the_disk(write):
    """The walk goes to each gap, or from frame to frame where it does not know the way."""
    path = write([{"image": bytes(3_000_000)}] * 6)
    size = len(path.read_bytes()) // 6
    for known in (0, 1):
        gaps = [Missing(row, row, row * size * known) for row in (1, 4)]
        before = bytes_read()
        assert [row["row"] for row in read_rows(path, *gaps)] == [1, 4]
        assert bytes_read() - before < 2 * size + 6_000_000


def bytes_read():
    """Bytes that this process has asked the kernel for."""
    return int(PROCESS_IO.read_text().partition("rchar:")[2].split()[0])


# Damage


def test_data_without_its_checksum_costs_one_row(write):
    content = bytearray(tfrecord(THREE))
    content[len(frame(example(THREE[0]))) + HEAD + 3] ^= 1
    rows = read_rows(write(bytes(content)))
    assert [(row["key"], fault(row)) for row in rows] == [("a", None), ("1", "record-damaged"), ("c", None)]


@pytest.mark.parametrize("damaged", range(HEAD))
def test_nothing_after_a_damaged_length_is_believed(write, damaged):
    content = bytearray(tfrecord(THREE))
    begin = len(frame(example(THREE[0])))
    content[begin + damaged] ^= 0x40
    sound, lost = rows = read_rows(write(bytes(content)))
    assert (sound["text"], fault(lost)) == (b"one", "shard-damaged")
    assert (lost["offset"], lost["length"], lost["end"]) == (begin, len(content) - begin, True)
    assert read_rows(write(bytes(content)), Missing(1, None, begin)) == rows[1:]
    assert read_rows(write(bytes(content)), Missing(2, None, len(content))) == []


@pytest.mark.parametrize("kept", [1, HEAD - 1, HEAD, HEAD + 5, -TAIL, -1])
def test_a_file_that_breaks_off_ends_in_a_row_that_says_so(write, kept):
    last = frame(example(THREE[2]))
    content = tfrecord(THREE[:2]) + last[:kept]
    rows = read_rows(write(content))
    assert [fault(row) for row in rows] == [None, None, "shard-truncated"]
    assert (rows[2]["offset"] + rows[2]["length"], rows[2]["end"]) == (len(content), True)


def test_a_file_that_became_shorter_is_truncated(write):
    path = write(THREE)
    shard = dataclasses.replace(shard_at(path), state=None)  # else it would not be read at all
    path.write_bytes(path.read_bytes()[: len(tfrecord(THREE[:2])) - 9])
    rows = [row for block in read(shard, ReadOptions()) for row in block.to_pylist()]
    assert [fault(row) for row in rows] == [None, "shard-truncated"]
    assert (rows[1]["offset"] + rows[1]["length"], rows[1]["end"]) == (shard.size, True)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "shard-empty"),
        (b"hi", "shard-truncated"),
        (bytes(4096), "shard-damaged"),
        (b"\xa5" * 4096, "shard-damaged"),
    ],
    ids=["nothing", "text", "zeros", "noise"],
)
def test_a_shard_without_records_is_one_row_with_an_error(write, content, kind):
    (row,) = read_rows(write(content))
    assert (row["row"], row["end"], fault(row)) == (0, True, kind)
    assert (row["offset"], row["length"]) == (0, len(content))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 20,  # a number without end
        b"\x0a\x05ab",  # a length beyond the message
        b"\x0b",  # a group, which no tf.train.Example has
        b"\x0a\x03\x0a\x01\x0a",  # an entry that breaks off
        b"\x0a\x00" * 100_001,
    ],
    ids=["number", "length", "group", "entry", "fields without end"],
)
def test_what_is_no_example_costs_one_row(write, data):
    rows = read_rows(write([b"", data, {"text": b"x"}]))
    assert [fault(row) for row in rows] == [None, "record-malformed", None]
    assert rows[2]["text"] == b"x"


def test_features_of_one_modality_spoil_their_record_alone(write):
    rows = read_rows(write([{"image": b"1", "image/encoded": b"2", "text": b"x"}, {"text": b"y"}]))
    assert [fault(row) for row in rows] == ["repeated-member", None]
    assert (rows[0]["text"], rows[1]["text"]) == (None, b"y")
    assert "image/encoded, image" in rows[0]["error"]["reason"]


def test_a_value_over_the_limit_spoils_its_record_alone(write):
    rows = read_rows(
        write([{"image": bytes(101), "text": b"x"}, {"image": bytes(100)}, {"other": bytes(399)}]),
        member_bytes=100,
    )
    assert [fault(row) for row in rows] == ["member-too-large", None, "member-too-large"]
    assert "limits.member_bytes=100" in rows[0]["error"]["reason"]
    assert rows[0]["text"] is None


@pytest.mark.skipif(not PROCESS_IO.exists(), reason="needs Linux's count of the bytes that were read")
def test_a_record_over_the_limit_is_not_read(write):
    path = write([{"image": bytes(3_000_000)}, {"text": b"x"}])
    before = bytes_read()
    assert [fault(row) for row in read_rows(path, member_bytes=1000)] == ["member-too-large", None]
    assert bytes_read() - before < 2_500_000


def test_a_shard_that_is_gone_is_an_oserror(write):
    shard = shard_at(write(THREE))
    gone = dataclasses.replace(shard, url=shard.url + ".gone")
    with pytest.raises(OSError, match="gone"):
        list(read(gone, ReadOptions()))
