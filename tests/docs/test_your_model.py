"""docs/your-model.md: every code block runs, in order, and does what the page says."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.directories import clip_and_clap
from support.pages import blocks, run_blocks

from mmray.bundle import Bundle
from mmray.predictor import Predictor

PAGE, ELSEWHERE = "your-model.md", "CLIP, SigLIP, CLAP and AST"


def test_every_block_of_the_page_runs_as_it_stands(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    run_blocks([block for block in blocks(PAGE) if block not in blocks(PAGE, ELSEWHERE)], names)
    made = {folder.name: Bundle.open(folder) for folder in (tmp_path / "bundles").iterdir()}
    assert {name: bundle.labels for name, bundle in made.items() if name != "trained"} == {
        "features": [],
        "own-head": ["loud", "quiet"],
        "pieces": ["loud", "quiet"],
        "fused": ["loud", "quiet"],
    }
    assert len(made["trained"].labels) == 8
    for bundle in made.values():
        Predictor(bundle, provider="cpu")
    assert len(made["own-head"].golden()[0]["present"]) == 16
    rows = pq.read_table(tmp_path / "runs/features/parts")
    assert rows.num_rows == 160
    assert "label" not in rows.column_names
    nearest = names["nearest"]
    assert (nearest != np.arange(len(nearest))).all()
    assert len(nearest) == sum("image" in modalities for modalities in rows["modalities"].to_pylist())


@pytest.mark.long
def test_the_section_of_directories_makes_a_bundle(tmp_path):
    """It is run where the tests share what it makes, for it takes longest."""
    _, _, bundle = clip_and_clap()
    assert bundle.labels == ["cat", "dog", "bird"]
    assert bundle.path.name == "clip"
    assert len(blocks(PAGE, ELSEWHERE)) == 2
