"""docs/python.md: the five programs run as they stand, and give what the page says."""

import pyarrow.parquet as pq
import pytest
from ray import serve
from support.pages import blocks, run_blocks

PAGE = "python.md"


@pytest.fixture
def place(shards, bundle, tmp_path, monkeypatch):
    """A folder with the names that the page uses, of the tests' own records and bundle."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "bundles").mkdir()
    (tmp_path / "data/tuxpaint").symlink_to(shards)
    (tmp_path / "bundles/stamps").symlink_to(bundle.path)
    return tmp_path


def test_the_programs_of_the_page_run_as_they_stand(ray_cluster, server, place, shards, capsys):
    names = {}
    run_blocks([block for block in blocks(PAGE) if "import" in block[1] or "parts" in block[1]], names)
    try:
        assert {answer["id"] for answer in names["answers"]} == {1, 2}
        parts = pq.read_table(place / "runs/python/parts")
        texts = names["labels"]
        assert 0 < len(texts) < parts.num_rows + names["done"].summary["rejected"]
        known = dict(zip(parts["key"].to_pylist(), parts["label"].to_pylist(), strict=True))
        assert all(
            known.get(k) == label for k, label in zip(texts["key"], texts["label"], strict=True) if label
        )
        done = names["done"]
        assert done.ok
        assert done.report.endswith("runs/python/report.html")
        assert len(names["frame"]) == done.summary["predicted"] == parts.num_rows
        assert done.rejects().count_rows() == done.summary["rejected"]
        assert serve.status().applications["stamps"].status == "RUNNING"
    finally:
        serve.delete("stamps")
