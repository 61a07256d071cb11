"""TFRecords as people have them: compressed, with captions in lists, with features that nothing takes."""

import bz2
import gzip
import random
import zlib

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from support.media import image_bytes
from support.reading import columns, fault, read_rows, shard_at
from support.tfrecords import example, frame, tfrecord, write_tfrecord

from mmray.coverage import Missing
from mmray.sources import ReadOptions, list_shards, read

JPEG = image_bytes("JPEG")
MANY = [{"key": b"%d" % i, "text": random.Random(i).randbytes(50).hex().encode()} for i in range(20)]


@pytest.fixture
def rows_of(tmp_path):
    return lambda content, **options: read_rows(write_tfrecord(tmp_path, content), **options)


def said(row):
    return [(one["kind"], one["modality"]) for one in row["unread"] or ()]


# Compressed files


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    "name", ["s.tfrecord", "s.tfrecord.gz", "s-00000-of-00002", "s.tfrecord-00000-of-00002"]
)
@pytest.mark.parametrize("compress", [gzip.compress, zstd, bz2.compress], ids=["gzip", "zstd", "bzip2"])
def test_a_compressed_file_gives_the_rows_of_the_plain_one(tmp_path, name, compress):
    plain = read_rows(write_tfrecord(tmp_path, MANY))
    (tmp_path / "in").mkdir()
    packed = tmp_path / "in" / name
    packed.write_bytes(compress(tfrecord(MANY)))
    for place in (packed, packed.parent):  # named, and found in its folder
        rows = read_rows(place, block_rows=7)
        assert columns(rows, "row", "key", "text", "offset", "length", "end", "error") == columns(
            plain, "row", "key", "text", "offset", "length", "end", "error"
        )


def test_files_of_tensorflow_datasets_are_found_without_their_notes(tmp_path):
    for name in (
        "set-train.tfrecord-00000-of-00002",
        "set-train.tfrecord-00001-of-00002",
        "train-00000-of-00001",
    ):
        (tmp_path / name).write_bytes(tfrecord(MANY))
    (tmp_path / "features.json").write_text("{}")
    shards = list_shards([str(tmp_path)])
    assert [(shard.format, sum(b.num_rows for b in read(shard, ReadOptions()))) for shard in shards] == [
        ("tfrecord", 20)
    ] * 3
    assert shard_at(tmp_path / "train-00000-of-00001").format == "tfrecord"


@pytest.mark.parametrize("known", [True, False], ids=["offset known", "offset unknown"])
@pytest.mark.parametrize(("first", "last"), [(0, 3), (2, 4), (17, None), (20, None)])
def test_wanted_rows_of_a_stream_are_the_same_as_in_a_full_read(tmp_path, first, last, known):
    path = write_tfrecord(tmp_path, gzip.compress(tfrecord(MANY)))
    rows = read_rows(path)
    past = rows[-1]["offset"] + rows[-1]["length"]
    start = (rows[first]["offset"] if first < 20 else past) if known else 0
    expected = rows[first : None if last is None else last + 1]
    assert read_rows(path, Missing(first, last, start)) == expected


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (gzip.compress(tfrecord(MANY))[:-200], "shard-damaged"),
        (gzip.compress(tfrecord(MANY)[:-5]), "shard-truncated"),
        (gzip.compress(tfrecord(MANY)[:-5] + b"\0" * 5), "record-damaged"),
        (gzip.compress(tfrecord(MANY) + b"\0" * 12), "shard-damaged"),
        (gzip.compress(tfrecord(MANY) + b"\0"), "shard-truncated"),
    ],
    ids=["stream cut", "record cut", "checksum", "zeros", "a byte"],
)
def test_a_stream_that_breaks_off_ends_in_a_row_that_says_so(tmp_path, data, kinds):
    path = write_tfrecord(tmp_path, data)
    rows = read_rows(path)
    faults = [fault(row) for row in rows]
    assert faults[:-1] == [None] * (len(rows) - 1)
    assert (faults[-1], rows[-1]["end"]) == (kinds, True)
    assert read_rows(path, Missing(len(rows) - 1, None, rows[-1]["offset"])) == rows[-1:]


def test_a_large_record_of_a_stream_is_passed_over(tmp_path):
    path = write_tfrecord(tmp_path, gzip.compress(tfrecord([{"image": bytes(5_000_000)}, {"text": b"x"}])))
    rows = read_rows(path, member_bytes=1000)
    assert [(fault(row), row["text"]) for row in rows] == [("member-too-large", None), (None, b"x")]


def test_an_empty_stream_holds_no_records(tmp_path):
    (row,) = read_rows(write_tfrecord(tmp_path, gzip.compress(b"")))
    assert (fault(row), row["end"]) == ("shard-empty", True)


@pytest.mark.parametrize(
    ("content", "what"),
    [(zlib.compress(tfrecord(MANY)), "zlib"), (JPEG, "a JPEG picture"), (b'{"a": 1, "b": 2}', "JSON")],
)
def test_what_is_no_tfrecord_is_named(rows_of, content, what):
    (row,) = rows_of(content)
    assert fault(row) == "shard-unreadable"
    assert what in row["error"]["reason"]


# Features


