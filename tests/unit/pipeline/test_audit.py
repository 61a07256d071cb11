"""The audit finds every way in which input, predictions and rejects may not add up, and says where."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.damaged import MEMBER_BYTES, damaged_shard
from support.outcomes import COLUMNS, begin, files, outcomes_of, rows_of, shard, write
from support.runs import make_config, part_files, run_here
from support.tars import good_records, write_shard

from mmray.errors import OutputError
from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import write_part
from mmray.schema import ERROR, error

A, B = shard("a.tar", 10), shard("b.tar", 4)


@pytest.fixture
def out(tmp_path):
    """A finished run: rows 0 to 4 and 5 to 9 of A with B, in two parts."""
    out = begin(tmp_path / "run", A, B)
    write(out, rows_of(A, range(5)))
    write(out, [*rows_of(A, range(5, 10)), *rows_of(B)])
    return out


def path(out, folder="parts", number=0):
    return sorted((Path(out.root.path) / folder).iterdir())[number]


def alter(path, change):
    """Rewrite a Parquet file with other rows and the same footer."""
    table, footer = change(pq.read_table(path)), pq.read_metadata(path).metadata
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({k: v for k, v in footer.items() if k != b"ARROW:schema"})


def test_a_finished_run_is_clean(out):
    before = files(out)
    verdict = audit(out)
    assert verdict.problems == []
    assert verdict.ok
    assert (verdict.total, verdict.predicted, verdict.rejected) == (14, 10, 4)
    assert [(s.shard, s.total, s.predicted, s.rejected) for s in verdict.shards] == [
        (A.id, 10, 7, 3),
        (B.id, 4, 3, 1),
    ]
    assert files(out) == before


def test_the_verdict_is_json(out):
    path(out).unlink()
    content = json.loads(json.dumps(audit(out).to_json()))
    assert content["ok"] is False
    assert content["input"] == 14
    assert content["shards"][0]["missing"] == [[0, 4]]


def problems(out, *words):
    """Problems that mention all of the words; there must be one."""
    verdict = audit(out)
    assert not verdict.ok
    found = [p for p in verdict.problems if all(str(word) in p for word in words)]
    assert found, verdict.problems
    return found


def test_a_deleted_part_leaves_rows_missing_and_rejects_orphaned(out):
    name = path(out).name
    path(out).unlink()
    problems(out, A.id, "rows 0 to 4 are not done")
    problems(out, f"rejects/{name}", "without a part")


def test_rows_of_a_shard_whose_end_nobody_saw_are_missing(tmp_path):
    out = begin(tmp_path / "run", A, B)
    write(out, [*rows_of(A, range(9)), *rows_of(B)])
    problems(out, A.id, "rows 9 to its end are not done; run again to resume")


def test_a_shard_that_nobody_touched_is_missing(tmp_path):
    out = begin(tmp_path / "run", A, B)
    write(out, rows_of(A))
    problems(out, B.id, "rows 0 to its end")


@pytest.mark.parametrize("folder", ["parts", "rejects"])
def test_a_row_that_went_away_is_found(out, folder):
    """Somebody filtered the file; its footer still promises the row."""
    alter(path(out, folder), lambda table: table.slice(1))
    problems(out, f"{folder}/{path(out).name}", "in its footer")
    problems(out, path(out).name, "are not those in its footer")
    problems(out, A.id, "10 rows in, but")


def test_a_doubled_row_is_found(out):
    alter(path(out), lambda table: table.take([0, 0, *range(1, len(table))]))
    problems(out, path(out).name, "in its footer")


def test_a_row_in_the_place_of_another_is_found_though_the_counts_agree(out):
    alter(path(out), lambda table: table.take([0, 0, *range(2, len(table))]))
    assert problems(out) == problems(out, path(out).name, "are not those in its footer")


def test_a_renumbered_shard_is_found(out):
    alter(path(out), lambda table: table.set_column(0, "shard", [["x.tar@9"] * len(table)]))
    problems(out, path(out).name, "rows of x.tar@9, which is not in its footer")


@pytest.mark.parametrize("content", [b"", b"noise", b"PAR1" + bytes(50) + b"PAR1"])
def test_a_file_that_is_no_part_is_found(out, content):
    (path(out).parent / "stray.parquet").write_bytes(content)
    assert problems(out) == ["parts/stray.parquet: not a readable part of a run"]


def test_a_part_that_can_no_longer_be_read_is_found(out):
    """The footer is whole, the pages are not."""
    data = bytearray(path(out).read_bytes())
    data[4:200] = bytes(196)
    path(out).write_bytes(data)
    assert problems(out, path(out).name)


@pytest.mark.parametrize(
    "column", ["label", "score", "scores.list.element", "key", "modalities.list.element"]
)
def test_bits_that_rotted_in_any_column_are_found(out, column):
    """The footer and the length of every page stay; the rows may still be readable, with other values."""
    file = path(out)
    group = pq.read_metadata(file).row_group(0)
    (chunk,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column]
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(file.read_bytes())
    data[begin + chunk.total_compressed_size - 1] ^= 1
    file.write_bytes(data)
    problems(out, file.name, "cannot be read")
    assert audit(out).broken == [file.name]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("score", 1.5, "score is not between 0 and 1"),
        ("score", float("nan"), "score is not between 0 and 1"),
        ("scores", [-3.0, 4.0], "scores is not between 0 and 1"),
        ("label", None, "label is null"),
        ("variant", "int8", "variant is not fp32"),
        ("bundle", "1" * 64, "bundle is not 000000000000"),
    ],
)
def test_values_that_no_run_of_this_bundle_gives_are_found(tmp_path, column, value, problem):
    out = begin(tmp_path / "run", A, variant="fp32", bundle="0" * 64)
    write(out, rows_of(A))
    assert audit(out).ok

    def change(table):
        values = [value, *table[column].to_pylist()[1:]]
        index = table.schema.get_field_index(column)
        return table.set_column(
            index, table.schema.field(column), pa.array(values, table.schema.types[index])
        )

    alter(path(out), change)
    problems(out, f"parts/{path(out).name}", problem)


def test_a_shard_fault_is_no_problem_of_the_books_and_still_not_clean(tmp_path):
    out = begin(tmp_path / "run", A)
    fault = error("shard", "shard-truncated", "breaks off at byte 5120")
    rows = outcomes_of(rows_of(A, range(6)))
    errors = [*rows["error"].to_pylist()[:5], fault]
    rows = rows.set_column(rows.schema.get_field_index("error"), "error", pa.array(errors, ERROR))
    ends = pa.array([False] * 5 + [True])
    write_part(out, rows.set_column(rows.schema.get_field_index("end"), "end", ends), COLUMNS)
    verdict = audit(out)
    assert verdict.problems == []
    assert verdict.faults == ["a.tar: shard-truncated at row 5: breaks off at byte 5120"]
    assert not verdict.ok
    (of_shard,) = verdict.shards
    assert (of_shard.total, of_shard.predicted, of_shard.rejected, of_shard.faults) == (6, 3, 2, 1)
    (row,) = pq.read_table(path(out, "faults")).to_pylist()
    assert (row["shard"], row["row"], row["type"]) == (A.id, 5, "shard-truncated")
    path(out, "faults").unlink()
    problems(out, f"faults/{path(out).name}", "cannot be read")


@pytest.mark.parametrize("content", [None, b"noise"])
def test_rejects_that_are_gone_or_unreadable_are_found(out, content):
    path(out, "rejects").unlink()
    if content:
        (path(out).parent.parent / "rejects" / path(out).name).write_bytes(content)
    problems(out, f"rejects/{path(out).name}", "cannot be read")


def test_overlapping_parts_are_found(out):
    extra = write(out, rows_of(A, [2, 3]))
    problems(out, f"parts/{extra.name}", "has rows that another part has, too")


def test_rejects_without_a_part_are_found(out):
    stray = path(out, "rejects").with_name("stray.parquet")
    stray.write_bytes(path(out, "rejects").read_bytes())
    assert problems(out) == ["rejects/stray.parquet: rejects without a part"]


def test_a_shard_that_is_not_in_the_plan_is_found(out):
    stray = shard("stray.tar", 2)
    write(out, rows_of(stray))
    problems(out, stray.id, "not in the plan")


def test_torn_files_of_a_dead_writer_are_no_problem(out):
    path(out).with_name(".tmp-1-x.parquet").write_bytes(b"half")
    assert audit(out).ok


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_place_without_a_run_is_refused(tmp_path, place):
    with pytest.raises(OutputError, match="not a run directory"):
        audit(RunDirectory.at(str(tmp_path / place)))


def test_a_real_run_with_every_kind_of_damage_adds_up(tmp_path):
    write_shard(tmp_path / "in/good.tar", good_records(10))
    expected = damaged_shard(tmp_path / "in/bad.tar")
    out, _ = run_here(make_config(tmp_path / "in", tmp_path / "out", limits={"member_bytes": MEMBER_BYTES}))
    verdict = audit(out, recount=True)
    assert verdict.problems == []
    assert (verdict.predicted, verdict.rejected + len(verdict.faults)) == (40 + 10, len(expected))
    folders = tmp_path / "out/rejects", tmp_path / "out/faults"
    rejects = pa.concat_tables([pq.read_table(folder) for folder in folders]).to_pylist()
    assert {row["key"]: (row["stage"], row["type"]) for row in rejects} == expected


def test_a_recount_finds_rows_that_the_run_never_saw(tmp_path):
    """As when a shard was replaced, and an earlier version planned the run: it kept no states of shards."""
    source = write_shard(tmp_path / "in/s.tar", [("a", {"txt": b"one"}), ("b", {"txt": b"two"})])
    out, plan = run_here(make_config(tmp_path / "in", tmp_path / "out"))
    assert audit(out, recount=True).ok
    size = source.stat().st_size
    write_shard(source, [("a", {"txt": b"one", "json": b"{}"})])
    assert source.stat().st_size == size
    (problem,) = audit(out, recount=True).problems
    assert problem.startswith(
        f"{plan.survey.shards[0].id}: changed since the run was planned: another content"
    )
    content = out.read_plan()
    out.begin({**content, "shards": [values[:4] for values in content["shards"]]})
    assert audit(out).ok
    (problem,) = audit(out, recount=True).problems
    assert problem == f"{plan.survey.shards[0].id}: has 1 record, but the run saw 2"


def test_each_shard_that_changed_is_named_and_one_that_is_gone_is_not(tmp_path):
    """The predictions of a shard outlive it."""
    sources = [write_shard(tmp_path / f"in/{name}.tar", good_records(3, prefix=name)) for name in "abc"]
    out, plan = run_here(make_config(tmp_path / "in", tmp_path / "out"))
    sources[1].unlink()
    assert audit(out).ok
    write_shard(sources[0], good_records(3, prefix="x"))
    write_shard(sources[2], good_records(60))
    problems = audit(out).problems
    assert [problem.partition(": ")[0] for problem in problems] == [plan.survey.shards[i].id for i in (0, 2)]
    assert all("changed since the run was planned" in problem for problem in problems)


def test_a_run_goes_on_where_it_was_broken_off(tmp_path):
    """Deleting any part is what a crash before it was written would have left."""
    write_shard(tmp_path / "in/s.tar", good_records(23))
    config = make_config(tmp_path / "in", tmp_path / "out", part_rows=4, block_rows=2)
    out, _ = run_here(config)
    before = files(out)
    assert len(part_files(out)) == 6
    for number in (5, 2, 0):
        part_files(out)[number].unlink()
    assert not audit(out).ok
    run_here(config)
    assert audit(out, recount=True).ok
    assert files(out) == before
