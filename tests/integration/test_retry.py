"""Rejects become predictions once their cause is mended; shards that come or change are run."""

from __future__ import annotations

import shutil
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.bundle import Bundle
from mmray.config import RunConfig, load_config
from mmray.errors import OutputError
from mmray.pipeline.audit import audit
from mmray.pipeline.retry import retry
from mmray.pipeline.run import Watcher, run
from mmray.pipeline.rundir import RunDirectory

pytestmark = pytest.mark.usefixtures("ray_cluster")

SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)


def execute(shards, bundle, output, accept_changes=False, **settings):
    config = {"input": [str(shards)], "bundle": str(bundle.path), "output": str(output), **settings}
    return run(RunConfig.model_validate(config), SILENT, accept_changes=accept_changes)


def rows(output):
    tables = [pq.read_table(file) for file in (output / "parts").glob("*.parquet")]
    return pa.concat_tables(tables).sort_by([("shard", "ascending"), ("row", "ascending")])


def test_retry_with_a_mended_config_brings_the_rejects_to_zero(shards, bundle, tmp_path):
    output, straight = tmp_path / "out", tmp_path / "straight"
    first = execute(shards, bundle, output, limits={"image_pixels": 12_000}, part_rows=30)
    assert first.audit.ok
    assert first.summary["rejected"] > 10
    assert first.summary["predicted"] > 10
    assignments = ["limits.image_pixels=1000000"]
    again = retry(str(output), partial(load_config, None, assignments=assignments), SILENT)
    assert again.audit.ok
    assert again.summary["rejected"] == 0
    assert again.audit.predicted == first.audit.total == 240
    assert [file.name for file in (output / "rejects").iterdir()] == ["none.parquet"]
    execute(shards, bundle, straight)
    for column in ("shard", "row", "key", "label", "modalities"):
        assert rows(output)[column].equals(rows(straight)[column])


def test_retry_without_a_cure_changes_nothing(shards, bundle, tmp_path):
    output = tmp_path / "out"
    first = execute(shards, bundle, output, limits={"image_pixels": 12_000})
    files = {file.name for file in output.rglob("*.parquet")}
    again = retry(str(output), lambda earlier: load_config(None, earlier), SILENT)
    assert again.audit.ok
    assert again.summary["rejects"] == first.summary["rejects"]
    assert {file.name for file in output.rglob("*.parquet")} == files


def test_new_and_changed_shards_are_run_when_that_is_accepted(shards, bundle, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    first, second, third = sorted(shards.glob("*.tar"))[:3]
    shutil.copy(first, source / "a.tar")
    shutil.copy(second, source / "b.tar")
    execute(source, bundle, output, actors=1, part_rows=1_000)
    kept = rows(output)

    shutil.copy(third, source / "b.tar")  # changed: another size
    shutil.copy(second, source / "c.tar")  # new
    with pytest.raises(OutputError, match=r"1 new shard, 1 of another size.*--accept-changes"):
        execute(source, bundle, output)
    result = execute(source, bundle, output, accept_changes=True)
    assert result.audit.ok
    assert audit(RunDirectory.at(str(output)), recount=True).ok
    after = rows(output)
    assert {name.partition("@")[0] for name in after["shard"].to_pylist()} == {"a.tar", "b.tar", "c.tar"}
    unchanged = f"a.tar@{(source / 'a.tar').stat().st_size}"
    same = [table.filter(pa.compute.equal(table["shard"], unchanged)) for table in (kept, after)]
    assert same[0].num_rows > 0
    assert same[0].equals(same[1])

    (source / "a.tar").unlink()
    with pytest.raises(OutputError, match="1 shard of this run missing"):
        execute(source, bundle, output, accept_changes=True)


def test_a_retry_refuses_what_a_run_refuses(shards, bundle, tmp_path):
    """The shard that the rejects lie in, or the bundle, was replaced."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    first, second, *_ = sorted(shards.glob("*.tar"))
    shutil.copy(first, source / "a.tar")
    shutil.copytree(bundle.path, tmp_path / "bundle")
    mine = Bundle.open(tmp_path / "bundle")
    execute(source, mine, output, limits={"image_pixels": 12_000})
    before = rows(output)

    def refused(match, **changes):
        with pytest.raises(OutputError, match=match):
            retry(str(output), lambda earlier: load_config(None, {**earlier, **changes}), SILENT)
        assert rows(output).equals(before)

    refused("scores=True, but now it is False.*a retry may change only limits", scores=False)
    shutil.copy(second, source / "a.tar")
    refused("the input changed")
    shutil.copy(first, source / "a.tar")
    manifest = tmp_path / "bundle/manifest.json"
    manifest.write_text(manifest.read_text().replace('"name"', '"name" ', 1))
    refused("was made with bundle=")


def test_a_shard_that_broke_off_is_a_fault_until_it_is_whole(shards, bundle, tmp_path):
    """Of an upload that broke off nobody knows how much is lost: that is no row among 5 % of rejects."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    whole, other, *_ = sorted(shards.glob("*.tar"))
    (source / "a.tar").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    shutil.copy(other, source / "b.tar")
    first = execute(source, bundle, output)
    assert not first.audit.ok
    assert first.audit.problems == []
    (fault,) = first.audit.faults
    assert fault.startswith("a.tar: shard-truncated at row ")
    assert first.summary["shard_faults"] == {"shard/shard-truncated": 1}
    assert (first.summary["rejected"], first.summary["faulty_shards"]) == (0, 1)
    kept = rows(output)

    again = retry(str(output), lambda earlier: load_config(None, earlier), SILENT)
    assert again.audit.faults == [fault]
    assert rows(output).equals(kept)

    shutil.copy(whole, source / "a.tar")
    mended = retry(str(output), lambda earlier: load_config(None, earlier), SILENT)
    assert mended.audit.ok
    assert audit(RunDirectory.at(str(output)), recount=True).ok
    assert [file.name for file in (output / "faults").iterdir()] == ["none.parquet"]
    straight = tmp_path / "straight"
    execute(source, bundle, straight)
    assert rows(output)["key"].equals(rows(straight)["key"])
    assert rows(output)["label"].equals(rows(straight)["label"])
    assert execute(source, bundle, output).audit.ok

    next((output / "parts").iterdir()).unlink()  # as if the retry had broken off before it wrote that
    assert retry(str(output), lambda earlier: load_config(None, earlier), SILENT).audit.ok
    assert rows(output)["key"].equals(rows(straight)["key"])


def test_what_the_audit_finds_broken_the_next_run_does_again(shards, bundle, tmp_path):
    output = tmp_path / "out"
    execute(shards, bundle, output, part_rows=30, limits={"image_pixels": 12_000})
    before = rows(output)
    part, *_ = sorted((output / "parts").iterdir())
    data = bytearray(part.read_bytes())
    data[4:40] = bytes(36)
    part.write_bytes(data)
    gone = max(file for file in (output / "rejects").iterdir() if file.name != "none.parquet")
    gone.unlink()
    assert not audit(RunDirectory.at(str(output))).ok
    again = execute(shards, bundle, output, part_rows=30, limits={"image_pixels": 12_000})
    assert again.audit.ok
    assert rows(output)["key"].equals(before["key"])
    broken = {file.name for file in (output / "broken").iterdir()}
    assert f"parts-{part.name}" in broken
    assert f"parts-{gone.name}" in broken
