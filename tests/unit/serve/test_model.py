"""What a batch costs, and what is left when a modality is left out."""

from support.bundles import SPEC, records_table, small_tokenizer
from support.media import clip, image_bytes

from mmray.preprocess import Preprocessor
from mmray.serve.answers import left_out, prediction
from mmray.serve.model import cost

ROW = {"image": image_bytes(), "text": b"a red cat", "audio": clip(seconds=1.0)}


def tensors(*rows):
    return Preprocessor(SPEC, small_tokenizer())(records_table(rows))


def test_costs_add_up_and_what_is_missing_costs_nothing():
    assert cost(tensors({"text": b"a red cat"})) == 5  # with [CLS] and [SEP]
    assert cost(tensors({"text": b"a red cat"}, {"text": b"a"})) == 8
    assert cost(tensors(ROW)) > cost(tensors({"text": b"a red cat"}))
    assert cost(tensors({"audio": clip(seconds=2.0)})) > cost(tensors({"audio": clip(seconds=1.0)}))


def test_each_modality_is_left_out_where_another_remains():
    found = left_out(tensors(ROW))
    assert list(found) == ["image", "text", "audio"]
    assert found["text"].to_pylist()[0]["input_ids"] is None
    assert found["text"]["pixels"][0].is_valid
    assert left_out(tensors({"text": b"a"})) == {}


def test_features_alone_have_no_label():
    row = {"features": [0.5], "modalities": ["text"], "variant": "fp32", "bundle": "d", "error": None}
    assert prediction(row, [], None) == {
        "features": [0.5],
        "modalities": ["text"],
        "variant": "fp32",
        "bundle": "d",
    }
