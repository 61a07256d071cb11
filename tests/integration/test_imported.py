"""Models that were made elsewhere run as jobs: from their files to audited predictions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.bundles import SPEC, small_tokenizer
from support.directories import clip_and_clap, siglip_and_ast
from support.encoders import save_encoders
from support.scripts import ROOT

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.pipeline.audit import audit
from mmray.pipeline.run import Watcher, run
from mmray.pipeline.rundir import RunDirectory
from mmray.variants.make import optimize
from mmray.variants.steps import VariantRecipe

SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)


def predictions(shards, bundle, output, **settings):
    """Rows of a whole run that passed its audit."""
    config = {"input": [str(shards)], "bundle": str(bundle.path), "output": str(output), **settings}
    result = run(RunConfig.model_validate(config), SILENT)
    assert result.audit.ok
    assert result.summary["predicted"] == 240
    assert audit(RunDirectory.at(str(output)), recount=True).ok
    tables = [pq.read_table(file) for file in sorted((output / "parts").glob("*.parquet"))]
    return pa.concat_tables(tables)


def sorted_by_row(rows):
    return rows.sort_by([("shard", "ascending"), ("row", "ascending")])


def mmray(*arguments):
    command = [str(Path(sys.executable).with_name("mmray")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


@pytest.mark.long
def test_clip_and_clap_label_records_by_prompts(shards, ray_cluster, tmp_path):
    bundle = clip_and_clap()[2]
    rows = predictions(shards, bundle, tmp_path / "out")
    scores = np.array(rows["scores"].to_pylist())
    assert rows["label"].to_pylist() == [bundle.labels[best] for best in scores.argmax(axis=1)]
    assert len(set(rows["label"].to_pylist())) > 1


@pytest.mark.long
def test_clip_and_clap_go_to_int8_through_the_gate_and_into_a_job(shards, ray_cluster, tmp_path):
    """Prompts, export, quantization, the gate's verdict on held-out records, and a run with the variant."""
    parent = clip_and_clap()[2]
    recipe = VariantRecipe.model_validate(
        {"input": [str(shards)], "steps": [{"int8": {"method": "dynamic"}}], "timing_rounds": 0}
    )
    bundle = optimize(parent, recipe, tmp_path / "optimized")
    card = bundle.scorecard["variants"]["int8-dynamic"]
    assert card["passed"], card["reason"]
    assert {"image", "text", "audio"} <= set(card["slices"])
    rows = predictions(shards, bundle, tmp_path / "int8", variant="int8-dynamic")
    whole = predictions(shards, parent, tmp_path / "fp32")
    assert set(rows["variant"].to_pylist()) == {"int8-dynamic"}
    same = np.equal(*(sorted_by_row(table)["label"].to_pylist() for table in (rows, whole)))
    assert same.mean() >= recipe.thresholds.agreement


def test_a_model_without_labels_gives_features_only(shards, ray_cluster, tmp_path):
    """Whatever the config says of scores and features: there is nothing else to give."""
    bundle = siglip_and_ast()[2]
    rows = predictions(shards, bundle, tmp_path / "out", features=False)
    assert not {"label", "score", "scores"} & set(rows.column_names)
    features = np.array(rows["features"].to_pylist(), np.float32)
    assert features.shape == (240, 48)
    has_image = np.array(["image" in m for m in rows["modalities"].to_pylist()])
    norms = np.linalg.norm(features[:, :16], axis=1)
    np.testing.assert_allclose(norms, has_image, atol=2e-3)  # unit vectors, and zero where there is none
    assert json.loads((tmp_path / "out/plan.json").read_text())["identity"]["bundle"] == bundle.digest


def test_one_command_makes_a_bundle_of_a_description(tmp_path):
    save_encoders(tmp_path)
    description = {
        "encoders": {name: {"graph": f"{name}.onnx"} for name in ("image", "text", "audio")},
        "preprocessing": SPEC.model_dump(mode="json"),
        "tokenizer": str(small_tokenizer()),
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(description))
    done = mmray("bundle", "import", tmp_path / "model.yaml", "--output", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert "equal to the model within" in done.stdout
    assert "none: the model only gives features" in done.stdout
    assert "→ 12 features" in done.stdout
    assert Bundle.open(tmp_path / "bundle").manifest.features == 12
    checked = mmray("bundle", "verify", tmp_path / "bundle")
    assert "golden outputs reproduced" in checked.stdout


def test_a_model_that_does_not_fit_is_one_line_and_touches_nothing(tmp_path):
    save_encoders(tmp_path)
    image = {
        "encoders": {"image": {"graph": "text.onnx"}},
        "preprocessing": {"image": {"height": 16, "width": 16}},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(image))
    done = mmray("bundle", "import", tmp_path / "model.yaml", "--output", tmp_path / "bundle")
    assert done.returncode == 2
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 1
    assert "an adapter for image gives" in errors[0]
    assert not (tmp_path / "bundle").exists()
