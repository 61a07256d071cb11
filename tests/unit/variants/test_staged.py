"""A cascade is chosen on tune records, cut from any variant, and offered where it is worth it."""

import numpy as np
import onnx
import pytest
from support.linear import linear_bundle, write_labelled

from mmray.bundle import NewVariant, extend_bundle
from mmray.engine import Engine
from mmray.errors import BundleError, InputError
from mmray.evaluation.outputs import run_outputs
from mmray.evaluation.records import Records
from mmray.predictor import Predictor, open_preprocessor
from mmray.variants.cascades.evidence import HALF
from mmray.variants.cascades.paths import Way, record_blocks, time_ways
from mmray.variants.cascades.tradeoff import Tuning
from mmray.variants.make import optimize
from mmray.variants.quantize.int8 import to_dynamic_int8
from mmray.variants.staged import make_cascade
from mmray.variants.steps import Step, VariantRecipe

LARGE = (500, 500)  # pictures whose decoding costs far more than all else


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("staged")


@pytest.fixture(scope="module")
def bundle(folder):
    """With two variants that passed, and one that failed."""
    parent = linear_bundle(folder / "parent")
    onnx.save(to_dynamic_int8(onnx.load(parent.graph("fp32"))), folder / "int8.onnx")
    outputs = Engine(folder / "int8.onnx", provider="cpu")(parent.golden()[0])
    changes = {"parent": "fp32", "golden_tolerance": 0.02}

    def variant(name):
        entry = parent.manifest.variants["fp32"].model_copy(
            update={**changes, "file": f"variants/{name}.onnx"}
        )
        return NewVariant(entry, folder / "int8.onnx", outputs)

    card = {"variants": {"fp32": {}, "int8": {"passed": True}, "bad": {"passed": False, "reason": "deaf"}}}
    added = {name: variant(name) for name in ("int8", "bad")}
    return extend_bundle(folder / "bundle", parent, added, scorecard=card, origin={})


@pytest.fixture(scope="module")
def tuning(folder, bundle):
    """Records of which some lack a modality."""
    return tuning_on(write_labelled(folder / "some", rows=120, split="tune", seed=2, size=LARGE), bundle)


def tuning_on(records, bundle):
    tune = Records([str(records)], bundle, {"train": 9, "tune": 1000, "test": 9}).load("tune")
    return Tuning(bundle, tune, (str(records),), 8)


def made(tuning, folder, said=None, **step):
    step = Step.model_validate({"cascade": step})
    return make_cascade(step, tuning, folder, (said if said is not None else []).append)


@pytest.fixture(scope="module")
def cascade(tuning, folder):
    said = []
    return made(tuning, folder, said, of="int8", disagreement=0.1), "\n".join(said)


def test_it_is_cut_from_the_variant_that_is_wanted_and_kept_within_the_budget(cascade, tuning):
    found, said = cascade
    entry, card = found.variant.entry, found.card
    assert (entry.parent, entry.file, entry.how["of"]) == ("fp32", "variants/int8.onnx", "int8")
    assert [list(stage.modalities) for stage in entry.cascade.stages] == card["stages"]
    assert "image" in card["stages"][-1]
    assert 0 < card["bound"] <= 0.1
    assert card["early"] > 0.2
    assert card["chosen_on"]["records"] == len(tuning.records)
    assert card["chosen_on"]["settings"] > 1000
    assert card["measured_ms"]["cascade"] < min(ms for n, ms in card["measured_ms"].items() if n != "cascade")
    assert "chosen" in said
    assert "no stage for images at half their size: no record of the train split can be used" in said


def test_in_a_bundle_it_answers_as_it_was_chosen_to(cascade, tuning, folder):
    new = cascade[0].variant
    card = tuning.bundle.scorecard["variants"] | {"cascade": {"passed": True}}
    bundle = extend_bundle(
        folder / "with", tuning.bundle, {"cascade": new}, scorecard={"variants": card}, origin={}
    )
    predict, preprocess = Predictor(bundle, variant="cascade", provider="cpu"), open_preprocessor(bundle)
    rows = [
        row
        for block in record_blocks([str(folder / "some")], tuning.records, 1000)
        for row in predict(preprocess(block, predict.later), preprocess.complete).to_pylist()
    ]
    assert len(rows) == len(tuning.records)
    early = [row["stage"] < predict.stages for row in rows]
    assert np.mean(early) == pytest.approx(cascade[0].card["early"], abs=0.02)
    engine = cascade[0].engine(bundle.spec.modalities)
    outputs = run_outputs(engine, tuning.records, batch_rows=8)
    asked = outputs.scores[outputs.whole].argmax(axis=1)
    assert sorted(bundle.labels[i] for i in asked) == sorted(row["label"] for row in rows)


