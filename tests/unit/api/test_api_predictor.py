"""Batches of every form through the public predictor, against the job's own path."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
from PIL import Image
from support.media import image_bytes
from support.tars import write_shard

import mmray
from mmray.errors import InputError
from mmray.predictor import Predictor as Model
from mmray.predictor import open_preprocessor
from mmray.schema import RECORDS, table

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
SOUND = np.sin(np.arange(16_000) / 10).astype(np.float32)


@pytest.fixture(scope="module")
def predict(bundle):
    return mmray.Predictor(bundle, provider="cpu")


@pytest.fixture(scope="module")
def rows():
    return [
        {"id": 7, "image": image_bytes("PNG"), "text": "a dog", "label": "dog"},
        {"id": 8, "image": None, "text": "a cat", "label": None},
        {"id": 9, "image": b"no picture", "text": "a crow", "label": "crow"},
        {"id": 10, "image": None, "text": None, "label": "dog"},
    ]


def expected(bundle, **columns):
    records = table({"row": list(range(len(next(iter(columns.values()))))), **columns}, RECORDS)
    preprocess = open_preprocessor(bundle)
    model = Model(bundle, provider="cpu")
    return model(preprocess(records, model.later), preprocess.complete)


def test_it_answers_as_the_job_does(predict, bundle, rows):
    wanted = expected(
        bundle, image=[r["image"] for r in rows], text=[r["text"] and r["text"].encode() for r in rows]
    )
    found = predict(pa.Table.from_pylist(rows))
    for name in ("label", "score", "scores", "modalities", "error"):
        assert found[name].to_pylist() == wanted[name].to_pylist()
    assert found["meta_label"].to_pylist() == ["dog", None, "crow", "dog"]  # `label` is the prediction
    assert found["id"].to_pylist() == [7, 8, 9, 10]
    assert [e and e["stage"] for e in found["error"].to_pylist()] == [None, None, "preprocess", "preprocess"]
    assert len(predict.labels) == len(found["scores"][0])


def test_the_answer_has_the_form_of_the_batch(predict, rows):
    as_list = predict(rows)
    assert [row["id"] for row in as_list] == [7, 8, 9, 10]
    assert as_list[2]["label"] is None
    frame = predict(pd.DataFrame(rows))
    assert isinstance(frame, pd.DataFrame)
    assert frame["label"].tolist()[:2] == [row["label"] for row in as_list[:2]]
    arrays = predict({name: np.array([row[name] for row in rows], object) for name in rows[0]})
    assert isinstance(arrays["score"], np.ndarray)
    assert arrays["label"].tolist() == [row["label"] for row in as_list]


def test_values_may_be_what_python_programs_hold(predict, tmp_path):
    picture, sound = io.BytesIO(), io.BytesIO()
    Image.fromarray(PIXELS).save(picture, "PNG")
    soundfile.write(sound, SOUND, 16_000, format="WAV", subtype="FLOAT")
    files = {"image": tmp_path / "p.png", "audio": tmp_path / "s.wav", "text": tmp_path / "t.txt"}
    for modality, content in (
        ("image", picture.getvalue()),
        ("audio", sound.getvalue()),
        ("text", b"a bird"),
    ):
        files[modality].write_bytes(content)
    forms = [
        {"image": picture.getvalue(), "audio": sound.getvalue(), "text": "a bird"},
        {"image": PIXELS, "audio": (SOUND, 16_000), "text": b"a bird"},
        {
            "image": Image.fromarray(PIXELS),
            "audio": {"bytes": sound.getvalue(), "path": None},
            "text": "a bird",
        },
        files,
    ]
    scores = [row["scores"] for row in predict(forms)]
    assert all(np.array_equal(scores[0], other) for other in scores[1:])
    assert all(predict([form])[0]["error"] is None for form in forms)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ("text", "a batch is a pyarrow.Table"),
        ([{"picture": b""}], "a column image, text or audio; this one has picture"),
        ([{"image": "cat.png"}], "image: cannot take a str"),
        ([{"image": PIXELS.astype(float)}], "image: cannot take a ndarray"),
        ([{"audio": SOUND}], "audio: cannot take a ndarray"),
        ([{"text": 3}], "text: cannot take a int"),
    ],
)
def test_what_it_cannot_take_is_named(predict, batch, said):
    with pytest.raises(InputError, match=said):
        predict(batch)


def test_records_that_could_not_be_read_keep_their_error(predict):
    error = {"stage": "read", "type": "torn", "reason": "the tar ends here"}
    found = predict([{"text": "a dog", "error": None}, {"text": None, "error": error}])
    assert found[1]["error"] == error
    assert found[0]["error"] is None


def test_a_limit_that_does_not_exist_is_named(bundle):
    with pytest.raises(mmray.MmrayError, match="image_pixels"):
        mmray.Predictor(bundle, limits={"image_pixel": 3})


def test_features_are_given_where_they_are_asked_for(bundle, predict, rows):
    found = mmray.Predictor(bundle, provider="cpu", features=True)(rows)
    for with_features, without in zip(found, predict(rows), strict=True):
        features = with_features.pop("features")
        assert with_features == without
        assert len(features) == bundle.manifest.features
        assert any(features) == (without["error"] is None)


def test_an_empty_batch_is_answered_by_none(predict):
    assert predict([]) == []
    table = pa.table({"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())})
    assert predict(table).num_rows == 0


def test_a_name_that_does_not_exist_is_told_with_those_that_do():
    with pytest.raises(AttributeError, match="open_bundle"):
        mmray.Predicter  # noqa: B018
    assert {"Predictor", "run", "read", "serve_app", "open_bundle"} <= set(dir(mmray))


def test_settings_of_a_run_are_no_settings_of_reading(tmp_path):
    write_shard(tmp_path / "0.tar", [("a", {"txt": b"a dog"})])
    with pytest.raises(mmray.MmrayError, match="topology: settings are block_bytes"):
        mmray.read(tmp_path, topology="fused")
    with pytest.raises(mmray.MmrayError, match="captions"):
        mmray.read(tmp_path, captions="all")
