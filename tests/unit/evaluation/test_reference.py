"""The reference of a bundle holds what a run of the same records would count."""

import numpy as np
import pyarrow as pa
import pytest
from support.bundles import small_bundle
from support.cascades import cascaded, mixed_records
from support.drift import labelled, referring

from mmray.bundle import Bundle, NewVariant, extend_bundle
from mmray.drift import REFERENCE, UNWATCHED, Watch
from mmray.drift.reference import LEAST_RECORDS
from mmray.errors import BundleError
from mmray.evaluation.reference import bundle_reference
from mmray.predictor import Predictor, open_preprocessor


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle with a cascade, and a reference of 160 records."""
    folder = tmp_path_factory.mktemp("reference")
    return referring(folder / "referring", cascaded(folder / "cascade", 0.38), mixed_records(160))


def seen_by(bundle, variant, records, **options):
    """What is counted of records, and how many records that were."""
    predict, preprocess = (
        Predictor(bundle, variant=variant, provider="cpu", **options),
        open_preprocessor(bundle),
    )
    predict(preprocess(records, predict.later), preprocess.complete)
    counts = predict.take_drift()
    assert predict.take_drift() is None
    return counts


def test_every_variant_is_counted_by_its_own_answers(made):
    found = made.reference
    assert set(found.variants) == {"fp32", "cascade"}
    names = [sketch.name for sketch in found.variants["fp32"].sketches]
    assert names[:5] == ["modalities", "tokens of text", "seconds of sound", "label", "confidence"]
    assert names[5].startswith("direction 1")
    staged = [sketch.name for sketch in found.variants["cascade"].sketches]
    assert {"answered early", "label (stage 2)", "seconds of sound (stage 2)"} <= set(staged)
    assert found.variants["fp32"].records == 120  # three quarters
    assert sum(found.variants["fp32"].sketches[0].counts) == 120
    assert made.path.joinpath(REFERENCE).stat().st_size < 200_000
    made.verify()


@pytest.mark.parametrize("variant", ["fp32", "cascade"])
def test_records_of_the_same_source_are_no_shift_and_others_are_one(made, variant):
    reference = made.reference.variants[variant]
    for records, differs in ((mixed_records(160, seed=1), False), (mixed_records(160).slice(0, 1), True)):
        watch = Watch(reference)
        many = records if not differs else pa.concat_tables([records] * 160)
        watch.add(seen_by(made, variant, many))
        watch.finish()
        assert bool(watch.alarm) is differs


def test_answers_that_are_only_compared_are_not_counted(made):
    records = mixed_records(60)
    alone = seen_by(made, "cascade", records)
    assert (alone == seen_by(made, "cascade", records, shadow=1.0)).all()


def test_rows_that_are_no_records_are_not_counted(made):
    tensors = open_preprocessor(made)(mixed_records(20))
    predict = Predictor(made, variant="cascade", provider="cpu")
    predict(tensors.slice(0, 12))
    expected = predict.take_drift()
    predict(tensors.append_column(UNWATCHED, pa.array(np.arange(20) >= 12)))
    assert (predict.take_drift() == expected).all()


def test_a_twin_counts_for_itself(made):
    predict = Predictor(made, variant="fp32", provider="cpu")
    other = predict.twin()
    other(open_preprocessor(made)(mixed_records(8)))
    assert predict.take_drift() is None
    assert other.take_drift() is not None


def test_a_bundle_without_a_reference_counts_nothing():
    assert small_bundle().reference is None
    assert seen_by(small_bundle(), "fp32", mixed_records(8)) is None


def test_too_few_records_make_no_reference():
    bundle = small_bundle()
    assert bundle_reference(bundle, labelled(bundle, mixed_records(LEAST_RECORDS - 1))) is None


def test_a_child_keeps_the_reference_of_the_variants_that_stay_as_they_are(made, tmp_path):
    entry, golden = made.entry("fp32"), made.golden()[1]
    added = {"cascade": NewVariant(entry.model_copy(update={"parent": "fp32"}), made.graph("fp32"), golden)}
    child = extend_bundle(tmp_path / "child", made, added, scorecard=made.scorecard, origin={})
    assert set(child.reference.variants) == {"fp32"}


def test_an_altered_reference_is_refused(made, tmp_path):
    copied = extend_bundle(tmp_path / "copy", made, {}, scorecard=made.scorecard, origin={})
    file = copied.path / REFERENCE
    file.write_text(file.read_text().replace("1", "2", 1))
    with pytest.raises(BundleError, match=REFERENCE):
        _ = Bundle.open(copied.path).reference
