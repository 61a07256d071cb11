"""What a batch costs, and what is left when a modality is left out."""

import asyncio

import pytest
from support.bundles import (
    LABELS,
    SPEC,
    latin_bundle,
    make_bundle,
    records_table,
    small_bundle,
    small_tokenizer,
)
from support.cascades import cascaded, mixed_records
from support.graphs import write_graph
from support.media import clip, image_bytes

from mmray.errors import EngineError
from mmray.predictor import Predictor
from mmray.preprocess import Preprocessor
from mmray.serve.answers import left_out, prediction
from mmray.serve.bodies import Item
from mmray.serve.compute import Compute
from mmray.serve.metrics import Metrics
from mmray.serve.model import BatchedModel, cost, likely_cost
from mmray.serve.settings import ServeSettings
from mmray.serve.work import Work, answer_of, prepare

ROW = {"image": image_bytes(), "text": b"a red cat", "audio": clip(seconds=1.0)}


def tensors(*rows):
    return Preprocessor(SPEC, small_tokenizer())(records_table(rows))


def test_costs_add_up_and_what_is_missing_costs_nothing():
    assert cost(tensors({"text": b"a red cat"})) == 5  # with [CLS] and [SEP]
    assert cost(tensors({"text": b"a red cat"}, {"text": b"a"})) == 8
    assert cost(tensors(ROW)) > cost(tensors({"text": b"a red cat"}))
    assert cost(tensors({"audio": clip(seconds=2.0)})) > cost(tensors({"audio": clip(seconds=1.0)}))


def test_what_is_not_decoded_yet_costs_about_what_it_will():
    def likely(row, *, explain=False):
        return likely_cost(Work([Item(row)], explain), SPEC)

    assert likely({"text": b"a"}) > 0
    assert likely({"path": b"a"}) == 1  # nothing that the model takes, but a place in the batch
    assert likely(ROW) > likely({"text": b"a red cat"})
    assert likely({"text": 100_000 * b"a"}) <= SPEC.text.max_tokens
    assert likely({"audio": bytes(10_000_000)}) == likely(
        {"audio": bytes(20_000_000)}
    )  # max_s of it are heard
    assert likely(ROW, explain=True) == 3 * likely(ROW)


def test_each_work_gets_its_own_rows_back_and_what_it_wants_explained():
    preprocess = Preprocessor(SPEC, small_tokenizer())
    works = [Work([Item(ROW)], True), Work([Item({"text": b"a"}), Item({"text": b"red"})]), Work([], False)]
    ready = prepare(preprocess, ("image",), works)
    numbered = [{"n": i} for i in range(ready.tensors.num_rows)]
    answers = [
        answer_of(work, left, [numbered[i] for i in rows], preprocess_s=1.0, model_s=2.0)
        for work, left, rows in zip(works, ready.left, ready.rows, strict=True)
    ]
    assert [[row["n"] for row in answer.rows] for answer in answers] == [[0], [1, 2], []]
    assert {m: row["n"] for m, row in answers[0].without.items()} == {"image": 3, "text": 4, "audio": 5}
    left = ready.tensors.slice(3).to_pylist()
    assert [row["image"] is None for row in left] == [True, False, False]  # it waits as bytes
    assert [row["input_ids"] is None for row in left] == [False, True, False]


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


def test_a_model_that_answers_otherwise_than_when_it_was_loaded_is_ill_and_answers_no_more(tmp_path):
    """Nothing was asked of late, so the check finds out by itself."""

    async def check():
        settings, compute = ServeSettings(bundle=str(small_bundle().path)), Compute("t", 60.0, 0.0)
        model = BatchedModel(small_bundle(), settings, compute, Metrics())
        await model.check_health()
        graph = write_graph(tmp_path / "other.onnx", len(LABELS), scale=-1.0)
        model._predict = Predictor(make_bundle(tmp_path / "other", graph=graph, golden_scale=-1.0))
        with pytest.raises(EngineError, match="differently than when it was loaded"):
            await model.check_health()
        with pytest.raises(EngineError):
            await model.answer(Work([Item({"text": b"a"})]))

    asyncio.run(check())


@pytest.mark.parametrize(("then", "used"), [("keep", ["image", "text"]), ("mask", ["image"])])
def test_a_text_in_another_script_is_answered_as_the_settings_say(then, used):
    settings = ServeSettings(bundle=str(latin_bundle().path), foreign_text=then)
    work = Work([Item({"image": image_bytes(), "text": "Красный кот".encode()})])

    async def answer():
        model = BatchedModel(latin_bundle(), settings, Compute("t", 60.0, 0.0), Metrics())
        await model.check_health()
        return await model.answer(work)

    [row] = asyncio.run(answer()).rows
    answered = prediction(row, LABELS, None)
    assert answered["modalities"] == used
    assert answered["unread"] == ["text in another script" + (", masked" if then == "mask" else "")]


def test_who_leaves_a_cascade_early_is_answered_before_who_goes_on_although_both_share_a_batch(tmp_path):
    """The late ones asked first, so that in the order of their batch they would also be answered first."""
    records = mixed_records().to_pylist()
    bundle = cascaded(tmp_path / "cascade", 0.38)
    expected = Predictor(bundle, variant="cascade", provider="cpu")(
        Preprocessor(bundle.spec, bundle.tokenizer)(mixed_records())
    )
    stages = expected["stage"].to_pylist()
    works = [
        Work([Item({m: data for m in bundle.spec.modalities if (data := record[m]) is not None})])
        for record in records
    ]
    order = sorted(range(len(works)), key=lambda i: -stages[i])
    done = []

    async def check():
        settings = ServeSettings(bundle=str(bundle.path), variant="cascade", batch_rows=64)
        model = BatchedModel(bundle, settings, Compute("t", 60.0, 0.0), Metrics())

        async def ask(i):
            [row] = (await model.answer(works[i])).rows
            done.append(i)
            return row

        return await asyncio.gather(*(ask(i) for i in order))

    rows = asyncio.run(check())
    assert [row["stage"] for row in rows] == sorted(stages, reverse=True)
    assert [row["label"] for row in rows] == [expected["label"][i].as_py() for i in order]
    assert [stages[i] for i in done] == sorted(stages)


def test_several_records_and_what_is_explained_come_back_in_their_own_order_from_several_stages(tmp_path):
    bundle = cascaded(tmp_path / "cascade", 0.38)
    items = [
        Item({m: data for m in bundle.spec.modalities if (data := record[m]) is not None})
        for record in mixed_records(14).to_pylist()
    ]
    expected = Predictor(bundle, variant="cascade", provider="cpu")(
        Preprocessor(bundle.spec, bundle.tokenizer)(mixed_records(14))
    )

    async def check():
        settings = ServeSettings(bundle=str(bundle.path), variant="cascade")
        model = BatchedModel(bundle, settings, Compute("t", 60.0, 0.0), Metrics())
        return await asyncio.gather(model.answer(Work(items)), model.answer(Work(items[6:7], True)))

    together, explained = asyncio.run(check())
    assert [row["stage"] for row in together.rows] == expected["stage"].to_pylist()
    assert [row["label"] for row in together.rows] == expected["label"].to_pylist()
    assert {m: row["modalities"] for m, row in explained.without.items() if row["stage"] == 2} == {
        m: [other for other in ("image", "text", "audio") if other != m]
        for m, row in explained.without.items()
        if row["stage"] == 2
    }
