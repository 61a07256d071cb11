"""From shards to a bundle that predicts, and what is refused on the way."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.scripts import ROOT
from support.tars import good_records, write_shard

from mmray.errors import BundleError, InputError
from mmray.golden import remade
from mmray.heads.examples import encode
from mmray.importing.build import build_bundle
from mmray.importing.recipe import Recipe
from mmray.models.encoders import tiny_encoders
from mmray.models.pretrained import PRETRAINED_ENCODERS
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import OutputColumns
from mmray.sources import ReadOptions, list_shards, read

SUBSETS = ["image", "text", "audio", "image+text", "image+audio", "text+audio", "image+text+audio"]


def test_the_bundle_predicts_like_its_scorecard(shards, bundle):
    """Read, preprocess and infer as a job does: held-out accuracy is what the scorecard says."""
    preprocess, predictor = open_preprocessor(bundle), Predictor(bundle, provider="cpu")
    right = []
    for shard in list_shards([str(shards)]):
        for block in read(shard, ReadOptions()):
            outcomes = predictor(preprocess(block)).to_pylist()
            for record, outcome in zip(block.to_pylist(), outcomes, strict=True):
                meta = json.loads(record["meta"])
                if meta["split"] == "test" and len(outcome["modalities"]) == 3:
                    right.append(outcome["label"] == meta["label"])
    expected = bundle.scorecard["test"]["image+text+audio"]
    assert len(right) == expected["records"]
    assert np.mean(right) == pytest.approx(expected["accuracy"])


def test_the_bundle_keeps_what_its_tune_split_looks_like(bundle):
    [reference] = bundle.reference.variants.values()
    tune = bundle.scorecard["splits"]["tune"]["records"]
    assert reference.records == sum(reference.sketches[0].counts) >= 0.7 * tune


def test_the_scorecard_has_every_subset_with_its_uncertainty(bundle):
    card = bundle.scorecard
    assert list(card["cross_validation"]["subsets"]) == SUBSETS
    for part in (card["cross_validation"]["subsets"], card["test"]):
        for score in part.values():
            assert 0 <= score["accuracy"] <= 1
            assert 0 < score["standard_error"] < 0.2
    assert sum(card["records"][split] for split in ("train", "tune", "test")) == 240
    assert card["splits"]["tune"]["records"] > 20
    assert [use["variant"] for use in card["test_uses"]] == ["fp32"]
    assert card["majority"] == pytest.approx(1 / 8, abs=0.03)
    variant = card["variants"]["fp32"]
    assert variant["bytes"] == bundle.graph("fp32").stat().st_size
    assert variant["difference_from_torch"] < 1e-5
    assert set(variant["ms_per_record"]) == set(SUBSETS)


def test_words_of_the_captions_beat_the_majority(bundle):
    """Even random encoders keep what words and colours say: the head has learned something."""
    score = bundle.scorecard["cross_validation"]["subsets"]["image+text+audio"]
    assert score["accuracy"] > bundle.scorecard["majority"] + 3 * score["standard_error"]


def test_golden_inputs_have_records_of_every_kind(bundle):
    inputs, outputs = bundle.golden()
    assert inputs["present"].any(axis=0).all()
    assert len(np.unique(inputs["present"], axis=0)) > 4
    assert all(inputs[name].size for name in inputs)
    assert outputs["scores"].shape == (len(inputs["present"]), len(bundle.labels))


def test_some_golden_inputs_come_with_the_records_that_they_were_made_of(bundle):
    """For each set of modalities one, without what that set lacks; preprocessing is proved on them."""
    inputs, _ = bundle.golden()
    records = bundle.golden_records()
    assert 3 <= records.num_rows <= 8
    for record in records.to_pylist():
        has = [record[modality] is not None for modality in bundle.spec.modalities]
        assert has == inputs["present"][record["row"]].tolist()
    made = remade(bundle, inputs)
    assert all(np.array_equal(made[name], inputs[name]) for name in ("pixels", "log_mel"))


def test_encoding_is_the_same_as_what_the_graph_gives(shards, bundle):
    """Training features come from torch in small batches, the job's from ONNX Runtime: they must agree."""
    encoders = tiny_encoders([str(shards)])
    encoded = encode(
        list_shards([str(shards)])[:1], encoders.spec, bundle.tokenizer, encoders.modules, sample_rows=8
    )
    columns = OutputColumns(classes=len(bundle.labels), features=bundle.manifest.features)
    predictor = Predictor(bundle, provider="cpu", columns=columns)
    features = np.array(predictor(encoded.sample)["features"].to_pylist(), np.float32)
    expected = np.concatenate([values[:8] for values in encoded.examples.features.values()], axis=1)
    assert encoded.sample.num_rows == 8
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)  # predictions keep float16


