"""LMDBs as other programs write them: read by what keys and values are, or refused by what these are."""

import gzip
import io
import os
import pickle
import struct

import lmdb
import msgpack
import numpy as np
import pytest
from PIL import Image
from support.lmdbs import write_lmdb, write_maps, write_members
from support.media import clip, image_bytes, photo
from support.reading import columns, fault, read_rows, shard_at

from mmray.coverage import Missing
from mmray.sources import ReadOptions, read
from mmray.sources.datum import datum_of
from mmray.sources.lmdb import layout_of
from mmray.sources.raw import read_raw

JPEG, PNG, WEBP = (image_bytes(form) for form in ("JPEG", "PNG", "WEBP"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.lmdb"


def said(row):
    return [(one["kind"], one["modality"]) for one in row["unread"] or ()]


def in_any_part(path, rows, **options):
    """Rows read one by one, each from where it lies."""
    return [read_rows(path, Missing(i, i, row["offset"]), **options)[0] for i, row in enumerate(rows)]


# Numbered entries


def numbered(count, **kinds):
    """Entries `<prefix>-000000001` and on, as readers of text in pictures want them."""
    entries = [(f"{prefix}-{i:09d}", value) for prefix, value in kinds.items() for i in range(1, count + 1)]
    return dict([*entries, ("num-samples", b"%d" % count)])


@pytest.mark.parametrize("views", [False, True])
def test_numbered_images_and_labels_are_records(path, views):
    entries = numbered(4, image=PNG, label=b"A red square.")
    write_lmdb(path, entries.items())
    assert layout_of(shard_at(path)) == "numbered"
    rows = read_rows(path, views=views)
    assert columns(rows, "row", "key", "image", "text", "unread", "error", "end") == [
        (i, f"{i + 1:09d}", PNG, b"A red square.", None, None, i == 3) for i in range(4)
    ]
    assert in_any_part(path, rows, views=views) == rows
    assert [row["key"] for row in read_rows(path, payload=False)] == [row["key"] for row in rows]


def test_numbered_sounds_are_records_and_further_kinds_are_said_or_carried(path):
    sound = clip()
    entries = numbered(2, wav=sound, text=b"a dog", mask=PNG, speaker=b"anna\n")
    del entries["num-samples"]
    rows = read_rows(write_lmdb(path, entries.items()))
    assert columns(rows, "audio", "text", "image") == [(sound, b"a dog", None)] * 2
    assert [said(row) for row in rows] == [[("entry speaker-…", None), ("entry mask-…", "image")]] * 2
    (row, _) = read_rows(path, carry=("speaker",))
    assert (row["fields"], said(row)) == ([("speaker", "anna")], [("entry mask-…", "image")])


def test_a_missing_image_is_said_in_the_place_of_its_record(path):
    entries = numbered(4, image=PNG, label=b"x")
    del entries["image-000000003"]
    rows = read_rows(write_lmdb(path, entries.items()))
    assert [(row["key"][-1], fault(row)) for row in rows] == [
        ("1", None),
        ("2", None),
        ("4", None),
        ("3", "lmdb-missing"),
    ]
    assert "image-000000003 is missing" in rows[3]["error"]["reason"]
    assert in_any_part(path, rows) == [row | {"end": row["end"]} for row in rows]


def test_fewer_records_than_there_should_be_are_damage_of_the_shard(path):
    entries = numbered(4, image=PNG, label=b"x") | {"num-samples": b"6"}
    rows = read_rows(write_lmdb(path, entries.items()))
    assert [fault(row) for row in rows] == [None] * 4 + ["shard-truncated"]
    assert "num-samples says 6 records, but there are 4" in rows[4]["error"]["reason"]
    assert [row["end"] for row in rows] == [False] * 4 + [True]
    assert read_rows(path, Missing(4, None, rows[4]["offset"])) == rows[4:]
    with pytest.raises(OSError, match="num-samples says 6"):
        list(read_raw(shard_at(path)))


def test_numbered_entries_that_cannot_be_used_cost_their_record(path):
    entries = numbered(4, image=PNG, label=b"x") | {
        "label-000000002": pickle.dumps("x"),
        "image-000000003": bytes(3000),
        "caption-000000004": b"y",
    }
    rows = read_rows(write_lmdb(path, entries.items()), member_bytes=2000)
    assert [fault(row) for row in rows] == [None, "lmdb-pickle", "member-too-large", "repeated-member"]


@pytest.mark.parametrize("names", [["img-1", "img-2"], ["a-1", "b-1"], ["image-x", "label-y"]])
def test_other_keys_with_numbers_are_those_of_images(path, names):
    rows = read_rows(write_lmdb(path, [(name, PNG) for name in names]))
    assert layout_of(shard_at(path)) == "images"
    assert columns(rows, "key", "image") == [(name, PNG) for name in names]


@pytest.mark.parametrize("name", ["-1", "k" * 511, "k" * 509 + "-1", "image-" + "1" * 505])
def test_keys_of_any_length_may_have_numbers(path, name):
    rows = read_rows(write_lmdb(path, [(name, PNG), ("z-1", PNG)]))
    assert columns(rows, "key", "image") == [(name, PNG), ("z-1", PNG)]


def test_what_lies_beside_numbered_entries_is_said(path):
    entries = numbered(2, image=PNG, label=b"x") | {"aaa": b"1", "notes": b"2"}
    rows = read_rows(write_lmdb(path, entries.items()))
    assert [[one["name"] for one in row["unread"] or ()] for row in rows] == [["aaa"], ["notes"]]


# Datums


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def datum(data=b"", shape=(), label=None, encoded=None, floats=()):
    """One of Caffe's Datums, by the fields of caffe.proto."""
    out = b"".join(varint(8 * number) + varint(size) for number, size in enumerate(shape, 1))
    out += b"\x22" + varint(len(data)) + data if data else b""
    out += b"" if label is None else b"\x28" + varint(label & (1 << 64) - 1)
    out += b"".join(b"\x35" + struct.pack("<f", value) for value in floats)
    return out + (b"" if encoded is None else b"\x38" + bytes([encoded]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 7), (4, 4), (1, 1)])
def test_raw_pixels_are_an_image(path, channels, size):
    pixels = photo(size[1], size[0])[:, :, :channels]
    raw = pixels[:, :, ::-1].transpose(2, 0, 1).tobytes()  # blue first, channel after channel
    value = datum(raw, (channels, *size), label=1)
    (row,) = read_rows(write_lmdb(path, [("00000000_cat.jpg", value)]))
    image = np.asarray(Image.open(io.BytesIO(row["image"]), formats=["BMP"]))
    np.testing.assert_array_equal(image.reshape(pixels.shape), pixels)
    assert (row["key"], row["text"], said(row)) == ("00000000_cat.jpg", None, [("field label", None)])


def test_encoded_datums_are_images_and_their_labels_are_carried(path):
    values = [datum(JPEG, (3,), 7, True), datum(PNG, label=-1, encoded=True), datum(WEBP)]
    write_lmdb(path, [(f"{i:08}", value) for i, value in enumerate(values)])
    assert layout_of(shard_at(path)) == "datum"
    rows = read_rows(path, carry=("label",), views=True)
    assert columns(rows, "image", "fields", "unread") == [
        (JPEG, [("label", "7")], None),
        (PNG, [("label", "-1")], None),
        (WEBP, None, None),
    ]
    assert in_any_part(path, rows, carry=("label",), views=True) == rows


@pytest.mark.parametrize(
    "value",
    [
        *[datum(shape=(3, 1, 1), floats=[0.5, 1, 2]), datum(bytes(5), (3, 1, 1))],
        *[datum(b"noise", encoded=True), datum(bytes(4), (2, 1, 2))],
    ],
    ids=["floats", "too few", "unknown encoding", "two channels"],
)
def test_datums_without_pixels_that_are_read_are_not_absent(path, value):
    rows = read_rows(write_lmdb(path, [("0", datum(JPEG)), ("1", value)]))
    assert rows[1]["image"] is None
    assert fault(rows[1]) == "lmdb-layout" or said(rows[1])[0][1] == "image"


def test_what_is_no_datum_costs_its_row(path):
    entries = [("0", datum(JPEG)), ("1", b"\xff" * 20), ("2", gzip.compress(JPEG)), ("3", pickle.dumps(1))]
    rows = read_rows(write_lmdb(path, entries))
    assert [fault(row) for row in rows] == [None, "lmdb-layout", "lmdb-layout", "lmdb-pickle"]
    assert "gzip" in rows[2]["error"]["reason"]
    large = datum(bytes(3 * 40 * 40), (3, 40, 40))
    (row,) = read_rows(write_lmdb(path, [("0", large)]), member_bytes=4000)
    assert fault(row) == "member-too-large"


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_are_more_than_no_datum(seed):
    random = np.random.default_rng(seed)
    sound = bytearray(datum(JPEG, (3, 4, 5), 7, True, [1.0]))
    for _ in range(2000):
        data = bytearray(sound)
        for at in random.integers(0, 40, 3):
            data[at] = random.integers(256)
        found = datum_of(memoryview(bytes(data[: random.integers(len(data))])))
        assert found is None or len(found.data) <= len(sound)


# Lists, LSUN, and what is refused


def test_lists_without_names_give_their_image(path):
    values = [(JPEG, 3), (7, PNG, "a caption"), [JPEG, PNG], [None, 1], (clip(), 1)]
    write_lmdb(
        path, [*((f"{i}", msgpack.packb(v)) for i, v in enumerate(values)), ("__len__", msgpack.packb(5))]
    )
    assert layout_of(shard_at(path)) == "lists"
    rows = read_rows(path)
    assert columns(rows, "image", "audio") == [
        (JPEG, None),
        (PNG, None),
        (JPEG, None),
        (None, None),
        (None, clip()),
    ]
    assert [said(row) for row in rows] == [
        [("item 1", None)],
        [("item 0", None), ("item 2 of a list", "text")],
        [("item 1 of a list", "image")],
        [("item 1", None)],
        [("item 1", None)],
    ]
    second = read_rows(path, extensions={"text": ("2",)}, carry=("0",))[1]
    assert (second["text"], second["fields"], second["unread"]) == (b"a caption", [("0", "7")], None)


def test_lsun_is_read_under_any_name(tmp_path):
    folder = tmp_path / "bedroom_val_lmdb"
    write_lmdb(folder, [(os.urandom(20).hex(), WEBP) for _ in range(4)], subdir=True)
    for place in (tmp_path, folder):
        assert columns(read_rows(place), "image", "error") == [(WEBP, None)] * 4


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (gzip.compress(JPEG), "gzip data"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "Zstandard data"),
        (b"\x93NUMPY\x01\0" + bytes(90), "a NumPy array"),
        (b'{"image": "a.jpg"}', "JSON"),
        (clip(), "a WAV sound"),
        (pickle.dumps((JPEG, 1)), "a Python pickle"),
    ],
    ids=["gzip", "zstd", "numpy", "json", "audio", "pickle"],
)
def test_a_refusal_names_what_the_values_are(path, value, what):
    write_lmdb(path, [("0", value), ("1", value)])
    with pytest.raises(OSError, match=what):
        list(read(shard_at(path), ReadOptions()))


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "BMP"])
def test_values_are_images_of_any_format_that_is_read(path, kind):
    write_lmdb(path, [(name, image_bytes(kind)) for name in ("x", "y")])
    assert columns(read_rows(path), "image", "error") == [(image_bytes(kind), None)] * 2


