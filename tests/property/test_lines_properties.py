"""Rows of a CSV and of JSON Lines: from wherever one begins, the same rows follow."""

import csv
import io
import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from mmray.sources.lines import Rows

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
CELLS = st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=8)


def follows(data, name):
    """Checks each start; returns the rows from the first on."""
    rows = list(Rows(io.BytesIO(data), name).walk())
    for i, row in enumerate(rows):
        again = list(Rows(io.BytesIO(data), name).walk(row.start))
        assert [r[:3] for r in again] == [r[:3] for r in rows[i:]]
        assert [str(r.fault) for r in again] == [str(r.fault) for r in rows[i:]]
    assert all(a.stop <= b.start for a, b in itertools.pairwise(rows))
    return rows


@given(cells=CELLS, mark=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_a_csv_is_read_as_it_was_written_from_any_row_on(cells, mark, end):
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *cells])
    data = (b"\xef\xbb\xbf" if mark else b"") + text.getvalue().encode()
    rows = follows(data, "x.csv")
    assert [list(row.values.values()) for row in rows] == cells


@given(data=st.lists(st.sampled_from(['"', ",", "\n", "a", "\xe4", "\r\n", '"",']), max_size=60).map("".join))
def test_rows_of_a_broken_csv_are_the_same_from_any_row_on(data):
    follows(b"a,b\n" + data.encode("latin-1"), "x.csv")


@given(rows=st.lists(st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3), max_size=8))
def test_json_lines_are_read_as_they_were_written_from_any_row_on(rows):
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    assert [row.values for row in follows(data, "x.jsonl")] == rows


@given(
    data=st.lists(st.sampled_from(["{", "}", '"a"', ":", "1", "\n", "[", "\xff"]), max_size=60).map("".join)
)
def test_broken_json_lines_are_the_same_from_any_row_on(data):
    follows(data.encode("latin-1"), "x.jsonl")
