"""Tensors become outcomes, row by row in order; what the model cannot answer is a row with an error."""

import json

import numpy as np
import pyarrow as pa
import pytest
from support.bundles import GOLDEN_ROWS, LABELS, SPEC, make_bundle, records_table, small_bundle
from support.damaged import truncated_jpeg
from support.graphs import run_by_hand
from support.media import clip, image_bytes

from mmray.batching import pack
from mmray.errors import EngineError
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import OutputColumns, error, outcomes
from mmray.shapes import job_ladder, server_ladder


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


def predict(rows, columns=None, preprocess=None, **options):
    """Outcomes of raw records, as dictionaries."""
    bundle = small_bundle()
    tensors = open_preprocessor(bundle, **(preprocess or {}))(records_table(rows))
    predictor = Predictor(bundle, provider="cpu", columns=columns, **options)
    table = predictor(tensors)
    assert table.schema.equals(outcomes(predictor.columns))
    return table.to_pylist()


def kinds(rows):
    return [row["error"] and (row["error"]["stage"], row["error"]["type"]) for row in rows]


def texts(*words):
    return [{"text": word.encode()} for word in words]


def test_scores_labels_and_names_are_those_of_the_model(bundle):
    rows = predict(GOLDEN_ROWS)
    expected = run_by_hand(pack(open_preprocessor(bundle)(records_table(GOLDEN_ROWS)), SPEC))["scores"]
    for row, scores in zip(rows, expected, strict=True):
        assert np.abs(row["scores"] - scores).max() < 1e-5
        assert row["label"] == LABELS[scores.argmax()]
        assert row["score"] == pytest.approx(scores.max(), abs=1e-5)
        assert (row["variant"], row["bundle"], row["error"]) == ("fp32", bundle.digest, None)
    assert [row["modalities"] for row in rows] == [["image", "text", "audio"], ["image"], ["text"], ["audio"]]


def test_rows_keep_their_place_and_their_address():
    rows = [
        {"text": b"a " * n, "key": f"key {n}", "offset": n, "length": n + 1, "end": n == 1}
        for n in (9, 5, 7, 1, 3)
    ]
    table = records_table(rows).to_pylist()
    for after, before in zip(predict(rows, batch_rows=2), table, strict=True):
        assert all(after[name] == before[name] for name in ("shard", "row", "key", "end", "offset", "length"))


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
def test_the_size_of_a_batch_changes_no_prediction(batch_rows):
    rows = [
        *GOLDEN_ROWS,
        *texts("red", "a red red dog", "blue " * 9),
        {"image": image_bytes(colour=(9, 9, 9))},
    ]
    together, apart = predict(rows), predict(rows, batch_rows=batch_rows)
    for a, b in zip(together, apart, strict=True):
        assert a["label"] == b["label"]
        assert np.abs(np.subtract(a["scores"], b["scores"])).max() < 1e-6


def test_errors_of_earlier_stages_pass_through():
    failure = error("read", "shard-damaged", "was so before")
    rows = predict([{"error": failure}, GOLDEN_ROWS[0], {"image": truncated_jpeg()}])
    assert kinds(rows) == [("read", "shard-damaged"), None, ("preprocess", "image-undecodable")]
    assert rows[0]["error"] == failure
    assert [row["label"] is None for row in rows] == [True, False, True]
    assert [row["score"] is None for row in rows] == [True, False, True]


def test_nothing_but_errors_needs_no_model():
    failure = error("read", "shard-damaged", "was so before")
    assert kinds(predict([{"error": failure}] * 3)) == [("read", "shard-damaged")] * 3


def test_a_table_without_rows_gives_a_table_without_rows():
    assert predict([]) == []


@pytest.mark.parametrize("batch_rows", [1, 4, 32])
@pytest.mark.parametrize("bad", [[0], [6], [2, 3], [0, 1, 2, 3, 4, 5, 6]])
def test_a_record_that_makes_the_model_fail_fails_alone(bad, batch_rows):
    """The batch is halved until it is found; the others are predicted as if it had not been there."""
    words = ["cat", "a dog", "red", "a blue dog", "number", "a", "cat dog"]
    sound = predict(texts(*words))
    rows = predict(
        texts(*("poison" if i in bad else word for i, word in enumerate(words))), batch_rows=batch_rows
    )
    for i, (row, reference) in enumerate(zip(rows, sound, strict=True)):
        if i in bad:
            assert kinds([row]) == [("infer", "model-error")]
            assert "out of data bounds" in row["error"]["reason"]
        else:
            assert row["error"] is None
            assert np.abs(np.subtract(row["scores"], reference["scores"])).max() < 1e-6


