"""The seams: which columns there are, in which order, and that a failed record fits into each table."""

import tracemalloc

import pyarrow as pa
import pytest

from mmray.schema import (
    ERROR,
    META_BYTES,
    RECORDS,
    REJECTS,
    TENSORS,
    OutputColumns,
    error,
    meta_fields,
    outcomes,
    predictions,
    table,
)

ADDRESS = ["shard", "row", "end", "key", "offset", "length"]


def test_records_and_tensors_begin_with_the_same_address():
    assert RECORDS.names[:6] == TENSORS.names[:6] == ADDRESS
    assert [RECORDS.field(name) for name in ADDRESS] == [TENSORS.field(name) for name in ADDRESS]
    assert RECORDS.field("error").type == TENSORS.field("error").type == ERROR


def test_optional_columns_come_last_and_only_when_asked_for():
    always = predictions(OutputColumns(classes=0)).names
    full = predictions(OutputColumns(classes=4, features=3, carry=("label", "url")))
    assert full.names == [*always, "meta_label", "meta_url", "scores", "features"]
    assert full.field("scores").type == pa.list_(pa.float32(), 4)
    assert full.field("features").type == pa.list_(pa.float16(), 3)
    assert full.field("meta_url").type == pa.string()


def test_outcomes_hold_what_predictions_and_rejects_are_made_of():
    columns = OutputColumns(classes=4, carry=("label",))
    others = {"end", "offset", "length", "unread", "error"}
    assert set(outcomes(columns).names) == {*predictions(columns).names, *others}
    assert {*REJECTS.names} - {"stage", "type", "reason"} <= set(outcomes(columns).names)


def test_columns_that_are_not_given_are_null():
    made = table({"row": [1, 2], "key": pa.chunked_array([["a"], ["b"]])}, RECORDS)
    assert made.schema.equals(RECORDS)
    assert made["key"].to_pylist() == ["a", "b"]
    assert made["image"].null_count == 2


def test_columns_that_do_not_belong_are_left_out():
    assert table({"row": [1], "stray": ["x"]}, RECORDS).schema.equals(RECORDS)


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        table({"row": ["one"]}, RECORDS)


def test_reasons_are_cut_because_they_quote_foreign_bytes():
    failure = error("read", "x", "猫" * 1000)
    assert failure == {"stage": "read", "type": "x", "reason": "猫" * 300}
    assert table({"error": [failure, None]}, RECORDS)["error"].to_pylist() == [failure, None]


def test_a_json_member_is_parsed_up_to_a_size_and_not_at_the_price_of_memory():
    """Three bytes of JSON may become a list of 64."""
    bomb = b'{"a": [' + b"[]," * (2 * META_BYTES) + b"0]}"
    tracemalloc.start()
    assert meta_fields(bomb) == {}
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < META_BYTES
    padding = b" " * (META_BYTES - 8)
    assert meta_fields(b'{"a": 1}' + padding) == {"a": 1}
    assert meta_fields(b"[" * 100_000) == meta_fields(None) == {}
