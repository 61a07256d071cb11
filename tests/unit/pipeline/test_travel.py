"""Tables travel as rows: each stays whole, and none is copied when it is unpacked."""

import pyarrow as pa
import pytest

from mmray.pipeline.travel import BLOCK_BYTES, ROW, from_rows, to_row

OPEN = pa.table({"key": ["a", "b"], "pixels": [b"x" * 10, None]})
ANSWERED = pa.table({"key": ["c"], "label": ["cat"]})


def test_both_tables_come_back():
    waiting, answered = from_rows(to_row(OPEN, ANSWERED))
    assert waiting.equals(OPEN)
    assert answered.equals(ANSWERED)


def test_nothing_answered_comes_back_as_nothing():
    waiting, answered = from_rows(to_row(OPEN))
    assert waiting.equals(OPEN)
    assert answered is None


def test_rows_are_joined_in_their_order():
    rows = pa.concat_tables(
        [to_row(OPEN, ANSWERED), to_row(OPEN.slice(1)), to_row(OPEN.slice(0, 1), ANSWERED)]
    )
    waiting, answered = from_rows(rows)
    assert waiting["key"].to_pylist() == ["a", "b", "b", "a"]
    assert answered["key"].to_pylist() == ["c", "c"]


def test_tables_that_nothing_is_left_of_need_not_have_the_columns_of_the_others():
    rows = pa.concat_tables([to_row(pa.table({"key": pa.array([], pa.string())}), ANSWERED), to_row(OPEN)])
    assert from_rows(rows)[0].equals(OPEN)
    assert from_rows(rows.slice(0, 1))[0].num_rows == 0


@pytest.mark.parametrize("size", [1, BLOCK_BYTES, 10 * BLOCK_BYTES])
def test_each_row_is_large_enough_to_be_a_block_of_its_own(size):
    row = to_row(pa.table({"b": [bytes(size)]}))
    assert row.schema.equals(ROW)
    assert row.num_rows == 1
    assert row.nbytes > BLOCK_BYTES