def test_a_modality_that_no_record_has_is_refused_with_the_way_out(tmp_path):
    """Named, it can be left out: the bundle then takes the others only."""
    random = np.random.default_rng(0)
    words = {"cat": "purring soft", "dog": "barking loud"}
    records = []
    for i in range(80):
        label = ("cat", "dog")[i % 2]
        meta = {"label": label, "split": "test" if i > 60 else "train"}
        fields = {"txt": f"{random.choice(words[label].split())} thing".encode()}
        records.append((f"r{i}", fields | {"json": json.dumps(meta).encode()}))
    write_shard(tmp_path / "shards/train-0.tar", records)
    inputs, output = [str(tmp_path / "shards")], tmp_path / "bundle"
    encoders = tiny_encoders(inputs)
    with pytest.raises(InputError, match="no labelled record has image; name only the other modalities"):
        build_bundle(inputs, output, encoders)
    built = build_bundle(inputs, output, encoders, recipe=Recipe(modalities=("text",)))
    assert built.spec.modalities == ("text",)
    assert list(built.scorecard["test"]) == ["text"]
    assert built.scorecard["test"]["text"]["accuracy"] == 1.0
    Predictor(built, provider="cpu")


def test_records_without_labels_are_refused_by_the_name_of_the_input(tmp_path):
    write_shard(tmp_path / "shards/train-0.tar", good_records(10))
    inputs = [str(tmp_path / "shards")]
    with pytest.raises(InputError, match=r"none of 10 records .* with a `label`"):
        build_bundle(inputs, tmp_path / "bundle", tiny_encoders(inputs))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(least_records=1000), "0 of 8 labels have 1000 records or more"),
        (Recipe(folds=100), "too few for 100 folds"),
    ],
)
def test_too_little_data_is_refused_before_training(shards, tmp_path, recipe, message):
    inputs = [str(shards)]
    with pytest.raises(InputError, match=message):
        build_bundle(inputs, tmp_path / "bundle", tiny_encoders(inputs), recipe=recipe)


def test_a_directory_that_is_no_bundle_is_never_replaced(shards, tmp_path):
    inputs = [str(shards)]
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="not a bundle"):
        build_bundle(inputs, tmp_path, tiny_encoders(inputs))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def run_job(*arguments):
    return subprocess.run(
        [sys.executable, "jobs/build_bundle.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_job_leaves_a_finished_bundle_alone_and_shows_its_scores(shards, bundle, tmp_path):
    """The session's small bundle passes for one of the pretrained encoders, which would take minutes."""
    output = tmp_path / "bundle"
    shutil.copytree(bundle.path, output)
    origin = bundle.manifest.origin | {"encoders": PRETRAINED_ENCODERS}
    manifest = bundle.manifest.model_copy(update={"origin": origin})
    (output / "manifest.json").write_text(manifest.model_dump_json())
    done = run_job("--input", str(shards), "--output", str(output), "--downloads", str(tmp_path / "none"))
    assert done.returncode == 0, done.stderr
    assert "already built" in done.stdout
    assert "image+text+audio" in done.stdout
    assert not (tmp_path / "none").exists()


def test_the_job_names_what_is_wrong_and_exits_with_2(tmp_path):
    done = run_job("--input", str(tmp_path / "nowhere"), "--output", str(tmp_path / "bundle"))
    assert done.returncode == 2
    assert "nowhere: not found" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
