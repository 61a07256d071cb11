"""Whatever rows reach a writer become one part that says exactly what it holds, and its rejects."""

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

from mmray.pipeline.ledger import Part
from mmray.pipeline.sink import PartBuffer, write_part
from mmray.schema import REJECTS, predictions

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
