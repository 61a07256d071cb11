"""Whatever rows reach a writer become one part that says exactly what it holds, and its rejects."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.outcomes import (
    COLUMNS,
    ROW_BYTES,
    begin,
    fails,
    files,
    interval,
    outcomes_of,
    rows_of,
    shard,
    write,
)

from mmray.pipeline.ledger import FOOTER_KEY, Ledger, Part
from mmray.pipeline.sink import PartBuffer, write_part
from mmray.schema import EMPTY, REJECTS, OutputColumns, error, outcomes, predictions

A, B = shard("train/a.tar", 10), shard("train/b.tar", 4)


@pytest.fixture
def out(tmp_path):
    return begin(tmp_path / "run", A, B)


def read(out, folder, part):
    return pq.read_table(Path(out.root.path) / folder / part.name)


def test_a_row_goes_either_to_the_part_or_to_its_rejects(out):
    part = write(out, rows_of(A))
    good, bad = read(out, "parts", part), read(out, "rejects", part)
    assert good["row"].to_pylist() == [row for row in range(10) if not fails(row)]
    assert bad["row"].to_pylist() == [row for row in range(10) if fails(row)]
    assert good.schema.remove_metadata().equals(predictions(COLUMNS))
    assert bad.schema.remove_metadata().equals(REJECTS)


def test_a_reject_says_what_is_wrong_and_where_it_lies(out):
    reject = read(out, "rejects", write(out, rows_of(A, [4]))).to_pylist()[0]
    assert reject == {
        **{"shard": A.id, "row": 4, "key": "train/a.tar-4", "offset": 4 * ROW_BYTES, "length": ROW_BYTES},
        **{"stage": "preprocess", "type": "image-undecodable", "reason": "row 4 is bad"},
    }


def test_the_footer_says_what_the_part_holds(out):
    part = write(out, [*rows_of(A, [0, 1, 2, 7]), *rows_of(B)])
    assert Part.read(out.parts / part.name) == part
    assert part.coverage == {A.id: [interval(0, 2), interval(7, 7)], B.id: [interval(0, 3)]}
    assert part.totals == {B.id: 4}
    assert (part.rows, part.predicted, part.rejected) == (8, 5, 3)
    assert part.rejects == {"read/shard-damaged": 3}
    assert part.modalities == {"image": 4, "image+text": 1}


def test_without_rejects_there_is_no_file_of_them(out):
    part = write(out, rows_of(A, [0, 2]))
    assert set(files(out)) == {f"parts/{part.name}"}


def test_nothing_but_rejects_is_still_a_part(out):
    """It stands for the rows: without it they would be done again on every resume."""
    part = write(out, rows_of(A, [1, 4]))
    assert set(files(out)) == {f"parts/{part.name}", f"rejects/{part.name}"}
    assert read(out, "parts", part).num_rows == 0
    assert part.coverage == {A.id: [interval(1, 1), interval(4, 4)]}
    metadata = pq.read_metadata(Path(out.root.path) / "parts" / part.name)
    assert metadata.num_row_groups == 0  # Hugging Face's `datasets` fails on one without rows


def test_the_same_rows_written_again_are_the_same_files(out):
    """A retried task replaces what it wrote; also where its rows come in another order and grouping."""
    rows = [*rows_of(A, range(6)), *rows_of(B)]
    first = write(out, rows)
    before = files(out)
    pieces = pa.concat_tables([outcomes_of(rows[7:]), outcomes_of(rows[:3]), outcomes_of(rows[3:7])])
    again = write_part(out, pieces, COLUMNS)
    assert (again.name, again.coverage, again.totals) == (first.name, first.coverage, first.totals)
    assert set(files(out)) == set(before)
    write(out, rows)
    assert files(out) == before


@pytest.mark.parametrize(
    "other", [rows_of(A, range(5)), rows_of(A, range(1, 7)), rows_of(shard("train/a.tar", 11), range(6))]
)
def test_other_rows_have_another_name(out, other):
    assert write(out, rows_of(A, range(6))).name != write(out, other).name


@pytest.mark.parametrize(
    "name", ["train/a.tar", "ключи/猫.tar", "..", "a b/c;d.tar", "x" * 300 + ".tar", "@.tar"]
)
def test_a_name_is_a_plain_file_name_whatever_the_shard_is_called(out, name):
    one = shard(name, 3)
    part = write(out, rows_of(one))
    assert part.name.isascii()
    assert "/" not in part.name
    assert len(part.name) < 100
    assert not part.name.startswith(".")
    assert Part.read(out.parts / part.name).coverage == {one.id: [interval(0, 2)]}


def test_names_sort_by_shard_and_row(out):
    names = [write(out, rows_of(s, [row])).name for s, row in ((A, 0), (A, 9), (B, 0))]
    assert names == sorted(names)
    assert names[1].startswith("train-a-000000009-")


def buffer(out, part_rows=5, part_seconds=60.0):
    return PartBuffer(out, COLUMNS, part_rows, part_seconds)


def test_a_part_is_closed_when_it_has_enough_rows(out):
    collected = buffer(out)
    written = [collected.add(outcomes_of(rows_of(A, range(start, start + 2)))) for start in (0, 2, 4, 6)]
    assert [part and part.rows for part in written] == [None, None, 6, None]
    assert collected.close().coverage == {A.id: [interval(6, 7)]}


def test_a_part_is_closed_when_its_first_row_has_waited_long_enough(out):
    """So that a crash costs little where records are slow."""
    collected = buffer(out, part_rows=1000, part_seconds=0.2)
    assert collected.add(outcomes_of(rows_of(A, [0]))) is None
    time.sleep(0.25)
    assert collected.add(outcomes_of(rows_of(A, [1]))).rows == 2
    assert collected.add(outcomes_of(rows_of(A, [2]))) is None


def test_closing_an_empty_buffer_writes_nothing(out):
    collected = buffer(out)
    assert collected.close() is None
    collected.add(outcomes_of(rows_of(A, [0])))
    assert collected.close().rows == 1
    assert collected.close() is None
    assert len(files(out)) == 1


def with_columns(outcomes, **columns):
    for name, values in columns.items():
        index = outcomes.schema.get_field_index(name)
        outcomes = outcomes.set_column(index, name, pa.array(values, outcomes.schema.field(name).type))
    return outcomes


def test_an_empty_shard_is_covered_by_no_row_and_is_no_reject(out):
    empty = shard("train/empty.tar", 0)
    rows = rows_of(A, [0, 2])
    one = with_columns(
        outcomes_of([*rows, (empty, 0)]),
        error=[None, None, error("read", EMPTY, "the shard has no records")],
        end=[False, False, True],
    )
    part = write_part(out, one, COLUMNS)
    assert (part.rows, part.predicted, part.rejected) == (2, 2, 0)
    assert (part.coverage[empty.id], part.totals[empty.id]) == ([], 0)
    alone = write_part(out, one.slice(2), COLUMNS)
    assert (alone.rows, alone.totals) == (0, {empty.id: 0})
    ledger = Ledger.load(out)
    assert ledger.missing([empty]) == []
    assert ledger.rows == 2


def test_the_footer_counts_what_was_not_read_and_what_was_carried(out):
    columns = OutputColumns(classes=2, carry=("a", "b"))
    made = outcomes_of(rows_of(A, [0, 2, 4]))
    made = made.append_column("meta_a", pa.array(["x", None, "y"])).append_column(
        "meta_b", pa.nulls(3, "string")
    )
    made = with_columns(made.select(outcomes(columns).names), unread=[["k", "k"], None, ["k", "l"]])
    part = write_part(out, made, columns)
    assert Part.read(out.parts / part.name) == part
    assert part.unread == {"k": (3, "train/a.tar: train/a.tar-0"), "l": (1, "train/a.tar: train/a.tar-4")}
    assert part.carried == {"meta_a": 1, "meta_b": 0}  # of the two that are predicted
    assert Ledger.load(out).unread.counts == part.unread
    assert Ledger.load(out).carried == part.carried


def test_a_part_of_an_earlier_version_is_read(out):
    part = write(out, rows_of(B))
    footer = json.loads(part.to_footer())
    del footer["unread"], footer["carried"]
    place = Path(out.parts.path) / part.name
    pq.write_table(pq.read_table(place).replace_schema_metadata({FOOTER_KEY: json.dumps(footer)}), place)
    assert Part.read(out.parts / part.name).coverage == part.coverage
