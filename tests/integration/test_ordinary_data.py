"""Ordinary data, without any shard: the same rows, rejects, resume, retry and audit, on a real local Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bundles import latin_bundle
from support.media import clip, image_bytes
from support.web import serving, status

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.pipeline.audit import audit
from mmray.pipeline.retry import retry
from mmray.pipeline.run import Watcher, run
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.summary import Result
from mmray.pipeline.survey import survey

pytestmark = pytest.mark.usefixtures("ray_cluster")

SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)
PNG = image_bytes()


def config(inputs: Path, bundle: Bundle, output: Path, **settings: object) -> RunConfig:
    values = {"input": [str(inputs)], "bundle": str(bundle.path), "output": str(output), **settings}
    return RunConfig.model_validate({"max_reject_rate": 1.0, "part_rows": 4, **values})


def read(output: Path, folder: str = "parts") -> pa.Table:
    tables = [pq.read_table(file) for file in sorted((output / folder).glob("*.parquet"))]
    return pa.concat_tables(tables).sort_by([("shard", "ascending"), ("row", "ascending")])


def resumed(settings: RunConfig, output: Path) -> Result:
    """Run again what a crash would have lost: the last part."""
    before = read(output)
    lost = sorted((output / "parts").glob("*.parquet"))[-1]
    lost.unlink()
    result = run(settings, SILENT)
    assert result.audit.ok
    assert read(output).equals(before)
    return result


def test_a_folder_of_classes(bundle, tmp_path):
    for label in ("cats", "dogs"):
        folder = tmp_path / "in" / label
        folder.mkdir(parents=True)
        for i in range(6):
            (folder / f"{i}.png").write_bytes(PNG)
            (folder / f"{i}.txt").write_text(f"one of {label}")
        (folder / "0.wav").write_bytes(clip())
        (folder / "5.png").write_bytes(b"no picture")
    output = tmp_path / "out"
    settings = config(tmp_path / "in", bundle, output, carry=["folder"])
    result = run(settings, SILENT)
    assert (result.summary["rows"], result.summary["predicted"], result.audit.ok) == (12, 10, True)
    rows = read(output)
    assert rows["meta_folder"].to_pylist() == ["cats"] * 5 + ["dogs"] * 5
    assert rows["key"].to_pylist()[:2] == ["cats/0", "cats/1"]
    assert rows["modalities"].to_pylist()[:2] == [["image", "text", "audio"], ["image", "text"]]
    assert set(read(output, "rejects")["key"].to_pylist()) == {"cats/5", "dogs/5"}
    resumed(settings, output)
    assert audit(RunDirectory.at(str(output)), recount=True).ok


def test_texts_in_another_script_are_masked_and_said(tmp_path):
    (tmp_path / "in").mkdir()
    for i, text in enumerate(["a red cat", "Красный кот", "γάτα", "小猫"]):
        (tmp_path / f"in/{i}.txt").write_text(text)
        if i < 3:
            (tmp_path / f"in/{i}.png").write_bytes(PNG)
    output = tmp_path / "out"
    settings = config(tmp_path / "in", latin_bundle(), output, foreign_text="mask")
    result = run(settings, SILENT)
    assert result.audit.ok
    said = result.summary["unread"]["text in another script, masked"]
    assert said == {"number": 3, "example": ".: 1", "remedy": said["remedy"]}
    assert "foreign_text: keep" in said["remedy"]
    rows = read(output)
    assert rows["modalities"].to_pylist() == [["image", "text"], ["image"], ["image"]]
    assert rows["damaged"].to_pylist() == [[], ["text"], ["text"]]
    assert read(output, "rejects")["type"].to_pylist() == ["text-foreign"]
    again = settings.model_copy(update={"foreign_text": "keep"})
    assert retry(str(output), lambda _: again, SILENT).audit.rejected == 0


def test_a_table_of_paths_and_urls(bundle, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_bytes(PNG)
    output = tmp_path / "out"
    with serving() as web:
        web.pages |= {f"/{i}.png": PNG for i in range(8)}
        lines = [f"{web.url}/{i}.png,caption {i},{i}" for i in range(8)]
        lines += [
            "0.png,here,8",
            "9.png,nowhere,9",
            "/etc/hostname,outside,10",
            f"{web.url}/later.png,later,11",
        ]
        (tmp_path / "in" / "list.csv").write_text("\n".join(["image,caption,label", *lines, ""]))
        settings = config(
            tmp_path / "in",
            bundle,
            output,
            carry=["label"],
            fetch={"allow_private": True, "attempts": 1, "timeout_s": 5, "cache_bytes": 0},
        )
        assert survey(settings).census.kinds == ("CSV",)
        web.pages["/later.png"] = status(503)
        result = run(settings, SILENT)
        assert (result.summary["rows"], result.summary["predicted"], result.audit.ok) == (12, 9, True)
        assert read(output)["meta_label"].to_pylist() == [str(i) for i in range(9)]
        assert read(output, "rejects")["type"].to_pylist() == [
            "file-missing",
            "path-outside",
            "fetch-unavailable",
        ]
        resumed(settings, output)
        web.pages["/later.png"] = PNG
        (tmp_path / "in" / "9.png").write_bytes(PNG)
        retried = retry(str(output), RunConfig.model_validate, SILENT)
    assert (retried.summary["predicted"], retried.audit.ok) == (11, True)
