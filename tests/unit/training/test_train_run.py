"""From a recipe to a bundle that the job runs; killed and gone on; refused."""

import json
import os
import signal
import subprocess
import sys

import pytest
from support.scripts import ROOT

from mmray.bundle import Bundle
from mmray.errors import BundleError, ConfigError
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import MODALITIES
from mmray.sources import ReadOptions, list_shards, read
from mmray.training.loop import HISTORY, Alone
from mmray.training.phases import INT8
from mmray.training.profile import OUTSIDE, profile_training
from mmray.training.recipe import TrainRecipe
from mmray.training.run import Places, Training, train_bundle
from mmray.training.weights import BEST
from mmray.variants.make import optimize
from mmray.variants.steps import VariantRecipe

SMALL = {
    "image": {"pixels": 32, "depth": 0.3, "pretrained": False},
    "text": {"encoder": "small", "pretrained": False},
    "audio": {"encoder": "small"},
    "epochs": 2,
    "batch_rows": 16,
    "learning_rate": 0.003,
    "least_records": 5,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder of what all trainings share."""
    return tmp_path_factory.mktemp("prepared")


def trained(shards, tmp_path, prepared, name="trained", **changes):
    recipe = TrainRecipe.model_validate({"input": [str(shards)], **SMALL, **changes})
    places = Places(tmp_path / "work" / name, prepared, tmp_path / "no downloads")
    said = []
    return train_bundle(recipe, tmp_path / name, places, say=said.append), said


def training_of(shards, work, prepared, **changes):
    recipe = TrainRecipe.model_validate({"input": [str(shards)], **SMALL, **changes})
    work.mkdir(parents=True)
    return Training(recipe, Places(work, prepared, work), print)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory, prepared):
    """A model of words alone, which learns in a second, and where it was trained."""
    folder = tmp_path_factory.mktemp("whole")
    changes = {"image": None, "audio": None, "epochs": 12, "learning_rate": 0.01}
    bundle, said = trained(shards, folder, prepared, **changes)
    return bundle, said, folder


def test_it_learns_and_its_scorecard_tells_how_well(whole):
    bundle, said, folder = whole
    card = bundle.scorecard
    assert card["tune"]["text"]["accuracy"] > 0.2  # chance: 1 / 8; few of the words are in both splits
    assert card["test"]["text"]["low"] < card["test"]["text"]["accuracy"] < card["test"]["text"]["high"]
    assert [use["variant"] for use in card["test_uses"]] == ["fp32"]
    history = card["training"]["history"]
    assert history[-1]["loss"]["labels"] < 0.6 * history[0]["loss"]["labels"]
    assert any("min left" in line for line in said)
    assert (folder / "work/trained/curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_names_the_dearest_operators_and_leaves_a_trace(shards, tmp_path, prepared):
    training = training_of(shards, tmp_path / "work", prepared)
    found = profile_training(training, 3, tmp_path / "trace.json")
    assert found.batches == 3
    seconds = [operator.seconds for operator in found.operators]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) == pytest.approx(found.seconds, rel=0.02)
    names = {operator.name for operator in found.operators}
    assert {OUTSIDE, "aten::convolution_backward"} <= names
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any(event.get("name") == "aten::convolution_backward" for event in events)


def test_the_bundle_predicts_like_its_scorecard(whole, shards):
    bundle = Bundle.open(whole[0].path)
    preprocess, predictor = open_preprocessor(bundle), Predictor(bundle, provider="cpu")
    right = []
    for shard in list_shards([str(shards)]):
        for block in read(shard, ReadOptions()):
            outcomes = predictor(preprocess(block)).to_pylist()
            for record, outcome in zip(block.to_pylist(), outcomes, strict=True):
                meta = json.loads(record["meta"])
                if meta["split"] == "test" and outcome["modalities"]:
                    right.append(outcome["label"] == meta["label"])
    expected = bundle.scorecard["test"]["text"]
    assert len(right) == expected["records"]
    assert sum(right) / len(right) == pytest.approx(expected["accuracy"], abs=1e-4)


@pytest.mark.parametrize("fusion", [pytest.param("late", marks=pytest.mark.long), "early"])
def test_every_fusion_ends_as_a_bundle_that_does_without_a_modality(shards, tmp_path, prepared, fusion):
    bundle, _ = trained(shards, tmp_path, prepared, fusion=fusion, epochs=1)
    assert bundle.spec.modalities == MODALITIES
    assert set(bundle.scorecard["test"]) == {
        "as they are",
        *("image", "text", "audio"),
        *("image+text", "image+audio", "text+audio", "image+text+audio"),
    }
    Bundle.open(bundle.path).verify()


def test_a_student_learns_from_a_bundle(whole, shards, tmp_path, prepared):
    distil = {"teacher": str(whole[0].path), "features": 0.5}
    bundle, _ = trained(shards, tmp_path, prepared, audio=None, image=None, distil=distil)
    assert bundle.scorecard["training"]["history"][0]["loss"].keys() == {"labels", "logits", "features"}


def test_a_teacher_of_other_labels_is_refused(shards, tmp_path, prepared, bundle):
    from support.bundles import small_bundle

    with pytest.raises(ConfigError, match="does not know the label"):
        trained(shards, tmp_path, prepared, distil={"teacher": str(small_bundle().path)})


def test_frozen_encoders_run_once(whole, shards, tmp_path, prepared):
    text = {"encoder": "small", "pretrained": False, "frozen": True}
    kept = {"image": None, "audio": None, "text": text, "start": str(whole[2] / "work/trained")}
    before = {*prepared.glob("text-*.npy")}
    for seed in (0, 1):
        training_of(shards, tmp_path / str(seed), prepared, **kept, seed=seed).train(Alone(), print)
    assert len({*prepared.glob("text-*.npy")} - before) == 1


@pytest.mark.long
def test_pruned_it_is_narrower_and_starts_again_from_its_folder(shards, tmp_path, prepared):
    image = {"text": None, "audio": None, "epochs": 1}
    full, _ = trained(shards, tmp_path, prepared, name="full", **image)
    start = str(tmp_path / "work/full")
    pruned, said = trained(
        shards,
        tmp_path,
        prepared,
        "pruned",
        **image | {"epochs": 2},
        start=start,
        prune={"image": 0.5, "steps": 2},
    )
    sizes = [b.scorecard["variants"]["fp32"]["bytes"] for b in (full, pruned)]
    assert sizes[1] < 0.75 * sizes[0]
    assert any(line.startswith("pruned 2/2, epoch") for line in said)
    after, _ = trained(
        shards, tmp_path, prepared, "tuned", **image, start=str(tmp_path / "work/pruned"), quantize=True
    )
    assert after.scorecard["variants"]["fp32"]["bytes"] == pytest.approx(sizes[1], rel=0.01)
    given = {"graph": str(tmp_path / "work/tuned" / INT8)}
    rows = {"train": 16, "tune": 20, "test": 20}
    steps = [{"name": "int8-qat", "given": given}]
    recipe = VariantRecipe.model_validate(
        {"input": str(shards), "rows": rows, "timing_rounds": 0, "steps": steps, "keep_failed": True}
    )
    judged = optimize(after, recipe, tmp_path / "judged", say=print)
    assert judged.graph("int8-qat").stat().st_size < sizes[1] / 2


def test_another_recipe_in_the_same_folder_is_refused(whole, shards, prepared):
    _, _, folder = whole
    with pytest.raises(ConfigError, match="another recipe was trained there"):
        trained(shards, folder, prepared, image=None, audio=None, epochs=3)


def test_what_is_no_bundle_is_not_replaced(shards, tmp_path, prepared):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/thesis.txt").write_text("mine")
    with pytest.raises(BundleError, match="not a bundle"):
        trained(shards, tmp_path, prepared)


def test_killed_it_goes_on_and_ends_as_if_it_had_not_been(shards, tmp_path, prepared):
    """The second run learns only the epochs that are missing, and the same weights come out."""
    options = {"image": None, "audio": None, "epochs": 60, "patience": 60}
    training_of(shards, tmp_path / "whole", prepared, **options).train(Alone(), print)
    recipe = TrainRecipe.model_validate({"input": [str(shards)], **SMALL, **options})
    program = (
        "import sys\nfrom pathlib import Path\nfrom mmray.training.loop import Alone\n"
        "from mmray.training.recipe import TrainRecipe\nfrom mmray.training.run import Places, Training\n"
        "work, prepared = map(Path, sys.argv[2:])\n"
        "say = lambda line: print(line, flush=True)\n"
        "recipe = TrainRecipe.model_validate_json(sys.argv[1])\n"
        "Training(recipe, Places(work, prepared, work), say).train(Alone(), say)\n"
    )
    work = tmp_path / "killed"
    command = [sys.executable, "-c", program, recipe.model_dump_json(), work, prepared]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                os.kill(process.pid, signal.SIGKILL)
                break
    done = len((work / HISTORY).read_text().splitlines())
    assert 3 <= done < 60
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert f"resumes after {done} epochs" in found
    assert f"epoch {done}/60" not in found
    assert (work / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
