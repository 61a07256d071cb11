"""What columns of a Parquet file hold as people have them: read, or said to be unread, never just absent."""

import base64
import datetime
import io
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from support.media import clip, image_bytes
from support.reading import columns, fault, read_rows

from mmray.coverage import Missing
from mmray.schema import META_BYTES

JPEG, PNG = image_bytes("JPEG"), image_bytes()
EMBEDDED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SOUND = pa.struct([("array", pa.list_(pa.float64())), ("path", pa.string()), ("sampling_rate", pa.int64())])


@pytest.fixture
def rows_of(tmp_path):
    def read(content, wanted=None, row_group_size=None, **options):
        path = tmp_path / "s.parquet"
        pq.write_table(pa.table(content), path, row_group_size=row_group_size)
        return read_rows(path, *([wanted] if wanted else []), **options)

    return read


def said(row):
    return [(one["kind"], one["modality"]) for one in row["unread"] or ()]


def faces(*cells):
    return pa.array([cell if cell is None else {"bytes": cell, "path": None} for cell in cells], EMBEDDED)


FLOATS = pa.array([[1.5], [], None], pa.list_(pa.float64()))
TWO = pa.array([[{"bytes": PNG}] * 2, [], None], pa.list_(EMBEDDED))


# What is read


def test_the_first_of_several_captions_is_read_and_the_others_are_counted(rows_of):
    captions = [["one", "two"], ["three"], [], None, [None, "five"]]
    rows = rows_of({"image": faces(*[PNG] * 5), "caption": captions})
    assert columns(rows, "text") == [(b"one",), (b"three",), (None,), (None,), (b"five",)]
    assert [said(row) for row in rows] == [[("further captions", None)], [], [], [], []]


def test_captions_are_joined_where_the_config_says_so(rows_of):
    rows = rows_of({"caption": [["one", "two"], []]}, captions="join")
    assert columns(rows, "text", "unread") == [(b"one two", None), (None, None)]


@pytest.mark.parametrize(
    "type",
    [
        *[pa.list_(pa.uint8()), pa.large_list(pa.uint8()), pa.list_(pa.uint8(), len(PNG))],
        *[pa.list_(pa.int8()), pa.list_(EMBEDDED), pa.list_(pa.binary()), pa.large_list(pa.large_binary())],
    ],
    ids=str,
)
def test_bytes_in_lists_are_read(rows_of, type):
    if pa.types.is_fixed_size_list(type) and int(pa.__version__.partition(".")[0]) < 26:
        pytest.skip("before 26 Arrow cannot read a missing list of a fixed size, and says so")
    if pa.types.is_int8(type.value_type):
        cell = np.frombuffer(PNG, np.int8).tolist()
    elif type.value_type == EMBEDDED:
        cell = [{"bytes": PNG, "path": "a.png"}]
    else:
        cell = list(PNG) if type.value_type == pa.uint8() else [PNG]
    rows = rows_of({"image": pa.array([cell, None], type), "text": ["x", "y"]})
    assert columns(rows, "image", "unread", "error") == [(PNG, None, None), (None, None, None)]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.int16()], ids=str)
def test_decoded_sounds_become_wavs(rows_of, kind):
    wave = [0, 1000, -2000] if kind == pa.int16() else [0.0, 0.5, -0.25]
    type = pa.struct([("path", pa.string()), ("array", pa.list_(kind)), ("sampling_rate", pa.int64())])
    cells = [{"path": "a.wav", "array": wave, "sampling_rate": 16_000}, None, {"array": None}]
    rows = rows_of({"audio": pa.array(cells, type), "text": ["x"] * 3})
    samples, rate = soundfile.read(io.BytesIO(rows[0]["audio"]), dtype="float32")
    assert rate == 16_000
    assert samples.tolist() == [x / 32768 if kind == pa.int16() else x for x in wave]
    assert columns(rows[1:], "audio", "unread", "error") == [(None, None, None)] * 2


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ({"array": [0.5, None], "sampling_rate": 16_000}, "record-damaged"),
        ({"array": [0.5], "sampling_rate": None}, "record-damaged"),
        ({"array": [0.5], "sampling_rate": -1}, "record-damaged"),
        ({"array": [0.5] * 26, "sampling_rate": 16_000}, "member-too-large"),
    ],
)
def test_sounds_that_cannot_be_wavs_cost_their_row(rows_of, cell, kind):
    rows = rows_of({"audio": pa.array([cell, None], SOUND), "text": ["x", "y"]}, member_bytes=100)
    assert [fault(row) for row in rows] == [kind, None]


def test_base64_is_read_and_paths_are_not_followed(rows_of):
    packed = base64.b64encode(PNG).decode()
    lines = "\n".join(packed[i : i + 76] for i in range(0, len(packed), 76))
    url = f"data:image/png;base64,{packed}"
    cells = [packed, lines, url, "a/b.png", "https://host/a.png", packed[:-3] + ".", "", None]
    rows = rows_of({"image": cells, "text": ["x"] * 8})
    assert [row["image"] for row in rows] == [PNG] * 3 + [None] * 5
    assert [fault(row) for row in rows] == [None] * 3 + ["parquet-path"] * 4 + [None]
    sound = rows_of({"audio": [base64.b64encode(clip()).decode(), packed], "text": ["x"] * 2})
    assert [(row["audio"], fault(row)) for row in sound] == [(clip(), None), (None, "parquet-path")]
    (large,) = rows_of({"image": [packed]}, member_bytes=len(PNG) - 4)
    assert fault(large) == "member-too-large"


