"""The gate judges by decisions, slice by slice: what is ruined is refused by name, what is sound passes."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic
from support.bundles import LABELS
from support.linear import (
    deaf,
    linear_bundle,
    overflowing,
    with_near_zero_scale,
    with_permuted_labels,
    write_labelled,
)

from mmray.batching import batches, pack
from mmray.engine import Engine
from mmray.evaluation.outputs import Outputs, run_outputs
from mmray.evaluation.records import Records
from mmray.variants.gate.comparison import Thresholds, compare
from mmray.variants.gate.verdict import FAILED, NOT_ENOUGH, PASSED

# What 120 records can show.
SOUND = Thresholds(
    agreement=0.9, accuracy_loss=0.06, slice_agreement=0.75, slice_accuracy_loss=0.2, least_groups=40
)
SUBSETS = ["image", "text", "audio", "image+text", "image+audio", "text+audio", "image+text+audio"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return linear_bundle(tmp_path_factory.mktemp("linear") / "bundle")


@pytest.fixture(scope="module")
def records(tmp_path_factory, bundle):
    folder = write_labelled(tmp_path_factory.mktemp("held out"), missing=0.1)
    return Records([str(folder)], bundle, {"train": 1, "tune": 1, "test": 1000}).load("test")


@pytest.fixture
def judge(bundle, records, tmp_path):
    """The verdict on a model, or on an ONNX file."""
    parent = run_outputs(Engine(bundle.graph("fp32"), provider="cpu"), records, batch_rows=16)

    def judge(model, thresholds=SOUND):
        if isinstance(model, onnx.ModelProto):
            onnx.save(model, tmp_path / "variant.onnx")
            model = tmp_path / "variant.onnx"
        engine = Engine(model, provider="cpu")
        return compare(parent, run_outputs(engine, records, batch_rows=16), thresholds)

    return judge


@pytest.fixture
def model(bundle):
    return onnx.load(bundle.graph("fp32"))


def made_up(rows=200, classes=4, seed=0, groups=None):
    """Outputs of records with one modality, decided by chance, whose labels are the decisions."""
    random = np.random.default_rng(seed)
    decided = random.integers(classes, size=rows)
    return Outputs(
        scores=np.where(np.eye(classes)[decided], 0.7, 0.1).astype(np.float32),
        present=np.ones((rows, 1), np.bool_),
        whole=np.ones(rows, np.bool_),
        labels=decided,
        groups=np.arange(rows).astype(str) if groups is None else groups,
        modalities=("image",),
        classes=tuple("abcdefgh"[:classes]),
    )


def changed(outputs, rows):
    """The outputs, with another decision in these rows."""
    scores = outputs.scores.copy()
    scores[rows] = np.roll(scores[rows], 1, axis=1)
    return replace(outputs, scores=scores)


def test_the_parent_itself_passes(judge, bundle):
    verdict = judge(bundle.graph("fp32"))
    assert verdict.passed
    assert verdict.reason == ""
    assert list(verdict.subsets) == SUBSETS
    assert {name: found.records for name, found in verdict.labels.items()} == dict.fromkeys(LABELS, 30)
    for found in (verdict.overall, *verdict.subsets.values(), *verdict.labels.values()):
        assert (found.agreement, found.divergence) == (1, 0)
        assert found.accuracy.difference == 0
        assert found.agreement_bound < 1, "what was not seen may be"
        assert found.accuracy.interval[0] <= found.accuracy.bound < 0 < found.accuracy.interval[1]
    assert {found.verdict for found in verdict.subsets.values()} == {PASSED}
    assert {found.verdict for found in verdict.labels.values()} == {NOT_ENOUGH}, "20 groups of each"
    assert verdict.untold == list(LABELS)


def test_sound_int8_passes(judge, bundle, tmp_path):
    quantize_dynamic(bundle.graph("fp32"), tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    verdict = judge(tmp_path / "int8.onnx")
    assert verdict.passed, verdict.reason
    assert 0 < verdict.overall.divergence < 0.01


def test_int8_ruined_by_one_enormous_weight_is_refused_though_its_features_are_alike(
    judge, model, records, tmp_path
):
    """A near-zero scale folded into the head: right in fp32, but in int8 all small weights are gone."""
    spoilt = with_near_zero_scale(model)
    assert judge(spoilt).passed
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    quantize_dynamic(tmp_path / "spoilt.onnx", tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    engines = [Engine(tmp_path / name, provider="cpu") for name in ("spoilt.onnx", "int8.onnx")]
    for rows in batches(records.tensors, 16):
        feeds = pack(records.tensors.take(rows), records.spec)
        a, b = (engine(feeds)["features"] for engine in engines)
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.99
    verdict = judge(tmp_path / "int8.onnx")
    assert not verdict.passed
    assert verdict.overall.agreement < 0.5
    assert "decisions agree on" in verdict.reason


def test_an_overflow_of_float16_is_refused(judge, model):
    verdict = judge(overflowing(model))
    assert "are not finite" in verdict.reason
    assert verdict.not_finite == sum(found.records for found in verdict.subsets.values())
    assert np.isfinite(verdict.overall.divergence), "the scorecard is JSON, which has no NaN"


def test_one_row_that_is_not_finite_is_enough():
    parent = made_up()
    scores = parent.scores.copy()
    scores[17, 2] = np.nan
    verdict = compare(parent, replace(parent, scores=scores), Thresholds())
    assert verdict.reason == "the scores of 1 of 200 rows are not finite"
    assert verdict.overall.agreement == 1 - 1 / 200


def test_permuted_labels_are_refused(judge, model):
    verdict = judge(with_permuted_labels(model))
    assert "decisions agree on 0 of 120" in verdict.reason
    assert verdict.overall.accuracy.variant < 0.05


def test_a_model_that_lost_its_hearing_is_refused_by_the_name_of_the_slice(judge, model):
    """On the records as they are it passes: hardly one has nothing but audio."""
    allowed = SOUND.model_copy(update={"agreement": 0.8, "accuracy_loss": 0.15})
    verdict = judge(deaf(model), allowed)
    assert verdict.overall.verdict == PASSED
    assert verdict.answer == FAILED
    assert verdict.reason.startswith("audio: decisions agree on ")
    blind = allowed.model_copy(update={"slice_agreement": 0, "slice_accuracy_loss": 1})
    assert judge(deaf(model), blind).passed


def test_a_label_that_is_lost_is_refused_by_its_name():
    parent = made_up(rows=2000, classes=8)
    lost = np.flatnonzero(parent.labels == 5)[:40]
    verdict = compare(parent, changed(parent, lost), Thresholds(accuracy_loss=0.05))
    assert verdict.overall.agreement == 0.98
    assert verdict.worst_label == "f"
    assert verdict.labels["f"].verdict == FAILED
    assert verdict.reason.startswith("label f: decisions agree on ")


def test_a_slice_that_is_shown_to_be_less_accurate_is_refused():
    """All decisions that changed were right; as many wrong ones would not matter."""
    parent = made_up()
    allowed = Thresholds(agreement=0.8, accuracy_loss=1, divergence=9, least_groups=100)
    verdict = compare(parent, changed(parent, np.arange(19)), allowed)
    assert verdict.reason == "image: accuracy falls by 0.095 on 200 records, more than 0.05"
    wrong = replace(parent, labels=(parent.labels + 2) % 4)
    assert compare(
        wrong, changed(wrong, np.arange(19)), allowed.model_copy(update={"slice_agreement": 0.8})
    ).passed


def test_without_labels_decisions_are_compared_and_their_slices_too():
    parent = made_up(rows=2000, classes=8)
    unlabelled = replace(parent, labels=np.full(2000, -1))
    lost = np.flatnonzero(parent.labels == 5)[:65]
    verdict = compare(unlabelled, changed(unlabelled, lost), Thresholds())
    assert verdict.overall.accuracy is None
    assert verdict.reason.startswith("label f: decisions agree on ")
    assert compare(unlabelled, unlabelled, Thresholds()).passed
    assert "difference" not in verdict.as_dict()


def test_records_of_unknown_labels_count_for_agreement_only():
    parent = made_up()
    labels = parent.labels.copy()
    labels[:150] = -1
    overall = compare(replace(parent, labels=labels), replace(parent, labels=labels), Thresholds()).overall
    assert (overall.records, overall.accuracy.records) == (200, 50)


def two_subsets():
    """100 records, of which 29 have a picture alone, and a variant that decides nine of these otherwise."""
    parent = made_up(rows=100)
    present = np.ones((100, 2), np.bool_)
    present[:29, 1] = False
    parent = replace(parent, present=present, modalities=("image", "text"))
    return parent, changed(parent, np.arange(9))


def test_a_subset_of_few_records_is_not_enough_and_never_passed():
    parent, variant = two_subsets()
    allowed = Thresholds(
        **{"agreement": 0.8, "accuracy_loss": 1, "divergence": 9, "slice_accuracy_loss": 1},
        slice_agreement=0.85,
        least_groups=30,
    )
    for outputs in (parent, variant):
        verdict = compare(parent, outputs, allowed)
        assert verdict.subsets["image"].verdict == verdict.answer == NOT_ENOUGH
        assert (
            verdict.reason
            == "image: 29 records in 29 groups; at least 30 groups are needed (thresholds.least_groups)"
        )
        assert not verdict.passed
    few = allowed.model_copy(update={"least_groups": 29})
    assert compare(parent, variant, few).subsets["image"].verdict == NOT_ENOUGH, ".69, and it may be .85"
    few = few.model_copy(update={"slice_agreement": 0.95})
    assert compare(parent, variant, few).subsets["image"].verdict == FAILED


def test_too_few_records_to_show_that_little_is_lost_are_not_enough():
    """The same loss of .02: on 4,000 records it is sure to be below .05, on 50 it is not."""
    allowed = Thresholds(agreement=0, accuracy_loss=0.05, slice_agreement=0, slice_accuracy_loss=0.2)
    few, many = made_up(rows=50), made_up(rows=4000)
    assert compare(many, changed(many, np.arange(0, 4000, 50)), allowed).passed
    verdict = compare(few, changed(few, np.array([7])), allowed)
    assert verdict.answer == NOT_ENOUGH
    assert verdict.reason.startswith("50 records in 50 groups lose 0.020 of accuracy, which shows 0.0")
    assert verdict.reason.endswith("at most; 0.05 is allowed")


def test_a_share_that_so_few_groups_cannot_show_is_told_with_the_number_that_can():
    parent = made_up(rows=60)
    allowed = Thresholds(agreement=0.99, accuracy_loss=1, slice_agreement=0, slice_accuracy_loss=1)
    verdict = compare(parent, parent, allowed)
    assert verdict.answer == NOT_ENOUGH
    assert verdict.reason.endswith("99.0% is required, which needs 300 groups even if all agree")


def test_more_is_lost_than_allowed_is_a_failure_however_few_the_records():
    parent = made_up(rows=60)
    allowed = Thresholds(agreement=0, accuracy_loss=0.05, slice_agreement=0, slice_accuracy_loss=1)
    verdict = compare(parent, changed(parent, np.arange(6)), allowed)
    assert verdict.answer == FAILED
    assert verdict.reason.startswith("accuracy falls by 0.100 on 60 records, more than 0.05")


def test_records_of_one_group_show_no_more_than_one():
    parent = made_up(rows=200)
    copied = replace(parent, groups=np.repeat(np.arange(50), 4).astype(str))
    bounds = [compare(each, each, Thresholds()).overall.agreement_bound for each in (parent, copied)]
    assert bounds[1] < 1 - 3 * (1 - bounds[0])


def test_of_many_slices_each_must_be_shown_more_surely():
    """A slice that one bound shows to be good is not shown where twelve such are looked at."""
    allowed = Thresholds(
        agreement=0, accuracy_loss=1, slice_accuracy_loss=1, slice_agreement=0.95, divergence=9
    )
    alone = made_up(rows=62)
    assert compare(alone, alone, allowed).subsets["image"].verdict == PASSED
    present = np.array(list(np.ndindex(2, 2, 2, 2)))[1:13].astype(bool).repeat(62, axis=0)
    parent = replace(made_up(rows=len(present)), present=present, modalities=("a", "b", "c", "d"))
    assert {found.verdict for found in compare(parent, parent, allowed).subsets.values()} == {NOT_ENOUGH}


def test_scores_that_lose_their_confidence_are_refused_though_decisions_stay():
    parent = made_up()
    verdict = compare(parent, replace(parent, scores=parent.scores * 0.1 + 0.225), Thresholds())
    assert verdict.overall.agreement == 1
    assert verdict.reason.startswith("scores diverge by 0.")


def test_divergence_by_hand():
    parent = replace(made_up(rows=30, classes=2), scores=np.tile(np.float32([0.75, 0.25]), (30, 1)))
    variant = replace(parent, scores=np.tile(np.float32([0.5, 0.5]), (30, 1)))
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert compare(parent, variant, Thresholds()).overall.divergence == pytest.approx(expected)


def test_the_verdict_is_the_same_each_time(judge, bundle, tmp_path):
    quantize_dynamic(bundle.graph("fp32"), tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    assert judge(tmp_path / "int8.onnx").as_dict() == judge(tmp_path / "int8.onnx").as_dict()
