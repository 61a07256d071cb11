"""The record whose answer is known: a model has to give it again, within what a batch changes."""

import dataclasses

import pytest
from support.bundles import SPEC, small_bundle

from mmray.predictor import Predictor, open_preprocessor
from mmray.serve.probe import known_work, same
from mmray.serve.work import Answered, answer_of, prepare


@pytest.fixture(scope="module")
def answered():
    work = known_work(SPEC, explain=True)
    prepared = prepare(open_preprocessor(small_bundle()), (), [work])
    rows = Predictor(small_bundle())(prepared.tensors).to_pylist()
    return answer_of(work, prepared.left[0], rows, preprocess_s=0.0, model_s=0.0)


def changed(answered, **values):
    return dataclasses.replace(answered, rows=[answered.rows[0] | values])


def test_it_has_all_that_the_model_takes_and_is_answered(answered):
    assert answered.rows[0]["error"] is None
    assert answered.rows[0]["modalities"] == ["image", "text", "audio"]
    assert list(answered.without) == ["image", "text", "audio"]
    assert same(answered, answered)


def test_small_differences_are_none(answered):
    scores = [score + 1e-3 for score in answered.rows[0]["scores"]]
    assert same(changed(answered, scores=scores), answered)


@pytest.mark.parametrize(
    "values",
    [
        {"scores": [float("nan")] * 4},
        {"scores": [0.0] * 4},
        {"error": {"stage": "infer", "type": "model-error", "reason": "lost"}},
    ],
)
def test_another_answer_is_none_of_this_model(answered, values):
    assert not same(changed(answered, **values), answered)


def test_so_is_another_answer_without_a_modality(answered):
    other = {m: row | {"scores": row["scores"][::-1]} for m, row in answered.without.items()}
    assert not same(Answered(answered.rows, other, 0.0, 0.0), answered)