def test_a_list_of_databases_is_refused_with_their_names(path):
    with (
        lmdb.open(str(path), subdir=False, map_size=1 << 24, max_dbs=4) as environment,
        environment.begin(write=True, db=environment.open_db(b"images")) as transaction,
    ):
        transaction.put(b"0.jpg", JPEG)
    with pytest.raises(OSError, match=r"only lists others: images; choose one by lmdb\.database"):
        read_rows(path)
    assert columns(read_rows(path, database="images"), "key", "image") == [("0", JPEG)]


# Members and maps


def test_members_that_nothing_takes_are_said(path):
    write_members(
        path, [("a", {"jpg": JPEG, "cls": b"3", "seg.png": PNG}), ("b", {"txt": b"x", "jp2": b"y" * 20})]
    )
    write_lmdb(
        path,
        [
            ("a.jpg", JPEG),
            ("a.cls", b"3"),
            ("a.seg.png", PNG),
            ("b.txt", b"x"),
            ("b.jp2", b"y" * 20),
            ("c", b"z"),
        ],
    )
    first, second = read_rows(path)
    assert said(first) == [(".cls members", None), (".seg.png members", "image")]
    assert said(second) == [(".jp2 members", "image"), ("members without an extension", None)]
    assert second["unread"][0]["name"] == "b.jp2"
    assert read_rows(path, payload=False)[0]["unread"] is None
    carried, other = read_rows(path, carry=("cls",))
    assert (carried["fields"], said(carried)) == ([("cls", "3")], [(".seg.png members", "image")])
    assert other["fields"] is None


