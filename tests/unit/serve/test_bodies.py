"""Bodies become records, or a problem that says why not."""

import base64
import json
import tracemalloc

import pytest

from mmray.schema import RECORDS
from mmray.serve.bodies import JSON, MULTIPART, NDJSON, Item, parse_batch, parse_one, records_of
from mmray.serve.problems import Problem

BOUNDARY = b"frontier"
PICTURE = b"\x89PNG\r\n--front is no boundary here"


def form(*parts, end=b"--frontier--\r\n"):
    made = b"".join(
        b'--frontier\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % part for part in parts
    )
    return made + end


def refused(parse, *arguments):
    with pytest.raises(Problem) as found:
        parse(*arguments)
    return found.value.status


def test_json_and_multipart_are_the_same_record():
    as_json = json.dumps({"image": base64.b64encode(PICTURE).decode(), "text": "né", "audio": None})
    item = parse_one(as_json.encode(), JSON, b"")
    assert item.members == {"image": PICTURE, "text": "né".encode()}
    assert parse_one(form((b"image", PICTURE), (b"text", "né".encode())), MULTIPART, BOUNDARY) == item


def test_bytes_of_a_part_are_kept_as_they_are():
    data = bytes(range(256)) * 3 + b"\r\n-"
    assert parse_one(form((b"audio", data)), MULTIPART, BOUNDARY).members["audio"] == data


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"text": 1}', b'{"image": "?"}', b'{"path": "a"}', b'{"text": "a", "text": "b"}', b"\xff"],
)
def test_json_that_is_no_record_is_malformed(body):
    assert refused(parse_one, body, JSON, b"") == 400


def test_json_of_more_parts_than_any_record_has_is_not_even_parsed():
    """10 MB of empty lists would be 300 MB of objects; a text may have its commas."""
    tracemalloc.start()
    try:
        assert refused(parse_one, b'{"text": [' + 3_000_000 * b"[]," + b"[]]}", JSON, b"") == 400
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    text = 100_000 * ",[{"
    assert parse_one(json.dumps({"text": text}).encode(), JSON, b"").members["text"] == text.encode()


def test_an_id_belongs_to_a_batch_alone():
    assert refused(parse_one, b'{"text": "a", "id": "b"}', JSON, b"") == 400
    [item] = parse_batch(b'{"text": "a", "id": 7}\n', NDJSON, b"", 2)
    assert item == Item({"text": b"a"}, 7)


@pytest.mark.parametrize("cut", [1, 5, 13, 14, 40])
def test_a_multipart_body_without_its_end_is_malformed(cut):
    body = form((b"text", b"a cat"))
    assert refused(parse_one, body[:-cut].rstrip(b"\r\n-"), MULTIPART, BOUNDARY) == 400


@pytest.mark.parametrize(
    "parts", [[(b"text", b"a"), (b"text", b"b")], [(b"", b"a")], [(b"path", b"a")], 4 * [(b"text", b"a")]]
)
def test_parts_that_are_no_record_are_malformed(parts):
    assert refused(parse_one, form(*parts), MULTIPART, BOUNDARY) == 400


def test_a_broken_line_has_its_problem_in_its_place():
    items = parse_batch(b'{"text": "a"}\n\n{"text": \n{"text": "b"}', NDJSON, b"", 8)
    assert [type(item) for item in items] == [Item, Problem, Item]


def test_parts_are_gathered_by_their_number():
    body = form((b"1.text", b"b"), (b"0.image", PICTURE), (b"0.text", b"a"))
    items = parse_batch(body, MULTIPART, BOUNDARY, 2)
    assert [sorted(item.members) for item in items] == [["image", "text"], ["text"]]


@pytest.mark.parametrize("name", [b"text", b"-1.text", b"1.text", b"0.path", b"0", "²".encode() + b".text"])
def test_parts_with_a_wrong_number_are_malformed(name):
    assert refused(parse_batch, form((name, b"a")), MULTIPART, BOUNDARY, 8) == 400


def test_a_batch_is_bounded():
    lines = b'{"text": "a"}\n'
    assert len(parse_batch(3 * lines, NDJSON, b"", 3)) == 3
    assert refused(parse_batch, 4 * lines, NDJSON, b"", 3) == 413
    assert refused(parse_batch, b"", NDJSON, b"", 3) == 400


def test_records_have_nulls_where_a_modality_is_missing():
    records = records_of([Item({"text": b"a"}), Item({"image": PICTURE})])
    assert records.schema == RECORDS
    assert records["text"].to_pylist() == [b"a", None]
    assert records["image"].to_pylist() == [None, PICTURE]
    assert records["error"].null_count == 2
