"""The main job on a real local Ray, from shards to Parquet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.damaged import MEMBER_BYTES, damaged_shard
from support.media import image_bytes
from support.scripts import SHARDS
from support.tars import write_shard

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.errors import OutputError, RunError
from mmray.pipeline.audit import audit
from mmray.pipeline.run import Watcher, run
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.summary import Result
from mmray.schema import REJECTS

pytestmark = pytest.mark.usefixtures("ray_cluster")

LIMITS = {"member_bytes": MEMBER_BYTES}
SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)


def execute(shards: Path, bundle: Bundle, output: Path, **settings: object) -> Result:
    config = {"input": [str(shards)], "bundle": str(bundle.path), "output": str(output), **settings}
    return run(RunConfig.model_validate(config), SILENT)


def read(output: Path, folder: str = "parts") -> pa.Table:
    tables = [pq.read_table(file) for file in sorted((output / folder).glob("*.parquet"))]
    return pa.concat_tables(tables).sort_by([("shard", "ascending"), ("row", "ascending")])


@pytest.fixture(scope="module")
def finished(
    shards: Path, bundle: Bundle, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    output = tmp_path_factory.mktemp("runs") / "finished"
    return output, execute(shards, bundle, output, carry=["label"], features=True, part_rows=50)


def test_every_row_is_predicted_exactly_once(finished):
    output, result = finished
    assert result.audit.ok
    assert result.summary["rows"] == result.summary["predicted"] == 240
    rows = read(output)
    assert len(set(zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True))) == 240
    assert audit(RunDirectory.at(str(output)), recount=True).ok


def test_predictions_follow_the_declared_schema_and_are_better_than_chance(finished, bundle):
    rows = read(finished[0])
    assert rows.schema.field("scores").type == pa.list_(pa.float32(), len(bundle.labels))
    assert rows.schema.field("features").type == pa.list_(pa.float16(), bundle.manifest.features)
    assert set(rows["bundle"].to_pylist()) == {bundle.digest}
    scores = rows["scores"].to_pylist()
    assert all(abs(sum(row) - 1) < 1e-4 for row in scores)
    assert [bundle.labels[row.index(max(row))] for row in scores] == rows["label"].to_pylist()
    right = sum(
        a == b for a, b in zip(rows["label"].to_pylist(), rows["meta_label"].to_pylist(), strict=True)
    )
    assert right / rows.num_rows > 2 / len(bundle.labels)


def test_a_stranger_reads_the_same_with_duckdb(finished):
    query = f"select count(*), count(distinct (shard, row)) from '{finished[0]}/parts/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(240, 240)]
    for folder in ("rejects", "faults"):  # a clean run has none, and yet the query has columns
        rows = duckdb.sql(f"select stage, reason from '{finished[0]}/{folder}/*.parquet'")
        assert (rows.columns, rows.fetchall()) == (["stage", "reason"], [])


def test_a_stranger_reads_the_same_with_pandas(finished):
    rows = pd.read_parquet(finished[0] / "parts")
    assert len(rows.groupby(["shard", "row"])) == len(rows) == 240
    assert list(pd.read_parquet(finished[0] / "rejects").columns) == REJECTS.names


def test_running_again_does_nothing(finished, shards, bundle):
    output, _ = finished
    before = {file: file.stat().st_mtime_ns for file in (output / "parts").iterdir()}
    result = execute(shards, bundle, output, carry=["label"], features=True)
    assert result.audit.ok
    assert result.summary["this_run"] == {}
    assert {file: file.stat().st_mtime_ns for file in (output / "parts").iterdir()} == before


def test_a_run_goes_on_where_parts_are_missing_and_gives_the_same_predictions(
    finished, shards, bundle, tmp_path
):
    output = tmp_path / "resumed"
    settings = {"carry": ["label"], "features": True, "part_rows": 50}
    execute(shards, bundle, output, **settings)
    lost = sorted((output / "parts").iterdir())[1:3]
    gone = sum(pq.read_metadata(file).num_rows for file in lost)
    for file in lost:
        file.unlink()
    result = execute(shards, bundle, output, **settings)
    assert result.audit.ok
    assert result.summary["this_run"]["rows"] == gone
    assert read(output).drop_columns("features").equals(read(finished[0]).drop_columns("features"))


def test_another_bundle_or_setting_is_refused_and_nothing_is_touched(finished, shards, bundle):
    output, _ = finished
    plan = (output / "plan.json").read_bytes()
    with pytest.raises(OutputError, match="features=True, but now it is False"):
        execute(shards, bundle, output, carry=["label"])
    assert (output / "plan.json").read_bytes() == plan


def test_split_topology_gives_the_same_predictions(finished, shards, bundle, tmp_path):
    result = execute(shards, bundle, tmp_path / "out", topology="split", carry=["label"], features=True)
    assert result.audit.ok
    this_run = result.summary["this_run"]
    assert 0 < this_run["device_busy"] <= 1
    assert min(this_run["task_ms"], this_run["device_ms"]) > 0
    assert this_run["advice"]
    assert "device_busy" not in finished[1].summary["this_run"]
    fused, split = read(finished[0]), read(tmp_path / "out")
    assert split["label"].equals(fused["label"])
    assert split["key"].equals(fused["key"])
    apart = [
        abs(a - b)
        for x, y in zip(fused["scores"].to_pylist(), split["scores"].to_pylist(), strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    assert max(apart) < 1e-5


@pytest.mark.parametrize("topology", ["fused", "split"])
def test_damaged_records_become_exactly_the_expected_rejects(bundle, tmp_path, topology):
    (tmp_path / "in").mkdir()
    expected = damaged_shard(tmp_path / "in" / "damaged.tar")
    output = tmp_path / "out"
    result = execute(tmp_path / "in", bundle, output, topology=topology, limits=LIMITS)
    assert result.audit.problems == []
    assert {fault.split(" ")[1] for fault in result.audit.faults} == {"shard-damaged", "shard-truncated"}
    rejects = pa.concat_tables([read(output, "rejects"), read(output, "faults")])
    assert rejects.schema.equals(REJECTS)
    found = {
        key: (stage, kind)
        for key, stage, kind in zip(*(rejects[c].to_pylist() for c in ("key", "stage", "type")), strict=True)
    }
    assert found == expected
    assert all(rejects["reason"].to_pylist())
    assert result.summary["predicted"] == result.audit.total - len(expected) > 0


def test_a_damaged_modality_can_be_masked_instead(bundle, tmp_path):
    (tmp_path / "in").mkdir()
    expected = damaged_shard(tmp_path / "in" / "damaged.tar")
    output = tmp_path / "out"
    result = execute(tmp_path / "in", bundle, output, on_damaged="mask", limits=LIMITS)
    assert result.audit.problems == []
    rows = read(output)
    named = {k: d for k, d in zip(rows["key"].to_pylist(), rows["damaged"].to_pylist(), strict=True) if d}
    assert named
    assert set(named) <= set(expected)
    assert all(not set(row["damaged"]) & set(row["modalities"]) for row in rows.to_pylist())


def test_the_run_directory_tells_what_happened(finished):
    output, result = finished
    plan = json.loads((output / "plan.json").read_text())
    assert plan["identity"]["bundle"] == result.summary["bundle"]
    assert len(plan["shards"]) == SHARDS
    events = [json.loads(line)["event"] for line in (output / "events.jsonl").read_text().splitlines()]
    assert events[:2] == ["started", "pass"]
    assert "finished" in events
    summary = json.loads((output / "summary.json").read_text())
    assert summary["this_run"]["stage_seconds"]["model"] > 0
    assert sum(summary["modalities"].values()) == 240


def test_an_unreadable_shard_is_named_and_keeps_no_other_from_being_done(shards, bundle, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    first, second = sorted(shards.glob("*.tar"))[:2]
    shutil.copy(first, source / "a.tar")
    shutil.copy(second, source / "b.tar")
    plain = RunConfig.model_validate(
        {"input": [str(source)], "bundle": str(bundle.path), "output": str(tmp_path / "out")}
    )

    def lose_one(*_: object) -> None:
        (source / "b.tar").rename(tmp_path / "b.tar")

    with pytest.raises(RunError, match=r"1 shard incomplete, all others are done; b\.tar: .*[Nn]o such file"):
        run(plain, Watcher(lambda *_: None, lose_one, lambda *_: None))
    done = {shard.partition("@")[0] for shard in read(tmp_path / "out")["shard"].to_pylist()}
    assert done == {"a.tar"}
    (tmp_path / "b.tar").rename(source / "b.tar")
    assert run(plain, SILENT).audit.ok


def test_a_shard_that_changes_in_mid_run_is_named_and_run_anew_when_accepted(bundle, tmp_path):
    """At the same size: name and size would say that it is done. No row of two contents is left."""
    a, b = tmp_path / "in/a.tar", tmp_path / "in/b.tar"
    for path in (a, b):
        write_shard(path, [(f"old-{i}", {"txt": b"a red cat"}) for i in range(4)])
    plain = RunConfig.model_validate(
        {"input": [str(tmp_path / "in")], "bundle": str(bundle.path), "output": str(tmp_path / "out")}
    )

    def change(path: Path) -> None:
        write_shard(path, [(f"new-{i}", {"txt": b"a red cat"}) for i in range(5)])

    with pytest.raises(RunError, match=r"all others are done; b\.tar: .*changed since the run was planned"):
        run(plain, Watcher(lambda *_: None, lambda _: change(b), lambda *_: None))
    change(a)
    problems = audit(RunDirectory.at(plain.output)).problems
    for name in ("a", "b"):
        assert any(p.startswith(f"{name}.tar") and "changed since the run was planned" in p for p in problems)
    with pytest.raises(OutputError, match=r"2 with other content \(a\.tar: .*--accept-changes"):
        run(plain, SILENT)
    assert run(plain, SILENT, accept_changes=True).audit.ok
    assert {key.partition("-")[0] for key in read(tmp_path / "out")["key"].to_pylist()} == {"new"}
    assert len(read(tmp_path / "out")) == 10
    shutil.copytree(tmp_path / "in", tmp_path / "copy", copy_function=shutil.copyfile)
    copied = plain.model_copy(update={"input": (str(tmp_path / "copy"),)})
    with pytest.raises(OutputError, match="resume with --moved"):
        run(copied, SILENT)
    assert run(copied, SILENT, moved=True).audit.ok
    assert run(copied, SILENT).audit.ok, "the copies are known from now on"


def test_a_run_that_breaks_off_says_why_in_one_line(shards, bundle, tmp_path):
    """The error itself, not the hints that Ray adds to it."""
    copy = shutil.copytree(bundle.path, tmp_path / "bundle")
    config = {"input": [str(shards)], "bundle": str(copy), "output": str(tmp_path / "out")}

    def lose_the_graph(*_: object) -> None:
        (copy / "variants/fp32.onnx").unlink()

    watcher = Watcher(lambda *_: None, lose_the_graph, lambda *_: None)
    with pytest.raises(RunError) as e:
        run(RunConfig.model_validate(config), watcher)
    message = str(e.value)
    assert "variants/fp32.onnx" in message
    assert "\n" not in message
    assert message.endswith("run the same command again to resume")


def test_what_is_not_read_is_said_and_empty_shards_are_no_rejects(bundle: Bundle, tmp_path: Path) -> None:
    records = [(f"{i}", {"tga" if i == 3 else "jpg": image_bytes("JPEG"), "cls": b"7"}) for i in range(6)]
    write_shard(tmp_path / "in/a.tar", [(key, {**members, "txt": b"a cat"}) for key, members in records])
    write_shard(tmp_path / "in/b.tar", [])
    (tmp_path / "in/notes.md").write_text("x")
    result = execute(tmp_path / "in", bundle, tmp_path / "out", carry=["cls"], max_reject_rate=1.0)
    summary = result.summary
    assert (summary["rows"], summary["predicted"], summary["empty_shards"]) == (6, 5, 1)
    assert summary["rejects"] == {"preprocess/image-unread": 1}
    unread = {kind: (count["number"], count["example"]) for kind, count in summary["unread"].items()}
    assert unread == {".tga members": (1, "a.tar: 3")}
    assert list(summary["unread_files"]) == [".md files of no record"]
    assert summary["null_columns"] == []
    assert read(tmp_path / "out")["meta_cls"].to_pylist() == ["7"] * 5
    assert audit(RunDirectory.at(str(tmp_path / "out")), recount=True).ok
    again = execute(tmp_path / "in", bundle, tmp_path / "out", carry=["cls"], max_reject_rate=1.0)
    assert again.summary["this_run"] == {}  # the empty shard is done, too