def test_keys_may_end_at_their_last_dot(path):
    names = ["a.jpg", "img.1.jpg", "img.1.txt", "img.2.jpg", "img.2.txt", "._img.2.jpg", "d.x/e.f.jpg"]
    write_lmdb(path, [(name, name.encode()) for name in names])
    rows = read_rows(path, key_split="last")
    assert columns(rows, "key", "image", "text", "error") == [
        ("a", b"a.jpg", None, None),
        ("d.x/e.f", b"d.x/e.f.jpg", None, None),
        ("img.1", b"img.1.jpg", b"img.1.txt", None),
        ("img.2", b"img.2.jpg", b"img.2.txt", None),
    ]
    assert said(rows[0]) == [("files of an operating system", None)]
    first = read_rows(path)
    assert [row["key"] for row in first] == ["a", "d.x/e", "img"]
    assert {kind for kind, _ in said(first[2])} == {"members with dots in their names"}


def test_members_that_lie_apart_at_their_last_dot_are_an_error(path):
    write_lmdb(path, [("a.b.jpg", b"1"), ("a.jpg", b"2"), ("a.k.jpg", b"3"), ("a.txt", b"4")])
    rows = read_rows(path, key_split="last")
    assert [(row["key"], fault(row)) for row in rows] == [
        *[("a.b", None), ("a", None), ("a.k", None), ("a", "interleaved-members")]
    ]
    assert in_any_part(path, rows, key_split="last") == rows


def test_fields_of_maps_that_nothing_takes_are_said_or_carried(path):
    fields = {"image": JPEG, "label": 3, "mask": PNG, "name": "x", "none": None}
    write_maps(path, [("a", fields), ("b", {"text": "t"} | {f"f{i}": i for i in range(9)})])
    first, second = read_rows(path)
    assert said(first) == [("field label", None), ("field name", None), ("field mask", "image")]
    assert said(second) == [("9 more fields", None)]
    row, _ = read_rows(path, carry=("label", "name", "none"))
    assert (dict(row["fields"]), said(row)) == (
        {"label": "3", "name": "x", "none": None},
        [("field mask", "image")],
    )
