"""Easy records are answered from their text alone; all others exactly as by the whole model."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.bundles import records_table, reseal
from support.cascades import cascaded, mixed_records
from support.damaged import truncated_jpeg
from support.media import clip

from mmray.cascade import in_shadow, softmax
from mmray.errors import BundleError, EngineError
from mmray.predictor import Predictor, open_preprocessor
from mmray.shapes import job_ladder

THRESHOLD = 0.38


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cascades")


@pytest.fixture(scope="module")
def bundle(folder):
    return cascaded(folder / "half", THRESHOLD)


@pytest.fixture(scope="module")
def preprocess(bundle):
    return open_preprocessor(bundle)


@pytest.fixture(scope="module")
def whole(bundle, preprocess):
    return Predictor(bundle, variant="fp32", provider="cpu")(preprocess(mixed_records()))


@pytest.fixture(scope="module")
def staged(bundle, preprocess):
    predict = Predictor(bundle, variant="cascade", provider="cpu")
    return predict(preprocess(mixed_records(), predict.later), preprocess.complete)


def scores(table):
    return np.array(table["scores"].to_pylist())


def sure(staged):
    """A row that leaves early."""
    return staged["stage"].to_pylist().index(1)


def unsure(staged):
    """A row that goes on although it has text."""
    texts = [value.is_valid for value in mixed_records()["text"]]
    return next(i for i, stage in enumerate(staged["stage"].to_pylist()) if stage == 2 and texts[i])


def test_some_leave_early_and_some_go_on(staged):
    stages = staged["stage"].to_pylist()
    assert 5 < stages.count(1) < 20
    assert stages.count(1) + stages.count(2) == 48


def test_who_goes_on_is_answered_as_by_the_whole_model(staged, whole):
    late = np.array(staged["stage"].to_pylist()) == 2
    assert np.abs(scores(staged) - scores(whole))[late].max() < 1e-6
    assert staged.filter(pa.array(late))["modalities"].equals(whole.filter(pa.array(late))["modalities"])


def test_who_leaves_is_answered_from_its_text_alone(staged, bundle):
    early = pc.equal(staged["stage"], 1)
    alone = Predictor(bundle, variant="fp32", provider="cpu")
    only_text = open_preprocessor(bundle, modalities=["text"])(mixed_records())
    expected = scores(alone(only_text).filter(early))
    assert np.abs(scores(staged.filter(early)) - expected).max() < 1e-6
    assert staged.filter(early)["modalities"].to_pylist() == [["text"]] * len(expected)
    assert (np.array(staged.filter(early)["confidence"].to_pylist()) >= THRESHOLD).all()


def test_records_without_text_go_straight_on(staged):
    texts = [value.is_valid for value in mixed_records()["text"]]
    for has_text, stage in zip(texts, staged["stage"].to_pylist(), strict=True):
        assert has_text or stage == 2


@pytest.mark.parametrize("batch_rows", [1, 7, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_neither_batches_nor_order_nor_decoding_at_once_change_anything(
    staged, bundle, preprocess, batch_rows, seed
):
    order = np.random.default_rng(seed).permutation(48)
    predict = Predictor(bundle, variant="cascade", provider="cpu", batch_rows=batch_rows)
    at_once = predict(preprocess(mixed_records().take(order)))
    later = predict(preprocess(mixed_records().take(order), predict.later), preprocess.complete)
    expected = staged.take(order)
    for found in (at_once, later):
        for column in ("label", "stage", "modalities", "row"):
            assert found[column].equals(expected[column])
        assert np.abs(scores(found) - scores(expected)).max() < 1e-6


def test_with_a_threshold_above_1_it_is_the_whole_model(folder, whole, preprocess):
    bundle = cascaded(folder / "closed", 1.1)
    predict = Predictor(bundle, variant="cascade", provider="cpu")
    found = predict(preprocess(mixed_records(), ("image", "audio")), preprocess.complete)
    assert found["scores"].equals(whole["scores"])
    assert found["modalities"].equals(whole["modalities"])


def test_closed_exits_let_nobody_leave(bundle, whole, preprocess):
    predict = Predictor(bundle, variant="cascade", provider="cpu")
    predict.close_exits()
    found = predict(preprocess(mixed_records(), predict.later), preprocess.complete)
    assert set(found["stage"].to_pylist()) == {2}
    assert found["label"].equals(whole["label"])


def test_a_temperature_makes_the_confidence_milder(folder, preprocess):
    predict = Predictor(
        cascaded(folder / "mild", THRESHOLD, temperature=50.0), variant="cascade", provider="cpu"
    )
    found = predict(preprocess(mixed_records()))
    assert set(found["stage"].to_pylist()) == {2}


def test_damage_that_an_early_answer_does_not_need_shows_only_where_all_is_verified(
    bundle, preprocess, staged
):
    text = mixed_records()["text"]
    rows = [{"text": text[i].as_py(), "image": truncated_jpeg()} for i in (sure(staged), unsure(staged))]
    predict = Predictor(bundle, variant="cascade", provider="cpu")
    lazily = predict(preprocess(records_table(rows), predict.later), preprocess.complete).to_pylist()
    assert lazily[0]["error"] is None
    assert (lazily[1]["error"]["stage"], lazily[1]["error"]["type"]) == ("preprocess", "image-undecodable")
    assert lazily[1]["damaged"] == ["image"]
    verified = predict(preprocess(records_table(rows))).to_pylist()
    assert [row["error"]["type"] for row in verified] == ["image-undecodable"] * 2


def test_where_damage_is_masked_the_rest_decides_in_full(bundle, staged):
    masking = open_preprocessor(bundle, on_damaged="mask")
    predict = Predictor(bundle, variant="cascade", provider="cpu")
    text = mixed_records()["text"][unsure(staged)].as_py()
    rows = [{"text": text, "image": truncated_jpeg()}, {"image": truncated_jpeg()}]
    found = predict(masking(records_table(rows), predict.later), masking.complete).to_pylist()
    assert (found[0]["stage"], found[0]["modalities"], found[0]["damaged"]) == (2, ["text"], ["image"])
    assert found[1]["error"]["type"] == "all-damaged"


def test_the_shadow_runs_the_same_records_each_time_and_changes_no_answer(bundle, preprocess, staged, whole):
    predict = Predictor(bundle, variant="cascade", provider="cpu", shadow=1.0)
    found = predict(preprocess(mixed_records(), predict.later), preprocess.complete)
    assert found.equals(staged)
    early = np.array(staged["stage"].to_pylist()) == 1
    same = np.array(staged["label"].to_pylist()) == np.array(whole["label"].to_pylist())
    assert predict.counts == {
        "left 1": early.sum(),
        "left 2": (~early).sum(),
        "shadowed": early.sum(),
        "agreed": (early & same).sum(),
    }


@pytest.mark.parametrize("text", [b"poison", b"nan"])
def test_what_only_the_shadow_finds_wrong_costs_no_answer(folder, text):
    """The model fails on one of the texts, and gives NaN for the other; the sound alone had answered it."""
    bundle = cascaded(folder / f"sound-{text.decode()}", 0.0, stages=(("audio",), ("text", "image")))
    rows = [{"audio": clip(seconds=1.0), "text": words} for words in (b"a cat", text, b"a dog")]
    predict = Predictor(bundle, variant="cascade", provider="cpu", shadow=1.0)
    preprocess = open_preprocessor(bundle)
    found = predict(preprocess(records_table(rows), predict.later), preprocess.complete)
    assert found["error"].null_count == 3
    assert found["stage"].to_pylist() == [1, 1, 1]
    assert predict.counts["shadowed"] == 2


def test_the_shadow_is_a_share_of_the_records_and_always_the_same():
    shards, rows = ["a.tar@1"] * 10_000, list(range(10_000))
    drawn = in_shadow(shards, rows, 0.1)
    assert 900 < drawn.sum() < 1100
    assert (drawn == in_shadow(shards, rows, 0.1)).all()
    assert (in_shadow(shards, rows, 0.2) >= drawn).all()
    assert not in_shadow(shards, rows, 0).any()
    assert in_shadow(shards, rows, 1).all()


def test_a_cascade_must_be_asked_for(bundle):
    """Its early answers may differ, so that speed alone does not choose it."""
    assert Predictor(bundle, provider="cpu").variant == "fp32"


def test_a_stage_of_another_model_is_noticed(folder):
    bundle = cascaded(folder / "altered", THRESHOLD)
    other = cascaded(folder / "other", THRESHOLD, stages=(("audio",), ("text", "image")))
    target = bundle.path / "variants/cascade-1.onnx"
    target.write_bytes((other.path / "variants/cascade-1.onnx").read_bytes())
    with pytest.raises(BundleError, match="differs from its checksum"):
        bundle.verify()
    with pytest.raises(BundleError, match="differs from its checksum"):
        Predictor(bundle, variant="cascade", provider="cpu")
    with pytest.raises(EngineError, match="does not run on its golden inputs"):
        Predictor(reseal(bundle), variant="cascade", provider="cpu")


def test_a_stage_without_a_checksum_is_refused(folder):
    bundle = cascaded(folder / "unlisted", THRESHOLD)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["files"]["variants/cascade-0.onnx"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"cascade-0.onnx has no checksum"):
        type(bundle).open(bundle.path)


def test_softmax_of_large_logits():
    assert softmax(np.array([[1e4, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("rows", [4, 16])
def test_padded_as_for_a_device_it_answers_alike_and_the_shadow_runs_with_the_others(
    bundle, preprocess, staged, rows
):
    predict = Predictor(bundle, variant="cascade", provider="cpu", ladder=job_ladder(bundle.spec, rows))
    found = predict(preprocess(mixed_records(), predict.later), preprocess.complete)
    shadowed = Predictor(
        bundle, variant="cascade", provider="cpu", ladder=job_ladder(bundle.spec, rows), shadow=1.0
    )
    watched = shadowed(preprocess(mixed_records(), shadowed.later), preprocess.complete)
    for answers in (found, watched):
        for column in ("label", "stage", "modalities", "row"):
            assert answers[column].equals(staged[column])
        assert np.abs(scores(answers) - scores(staged)).max() < 1e-6
    assert shadowed.counts["shadowed"] == shadowed.counts["left 1"] > 0


def test_stages_that_run_apart_answer_as_together(bundle, preprocess, staged):
    """What one leaves open is decoded elsewhere, and answered by another that holds its own graph alone."""
    stages = [Predictor(bundle, variant="cascade", provider="cpu", shadow=1.0) for _ in range(2)]
    for number, predict in enumerate(stages, start=1):
        predict.keep_only(number)
    first = stages[0].step(1, preprocess(mixed_records(), stages[0].later))
    waiting = preprocess.complete(first.open, ("image", "audio"))
    second = stages[1].step(2, waiting)
    together = pa.concat_tables([first.answered, second.answered]).sort_by("row")
    assert together.equals(staged)
    assert second.open.num_rows == 0
    assert stages[1].counts["shadowed"] == stages[0].counts["left 1"]


def test_a_record_waits_for_the_stage_of_its_only_modality(tmp_path):
    """While images are decoded, its sound lies there as bytes still: it is not empty."""
    three = cascaded(tmp_path / "three", 0.0, stages=(("text",), ("image",), ("audio",)))
    predict, preprocess = Predictor(three, variant="cascade", provider="cpu"), open_preprocessor(three)
    rows = predict(preprocess(mixed_records(), predict.later), preprocess.complete).to_pylist()
    assert not any(row["error"] for row in rows)
    assert {row["stage"] for row in rows if row["modalities"] == ["audio"]} == {3}