def test_half_images_are_asked_and_timed_beside_whole_ones(tuning, folder, bundle):
    """Their head is trained on records of train, their answers and times are of tune."""
    shards = write_labelled(folder / "train", rows=150, split="train", seed=8)
    train = Records([str(shards)], bundle, {"train": 1, "tune": 1, "test": 1})
    own = Tuning(bundle, tuning.records, (str(folder / "some"),), 8, lambda: train.parts("train", 1000))
    found = own.with_half("int8", folder)
    evidence, costs = found.trial.evidence, found.trial.costs
    assert evidence.half.keys() == evidence.logits.keys()
    with_image = tuning.records.present[:, 0]
    right = evidence.half["image"].argmax(axis=1) == evidence.labels
    assert right[with_image].mean() > 0.8
    assert costs.modality.keys() == {"image", "text", "audio", HALF}
    assert 0 <= costs.decoded_image < costs.of("image")  # nearly all that these pictures cost is decoding
    assert own.with_half("int8", folder) is found


def test_the_curve_has_variants_subsets_and_settings_with_their_intervals(cascade, tuning):
    points = tuning.points()
    kinds = {point["kind"] for point in points}
    assert kinds == {"variant", "modality", "cascade"}
    assert {p["name"] for p in points if p["kind"] == "variant"} == {"fp32", "int8"}
    alone = [p["modalities"] for p in points if p["kind"] == "modality" and p["variant"] == "int8"]
    assert len(alone) == 6
    assert ["image", "text"] in alone
    settings = [p for p in points if p["kind"] == "cascade"]
    assert len(settings) <= 40
    (chosen,) = [p for p in points if p["chosen"]]
    assert (chosen["name"], chosen["measured"]) == ("cascade", True)
    assert not any(p["measured"] for p in settings if not p["chosen"])
    for point in points:
        assert point["low"] <= point["accuracy"] <= point["high"]
        assert point["split"] == "tune"
        assert point["groups"] < point["records"]


def test_where_one_modality_alone_is_as_good_nothing_is_offered(folder, bundle):
    """All records have text, and nearly any answer keeps within the budget."""
    tuning = tuning_on(write_labelled(folder / "all", rows=100, split="tune", seed=3, missing=0), bundle)
    with pytest.raises(InputError, match=r"not worth it: .* text ≥.* → .* text alone is as good in"):
        made(tuning, folder, of="fp32", disagreement=0.9)
    assert not any(point["chosen"] for point in tuning.points())


def test_a_base_that_failed_or_does_not_exist_is_refused(tuning, folder):
    with pytest.raises(BundleError, match="'bad' failed its gate: deaf"):
        made(tuning, folder, of="bad", disagreement=0.1)
    with pytest.raises(BundleError, match="no variant 'int9'"):
        made(tuning, folder, of="int9", disagreement=0.1)


def test_the_path_of_one_modality_takes_less_than_that_of_all_and_says_so_in_milliseconds(tuning):
    ways = {"all": Way("fp32"), "text": Way("fp32", ("text",))}
    ms = time_ways(tuning.bundle, ways, tuning.blocks[:1], batch_rows=8, rounds=1)
    assert 0 < ms["text"] < ms["all"]


def test_the_blocks_that_are_timed_are_of_the_records_that_count(tuning, folder):
    few = tuning.records.thinned(20)
    blocks = record_blocks([str(folder / "some")], few, 12)
    rows = [row for block in blocks for row in block["row"].to_pylist()]
    assert rows == few.tensors["row"].to_pylist()[:12]


def test_what_optimize_makes_is_judged_once_by_its_own_budget_on_test(bundle, tmp_path):
    """The general gate asks for more agreement, in every subset and label; a cascade promises its budget."""
    records = write_labelled(tmp_path / "records", rows=120, split="tune", seed=2, size=LARGE)
    write_labelled(records, rows=150, split="test", seed=5)
    recipe = {
        "input": str(records),
        "steps": [{"cascade": {"disagreement": 0.12, "of": "fp32"}}, {"half": {}}],
        "timing_rounds": 0,
    }
    made = optimize(bundle, VariantRecipe.model_validate(recipe), tmp_path / "out", say=[].append)
    card = made.scorecard["variants"]["cascade"]
    assert (card["split"], card["records"]) == ("test", 150)
    assert card["passed"] == (card["agreement_bound"] >= 0.88)
    assert ("cascade" in made.manifest.variants) == card["passed"]
    assert [use["variant"] for use in made.scorecard["test_uses"]].count("cascade") == 1
    (chosen,) = [point for point in made.scorecard["tradeoff"] if point["chosen"]]
    assert chosen["test"]["low"] <= chosen["test"]["accuracy"] <= chosen["test"]["high"]
    assert chosen["test"]["records"] == 150