def test_several_captions_are_one_text_and_counted_or_joined(rows_of):
    content = [{"image/encoded": JPEG, "image/caption": [b"one", b"two"]}, {"caption": [b"three"]}]
    rows = rows_of(content)
    assert [(row["text"], said(row)) for row in rows] == [
        (b"one", [("further captions", None)]),
        (b"three", []),
    ]
    joined = rows_of(content, captions="join")
    assert columns(joined, "text", "unread") == [(b"one two", None), (b"three", None)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1.0, 2.0], [("feature image of type float_list", "image")]),
        ([1, 2], [("feature image of type int64_list", "image")]),
        (7, [("feature image", None)]),  # a number: of something
        ([], []),
        ([JPEG, JPEG], [("feature image of several values", None)]),
    ],
    ids=["floats", "integers", "an integer", "nothing", "two images"],
)
def test_a_feature_of_another_type_is_not_absent(rows_of, value, expected):
    (row,) = rows_of([{"image": value, "text": b"x"}])
    assert said(row) == expected
    assert row["image"] == (JPEG if expected and "several" in expected[0][0] else None)


def test_features_that_nothing_takes_are_said(rows_of):
    rows = rows_of(
        [
            {"text": b"x", "image/height": 3, "b\xfc": b"y"},
            {"jpg": JPEG, "image": JPEG},
            {"key": b"k", "id": 1, "text": b"x"},
        ]
    )
    assert [said(row) for row in rows] == [
        [("feature b\xfc", None), ("feature image/height", None)],
        [("feature image", None)],
        [("feature id", None)],
    ]
    (many,) = rows_of([{"text": b"x", **{f"f{i}": i for i in range(9)}}])
    assert said(many) == [("9 more features", None)]


def test_features_are_carried(rows_of):
    content = {"text": b"x", "label": 3, "ratio": 0.1, "name": b"n\xc3\xbc", "box": [1.5, 2.0], "none": []}
    (row, other) = rows_of([content, {"text": b"y"}], carry=("label", "ratio", "name", "box", "none", "text"))
    assert dict(row["fields"]) == {
        **{"label": "3", "ratio": "0.1", "name": "n\xfc", "box": "[1.5, 2.0]", "none": None, "text": "x"},
    }
    assert (row["unread"], other["fields"], other["unread"]) == (None, [("text", "y")], None)
    (large,) = rows_of([{"text": b"x", "label": b"y" * (65 << 10)}], carry=("label",))
    assert [kind for kind, _ in said(large)] == ["feature label of type more than 65536 bytes"]


# SequenceExamples


def sequence(context, lists):
    """A tf.train.SequenceExample, by protobuf."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="lists.proto", package="seq", syntax="proto3")

    def add(message, name, number, type, **options):
        message.field.add(
            name=name, number=number, type=type, label=options.pop("label", field.LABEL_OPTIONAL), **options
        )

    file.message_type.add(name="FeatureList")
    add(file.message_type[0], "feature", 1, field.TYPE_BYTES, label=field.LABEL_REPEATED)
    lists_type = file.message_type.add(name="FeatureLists")
    entry = lists_type.nested_type.add(name="Entry", options={"map_entry": True})
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, type_name=".seq.FeatureList")
    add(
        lists_type,
        "feature_list",
        1,
        field.TYPE_MESSAGE,
        type_name=".seq.FeatureLists.Entry",
        label=field.LABEL_REPEATED,
    )
    add(
        file.message_type.add(name="Outer"),
        "feature_lists",
        2,
        field.TYPE_MESSAGE,
        type_name=".seq.FeatureLists",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    outer = message_factory.GetMessageClass(pool.FindMessageTypeByName("seq.Outer"))()
    for name, values in lists.items():
        # A Feature by itself: what an Example of one feature has behind its name.
        outer.feature_lists.feature_list[name].feature.extend(map(feature, values))
    return example(context) + outer.SerializeToString()


def feature(value):
    """Bytes of one Feature."""
    whole = example({"": value})
    inner = whole[2:] if whole[1] < 128 else whole[3:]
    inner = inner[2:] if inner[1] < 128 else inner[3:]
    assert inner[:3] == b"\x0a\x00\x12"
    return inner[4:] if inner[3] < 128 else inner[5:]


def test_words_of_a_sequence_are_its_caption(rows_of):
    context = {"image/image_id": 7, "image/data": JPEG}
    lists = {"image/caption": [b"A", b"red", b"square", b"."], "image/caption_ids": [1, 2, 3, 4]}
    (row,) = rows_of([sequence(context, lists)])
    assert (row["key"], row["image"], row["text"]) == ("7", JPEG, b"A red square .")
    assert said(row) == [("feature image/caption_ids", None)]


def test_frames_of_a_sequence_are_an_image_where_there_is_one(rows_of):
    rows = rows_of([sequence({"text": b"x"}, {"image": [JPEG] * n}) for n in (1, 2)])
    assert [row["image"] for row in rows] == [JPEG, JPEG]
    assert [said(row) for row in rows] == [[], [("feature image of several values", None)]]


def test_frames_after_each_other_are_read_from_one_buffer(tmp_path):
    """A frame's bytes stand in for a whole file: what the walk peeks at is not lost."""
    data = b"".join(frame(example({"image": bytes(3_000_000 + i)})) for i in range(3))
    rows = read_rows(write_tfrecord(tmp_path, gzip.compress(data, 1)))
    assert [len(row["image"]) for row in rows] == [3_000_000, 3_000_001, 3_000_002]