def test_scores_that_are_not_finite_reject_their_record_alone():
    rows = predict([*texts("cat", "a nan dog", "dog"), {"image": image_bytes()}])
    assert kinds(rows) == [None, ("infer", "not-finite"), None, None]
    assert rows[1]["label"] is None
    assert np.isfinite([rows[i]["scores"] for i in (0, 2, 3)]).all()


def test_a_masked_modality_is_named_and_counts_for_nothing():
    masked = predict([{"image": truncated_jpeg(), "text": b"a cat"}], preprocess={"on_damaged": "mask"})[0]
    without = predict(texts("a cat"))[0]
    assert (masked["damaged"], masked["modalities"]) == (["image"], ["text"])
    assert masked["scores"] == without["scores"]


def test_a_modality_that_is_not_used_counts_for_nothing():
    full = {"image": image_bytes(), "text": b"a cat", "audio": clip()}
    assert (
        predict([full], preprocess={"modalities": ["text"]})[0]["scores"]
        == predict(texts("a cat"))[0]["scores"]
    )


def test_features_are_the_fused_ones_as_float16(bundle):
    rows = predict(GOLDEN_ROWS, OutputColumns(classes=4, features=3))
    feeds = pack(open_preprocessor(bundle)(records_table(GOLDEN_ROWS)), SPEC)
    assert np.abs([row["features"] for row in rows] - run_by_hand(feeds)["features"]).max() < 4e-3


def test_optional_columns_are_there_only_where_asked_for():
    row = predict(GOLDEN_ROWS[:1], OutputColumns(classes=0))[0]
    assert not {"scores", "features"} & set(row)
    assert row["label"] in LABELS


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (b'{"label": "a cat", "n": 3}', ("a cat", "3")),
        (b'{"label": null, "n": true}', (None, "true")),
        (b'{"n": {"k\xc3\xa4tzchen": [1, 2.5]}}', (None, '{"kätzchen": [1, 2.5]}')),
        (b"{}", (None, None)),
        (None, (None, None)),
        (b"", (None, None)),
        (b"not json", (None, None)),
        (b"[1, 2]", (None, None)),
        (b"\xff\xfe", (None, None)),
        (b"[" * 100_000, (None, None)),
        (b'{"n": ' + b"9" * 5_000 + b"}", (None, None)),  # more digits than int() takes
        (b'{"label": "\\ud83d", "n": ["\\ud83d"]}', ("\\ud83d", '["\\ud83d"]')),  # half a surrogate pair
    ],
)
def test_fields_of_the_metadata_are_carried_and_bad_metadata_costs_nothing(meta, expected):
    (row,) = predict([{"text": b"a cat", "meta": meta}], OutputColumns(classes=4, carry=("label", "n")))
    assert (row["meta_label"], row["meta_n"]) == expected
    assert row["error"] is None


def test_golden_outputs_are_reproduced_when_it_is_opened(bundle):
    assert Predictor(bundle, provider="cpu").golden_difference < 1e-5


def test_another_models_golden_outputs_are_refused(tmp_path):
    with pytest.raises(EngineError, match="off its golden scores by") as e:
        Predictor(make_bundle(tmp_path / "b", golden_scale=1.2), provider="cpu")
    assert str(tmp_path / "b") in str(e.value)


def nan_golden(bundle):
    inputs, outputs = bundle.golden()
    return inputs, {**outputs, "scores": np.full_like(outputs["scores"], np.nan)}


@pytest.mark.parametrize(
    "spoil",
    [
        nan_golden,
        lambda bundle: ({}, bundle.golden()[1]),
        lambda bundle: (bundle.golden()[0], {}),
        lambda bundle: (bundle.golden()[0], {"scores": np.zeros((9, 4), np.float32)}),
        lambda bundle: (bundle.golden()[0], {"scores": np.zeros((0, 4), np.float32)}),
    ],
    ids=["NaN", "no inputs", "no outputs", "other shape", "empty"],
)
def test_golden_arrays_that_prove_nothing_are_refused(bundle, tmp_path, spoil):
    inputs, outputs = spoil(bundle)
    with pytest.raises(EngineError, match="golden"):
        Predictor(make_bundle(tmp_path / "b", golden_inputs=inputs, golden_outputs=outputs), provider="cpu")


