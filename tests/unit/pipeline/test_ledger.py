"""What is done is what the parts' footers say, and nothing else."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.outcomes import begin, files, interval, rows_of, shard, write

from mmray.coverage import WHOLE, Missing
from mmray.pipeline.ledger import Ledger, Part

A, B, C = shard("a.tar", 10), shard("b.tar", 4), shard("c.tar", 3)


@pytest.fixture
def out(tmp_path):
    return begin(tmp_path / "run", A, B, C)


def clean(out):
    Ledger.load(out).clean_up(out)
    return Ledger.load(out)


def path_of(out, name, folder="parts"):
    return Path(out.root.path) / folder / name


def test_an_empty_run_has_everything_missing(out):
    ledger = Ledger.load(out)
    assert ledger.missing([A, B]) == [(A, [WHOLE]), (B, [WHOLE])]
    assert (ledger.predicted, ledger.rejects.total()) == (0, 0)


def test_finished_shards_are_not_missing_and_others_go_on_where_they_stopped(out):
    write(out, [*rows_of(A, range(3)), *rows_of(B)])
    write(out, rows_of(A, [5, 6]))
    assert Ledger.load(out).missing([A, B, C]) == [
        (A, [Missing(3, 4, interval(0, 2).stop), Missing(7, None, interval(5, 6).stop)]),
        (C, [WHOLE]),
    ]


def test_an_end_that_was_seen_bounds_what_is_missing(out):
    write(out, rows_of(A, [8, 9]))
    assert Ledger.load(out).missing([A]) == [(A, [Missing(0, 7, 0)])]


def test_counts_are_those_of_all_parts_that_count(out):
    write(out, rows_of(A))
    write(out, rows_of(B))
    ledger = Ledger.load(out)
    assert (ledger.predicted, ledger.rejects.total()) == (10, 4)
    assert ledger.rejects == {"read/shard-damaged": 3, "preprocess/image-undecodable": 1}
    assert ledger.modalities == {"image": 6, "image+text": 4}


def test_of_overlapping_parts_the_one_with_more_rows_counts(out):
    small, large = write(out, rows_of(A, range(2, 5))), write(out, rows_of(A, range(6)))
    ledger = Ledger.load(out)
    assert [part.name for part in ledger.parts] == [large.name]
    assert ledger.superseded == [small.name]
    assert clean(out).superseded == []
    assert set(files(out)) == {f"parts/{large.name}", f"rejects/{large.name}"}


def test_overlap_in_one_shard_costs_the_whole_part_and_its_other_rows_are_missing_again(out):
    write(out, [*rows_of(A, range(6)), *rows_of(C)])
    write(out, [*rows_of(A, [5]), *rows_of(B)])
    assert clean(out).missing([A, B, C]) == [(A, [Missing(6, None, interval(0, 5).stop)]), (B, [WHOLE])]


def test_of_parts_with_the_same_rows_the_one_with_more_predictions_counts():
    """A retry of rejects writes the part anew beside the old one; a crash may leave both."""
    old, new = (
        Part(name, {A.id: [interval(0, 9)]}, {}, n, {"x/y": 10 - n}, {}) for name, n in (("a", 6), ("b", 8))
    )
    for parts in ([old, new], [new, old]):
        ledger = Ledger.of(parts)
        assert [part.name for part in ledger.parts] == ["b"]
        assert ledger.superseded == ["a"]


def test_the_choice_does_not_depend_on_the_order_of_the_files():
    parts = [
        Part(n, {A.id: [interval(f, f + 2)]}, {}, 3, {}, {})
        for n, f in (("c", 0), ("a", 2), ("b", 4), ("d", 7))
    ]
    for order in (parts, parts[::-1], parts[1:] + parts[:1]):
        assert [part.name for part in Ledger.of(order).parts] == ["a", "d"]


def test_rejects_without_their_part_are_orphans_and_go(out):
    part = write(out, rows_of(A, range(4)))
    path_of(out, part.name).unlink()
    ledger = Ledger.load(out)
    assert ledger.orphans == [f"rejects/{part.name}"]
    assert ledger.missing([A]) == [(A, [WHOLE])]
    ledger.clean_up(out)
    assert files(out) == {}


def test_torn_files_of_dead_writers_count_for_nothing_and_go(out):
    write(out, rows_of(A))
    for folder in ("parts", "rejects"):
        path_of(out, ".tmp-77-a.parquet", folder).write_bytes(b"half a par")
    before = files(out)
    ledger = Ledger.load(out)
    assert (ledger.foreign, ledger.orphans) == ([], [])
    ledger.clean_up(out)
    assert files(out) == before
    assert not list(Path(out.root.path).glob("*/.tmp-*"))


def parquet_with(footer):
    def make(path):
        metadata = {} if footer is None else {b"mmray": footer}
        pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), path)

    return make


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not parquet"),
        lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"),
        *(parquet_with(f) for f in (None, b"not json", b'"text"', b"[]", b"{}", b"\xff", b'{"coverage": 3}')),
        parquet_with(json.dumps({"coverage": {"a@1": [[1]]}, "totals": {}}).encode()),
    ],
)
def test_a_file_that_is_no_part_is_foreign_and_left_alone(out, make):
    """It is not ours to delete; the audit names it."""
    part = write(out, rows_of(A))
    make(path_of(out, "stray.parquet"))
    ledger = Ledger.load(out)
    assert ledger.foreign == ["stray.parquet"]
    assert [p.name for p in ledger.parts] == [part.name]
    ledger.clean_up(out)
    assert path_of(out, "stray.parquet").exists()


def test_a_footer_survives_the_file(out):
    part = write(out, [*rows_of(A, [0, 1, 5]), *rows_of(C)])
    assert Part.read(out.parts / part.name) == part
    assert Part.read(out.parts / "nowhere.parquet") is None