def test_a_struct_of_metadata_is_json(rows_of):
    day = datetime.date(2026, 1, 2)
    rows = rows_of({"text": ["x"] * 2, "json": [{"label": "t\xf6wn", "tags": ["a"], "day": day}, None]})
    assert columns(rows, "meta") == [
        ('{"label": "t\xf6wn", "tags": ["a"], "day": "2026-01-02"}'.encode(),),
        (None,),
    ]
    (large,) = rows_of({"text": ["x"], "meta": [{"a": "x" * (META_BYTES + 1)}]})
    assert fault(large) == "member-too-large"


# What is carried


def test_columns_of_any_type_are_carried_as_text(rows_of):
    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    cells = {
        "label": [1, None],
        "url": ["u\xfc", ""],
        "ok": [True, None],
        "ratio": [0.5, None],
        "when": pa.array([when, None], pa.timestamp("ns")),
        "far": pa.array([2**62, None], pa.timestamp("us")),
        "price": [Decimal("1.50"), None],
        "tags": [["a", "b"], []],
        "raw": [b"x\xff", None],
        "more": [{"a": 1, "b": None}, None],
        "word": pa.array(["w", None]).dictionary_encode(),
        "pairs": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        "text": ["both read and carried", None],
        "image": faces(PNG, PNG),
    }
    names = [name for name in cells if name != "image"]
    first, second = rows_of(cells, carry=(*names, "nowhere"))
    carried = dict(first["fields"])
    assert first["text"] == b"both read and carried" == carried.pop("text").encode()
    assert carried.pop("far")
    assert carried == {
        **{"label": "1", "url": "u\xfc", "ok": "true", "ratio": "0.5", "price": "1.50", "tags": '["a", "b"]'},
        **{"when": "2026-01-02 03:04:05.000000000", "raw": "x\\xff", "more": '{"a": 1, "b": null}'},
        **{"word": "w", "pairs": '{"a": 1}'},
    }
    assert dict(second["fields"]) == dict.fromkeys(names) | {"url": "", "tags": "[]"}
    assert (first["unread"], second["unread"]) == (None, None)


def test_what_is_too_large_to_be_carried_is_said(rows_of):
    (row,) = rows_of({"text": ["x"], "long": ["y" * (65 << 10)]}, carry=("long",))
    assert (row["fields"], [kind for kind, _ in said(row)]) == (
        None,
        ["column long of type more than 65536 bytes"],
    )


# What is not read


def test_columns_that_nothing_takes_are_said_of_each_row(rows_of):
    rows = rows_of(
        {"id": [1, 2], "text": ["x", "y"], "url": ["u", None], "height": [1, 2], "__index__": [0, 1]}
    )
    assert [said(row) for row in rows] == [[("column url", None), ("column height", None)]] * 2
    many = rows_of({"text": ["x"], **{f"c{i}": [i] for i in range(9)}})
    assert said(many[0]) == [("9 more columns", None)]
    assert many[0]["unread"][0]["name"].startswith("c0, c1, ")
    assert rows_of({"text": ["x"], "url": ["u"]}, payload=False)[0]["unread"] is None


@pytest.mark.parametrize(
    ("name", "cells", "expected"),
    [
        ("image", FLOATS, ("column image of type list<element: double>", "image")),
        ("images", TWO, ("column images", "image")),
        ("image", TWO, ("column image of several values", "image")),
        ("img", faces(JPEG, None, None), ("column img", "image")),
        ("sound", pa.array([clip(), None, None]), ("column sound", "audio")),
        ("wave", pa.array([{"array": [0.5]}, None, None], SOUND), ("column wave", "audio")),
        ("jp2", pa.array([b"x", None, None]), ("column jp2", "image")),
    ],
    ids=["floats", "images", "several", "img", "sound", "wave", "jp2"],
)
def test_a_modality_that_is_not_read_is_no_absent_one(rows_of, name, cells, expected):
    rows = rows_of({"caption": ["x", "y", "z"], name: cells})
    assert [said(row) for row in rows] == [[expected], [], []]
    assert columns(rows, "image", "audio", "text") == [(None, None, t) for t in (b"x", b"y", b"z")]


def test_captions_of_another_type_are_not_absent(rows_of):
    talk = pa.array([[{"user": "?", "assistant": "A red square."}], None])
    rows = rows_of({"image": faces(PNG, PNG), "texts": talk})
    assert said(rows[0])[0][1] == "text"
    assert "list<" in said(rows[0])[0][0]
    assert said(rows[1]) == []


def test_an_empty_column_is_missing(rows_of):
    rows = rows_of(
        {"image": pa.nulls(2), "audio": pa.array([[], []], pa.list_(pa.null())), "text": ["x", "y"]}
    )
    assert columns(rows, "image", "text", "unread", "error") == [
        (None, b"x", None, None),
        (None, b"y", None, None),
    ]


def test_bytes_beside_a_modality_that_is_read_are_none_of_it(rows_of):
    """A mask beside the image, and what is neither, cost no record anything."""
    rows = rows_of({"image": faces(PNG, None), "mask": faces(PNG, PNG), "vector": [b"\0\1", b"\2\3"]})
    assert [said(row) for row in rows] == [[("column mask", None), ("column vector", None)]] * 2


def test_what_a_column_holds_is_told_alike_wherever_reading_begins(rows_of):
    cells = {"text": [str(i) for i in range(6)], "img": faces(None, JPEG, None, None, JPEG, JPEG)}
    rows = rows_of(cells, row_group_size=2)
    assert [bool(row["unread"]) for row in rows] == [False, True, False, False, True, True]
    for i, row in enumerate(rows):
        assert rows_of(cells, Missing(i, i, i), row_group_size=2) == [row]