def test_a_graph_that_does_not_load_is_refused(tmp_path):
    (tmp_path / "g.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"fp32\.onnx"):
        Predictor(make_bundle(tmp_path / "b", graph=tmp_path / "g.onnx"), provider="cpu")


def test_a_model_without_labels_is_judged_by_its_features(tmp_path):
    """They must be finite, and the golden ones; predictions have neither label nor score."""
    bundle = make_bundle(tmp_path / "b", labels=())
    rows = Predictor(bundle, provider="cpu")(
        open_preprocessor(bundle)(records_table([*texts("cat", "a nan dog"), {"image": image_bytes()}]))
    ).to_pylist()
    assert kinds(rows) == [None, ("infer", "not-finite"), None]
    assert "features that are not finite" in rows[1]["error"]["reason"]
    assert not {"label", "score", "scores"} & set(rows[0])
    assert len(rows[0]["features"]) == 3
    inputs, outputs = bundle.golden()
    other = {"features": outputs["features"] + 0.1}
    with pytest.raises(EngineError, match="off its golden features by"):
        Predictor(
            make_bundle(tmp_path / "c", labels=(), golden_inputs=inputs, golden_outputs=other), provider="cpu"
        )


def test_chunked_tables_are_predicted_like_whole_ones(bundle):
    whole = open_preprocessor(bundle)(records_table([*GOLDEN_ROWS, {"meta": b"{}"}, *GOLDEN_ROWS]))
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 5), whole.slice(6)])
    predictor = Predictor(bundle, provider="cpu", batch_rows=3)
    assert predictor(pieces).to_pylist() == predictor(whole).to_pylist()


def test_outcomes_say_nothing_of_json_that_was_not_asked_for():
    (row,) = predict([{"text": b"a cat", "meta": json.dumps({"secret": 1}).encode()}])
    assert "secret" not in str(row)


def test_processes_that_share_weights_predict_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path))
    tensors = open_preprocessor(small_bundle())(records_table(GOLDEN_ROWS))
    plain, shared = (Predictor(small_bundle(), provider="cpu", shared=s)(tensors) for s in (False, True))
    assert list(tmp_path.glob("prepacked/*/graph.onnx"))
    assert plain["label"].equals(shared["label"])
    difference = np.subtract(plain["scores"].to_pylist(), shared["scores"].to_pylist())
    assert np.abs(difference).max() < 1e-6


def test_where_nothing_can_be_kept_weights_are_not_shared(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "file"))
    assert Predictor(small_bundle(), provider="cpu", shared=True).golden_difference < 1e-3


def test_a_twin_answers_alike_on_the_same_device_and_counts_for_itself(bundle):
    one = Predictor(bundle, provider="cpu")
    other = one.twin()
    tensors = open_preprocessor(bundle)(records_table(texts("a red cat", "a blue dog")))
    assert other(tensors).equals(one(tensors))
    assert other.device is one.device
    for counts in (one.counts, one.seconds, *one.occupied):
        counts.clear()
    other(tensors)
    assert other.occupied[0]["busy"] > 0
    assert not any((one.counts, one.seconds, *one.occupied))


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
def test_padding_changes_no_answer_of_a_record(bundle, rows):
    """Whatever is beside it, and whatever it lacks: as for a device, here on the CPU."""
    many = [
        *GOLDEN_ROWS,
        *texts("red", "a red red dog", "blue " * 9, "a nan dog", "poison"),
        {"image": image_bytes(colour=(9, 9, 9))},
        {"image": truncated_jpeg()},
        {"audio": clip(seconds=2.0)},
    ]
    tensors = open_preprocessor(bundle)(records_table(many))
    plain = Predictor(bundle, provider="cpu")(tensors).to_pylist()
    predict = Predictor(bundle, provider="cpu", ladder=job_ladder(SPEC, rows))
    for order in (np.arange(len(many)), np.random.default_rng(rows).permutation(len(many))):
        for padded, at in zip(predict(tensors.take(order)).to_pylist(), order, strict=True):
            expected = plain[at]
            assert padded["label"] == expected["label"]
            assert kinds([padded]) == kinds([expected])
            if expected["error"] is None:
                assert np.abs(np.subtract(padded["scores"], expected["scores"])).max() < 1e-6
    used = predict.occupied[0]
    assert sum(n for name, n in used.items() if name.startswith("shape ")) > 0
    assert 0 < used["used rows"] <= used["places rows"]


def test_a_server_meets_no_shape_that_it_was_not_warmed_with(bundle):
    predict = Predictor(bundle, provider="cpu", ladder=server_ladder(SPEC, 4))
    predict.warm()
    preprocess = open_preprocessor(bundle)
    for rows in ([GOLDEN_ROWS[0]], GOLDEN_ROWS, [*GOLDEN_ROWS, *texts("a " * 12, "red")] * 2):
        predict(preprocess(records_table(rows)))
    assert predict.occupied[0]["planned"] == 0
