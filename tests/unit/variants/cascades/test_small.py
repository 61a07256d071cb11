"""A stage may look at half an image: the same trunks behind a pool, a head of its own, and nothing else."""

import numpy as np
import onnx
import pytest
from support.cascades import cut_into, mixed_records
from support.linear import linear_bundle, write_labelled

from mmray.batching import pack
from mmray.bundle import Exit
from mmray.cascade import CARRIED
from mmray.engine import Engine
from mmray.errors import ModelError
from mmray.evaluation.records import Records
from mmray.predictor import Predictor, open_preprocessor
from mmray.shapes import job_ladder
from mmray.variants.cascades.evidence import HALF, answers
from mmray.variants.cascades.small import half_graph
from mmray.variants.cascades.staging import split_stages
from mmray.variants.quantize.int8 import to_static_int8

MODALITIES = ("image", "text", "audio")
ORDERS = [
    (("text",), (HALF,), ("image",), ("audio",)),
    (("text", HALF), ("audio",), ("image",)),
    ((HALF,), ("text", "audio"), ("image",)),
    (("text", "audio", HALF), ("image",)),
    ((HALF,), ("text", "image", "audio")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("small")


@pytest.fixture(scope="module")
def parent(folder):
    return linear_bundle(folder / "parent")


@pytest.fixture(scope="module")
def records(folder, parent):
    shards = write_labelled(folder / "records", rows=200, split="train", seed=4)
    write_labelled(shards, rows=100, split="tune", seed=5)
    return Records([str(shards)], parent, {"train": 1, "tune": 1000, "test": 1})


@pytest.fixture(scope="module")
def half(folder, parent, records):
    return half_graph(parent.graph("fp32"), records.parts("train", 1000), folder, 8)


def halved(feeds):
    """The same with the mean of 2 x 2 pixels, rounded, computed apart."""
    n, height, width, _ = feeds["pixels"].shape
    blocks = feeds["pixels"].reshape(n, height // 2, 2, width // 2, 2, 3)
    return feeds | {"pixels": np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)}


def test_its_features_are_those_of_smaller_images(parent, half):
    feeds = pack(open_preprocessor(parent)(mixed_records()), parent.spec)
    features = Engine(half, provider="cpu")(feeds)["features"]
    expected = Engine(parent.graph("fp32"), provider="cpu")(halved(feeds))["features"]
    assert np.abs(features - expected).max() <= 1e-6


def test_its_head_was_trained_for_every_subset_of_the_modalities(half, records):
    tune, engine = records.load("tune"), Engine(half, provider="cpu")
    for column, modality in enumerate(MODALITIES):
        has = tune.present[:, column]
        right = answers(engine, tune, (modality,), batch_rows=8).argmax(axis=1) == tune.labels
        assert right[has].mean() > 0.8
    assert (answers(engine, tune, MODALITIES, batch_rows=8).argmax(axis=1) == tune.labels).mean() > 0.9


def test_a_class_that_nobody_showed_is_never_the_answer(folder, parent, records):
    def without_birds():
        for part in records.parts("train", 1000):
            part.labels[part.labels == 3] = -1
            yield part

    (folder / "three").mkdir()
    engine = Engine(half_graph(parent.graph("fp32"), without_birds(), folder / "three", 8), provider="cpu")
    found = answers(engine, records.load("tune"), MODALITIES, batch_rows=8).argmax(axis=1)
    assert set(found) == {0, 1, 2}


def test_an_int8_graph_whose_first_columns_are_channels_takes_half_images_too(bundle, folder, shards):
    """Its shapes state how many columns there are."""
    model = onnx.load(bundle.graph("fp32"))
    ranges = {name: (-6.0, 6.0) for node in model.graph.node for name in [*node.input, *node.output]}
    onnx.save(to_static_int8(model, ranges), folder / "int8.onnx")
    train = Records([str(shards)], bundle, {"train": 1, "tune": 1, "test": 1}).parts("train", 1000)
    engine = Engine(half_graph(folder / "int8.onnx", train, folder, 8), provider="cpu")
    feeds = pack(open_preprocessor(bundle)(mixed_records(8)), bundle.spec)
    whole = Engine(folder / "int8.onnx", provider="cpu")(feeds)
    found = engine(feeds)
    assert found["logits"].shape == whole["logits"].shape
    without = feeds["present"] & np.array([False, True, True])
    blind = engine(feeds | {"present": without})["features"]
    assert np.abs(blind - engine(feeds)["features"]).max() > 0.1
    assert (
        blind == Engine(folder / "int8.onnx", provider="cpu")(feeds | {"present": without})["features"]
    ).all()


def test_what_takes_one_size_alone_is_no_base(folder, parent, records):
    model = onnx.load(parent.graph("fp32"))
    for value in model.graph.input:
        if value.name == "pixels":
            for at in (1, 2):
                value.type.tensor_type.shape.dim[at].dim_value = 16
    (reduced,) = [node for node in model.graph.node if node.output[0] == "colour_255"]
    at = list(model.graph.node).index(reduced)
    model.graph.node.insert(at, onnx.helper.make_node("Reshape", ["pixels_float", "fixed"], ["same"]))
    model.graph.node[at + 1].input[0] = "same"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 16, 16, 3]), "fixed"))
    onnx.save(model, folder / "fixed.onnx")
    with pytest.raises(Exception, match="ScatterND"):
        half_graph(folder / "fixed.onnx", records.parts("train", 1000), folder, 8)


def test_features_that_say_nothing_of_presence_are_refused(folder, parent, records):
    model = onnx.load(parent.graph("fp32"))
    (where,) = [node for node in model.graph.node if node.op_type == "Where"]
    where.input[2] = "one_float"
    onnx.save(model, folder / "ones.onnx")
    with pytest.raises(ModelError, match="zero where one is absent"):
        half_graph(folder / "ones.onnx", records.parts("train", 1000), folder, 8)


@pytest.mark.parametrize("stages", ORDERS, ids=lambda stages: " ".join("+".join(stage) for stage in stages))
def test_a_stage_answers_from_half_an_image_until_the_whole_was_looked_at(parent, half, stages, tmp_path):
    feeds = pack(open_preprocessor(parent)(mixed_records()), parent.spec)
    whole = Engine(parent.graph("fp32"), provider="cpu")
    parts = split_stages(onnx.load(parent.graph("fp32")), stages, parent.golden()[0], onnx.load(half))
    handed, seen = {}, set()
    for number, part in enumerate(parts):
        onnx.save(part, tmp_path / f"{number}.onnx")
        engine = Engine(tmp_path / f"{number}.onnx", provider="cpu")
        seen |= set(stages[number])
        looked_at = [m in seen or (m == "image" and HALF in seen) for m in MODALITIES]
        known = feeds | handed | {"present": feeds["present"] & np.array(looked_at)}
        found = engine({name: known[name] for name in engine.inputs})
        handed |= {name: value for name, value in found.items() if name.startswith(CARRIED)}
        by = Engine(half, provider="cpu") if HALF in seen and "image" not in seen else whole
        expected = by(feeds | {"present": known["present"]})
        for name in ("logits", "scores", "features"):
            assert np.abs(found[name] - expected[name]).max() <= 1e-5


def test_graphs_with_other_places_to_cut_are_refused(parent, half):
    other = onnx.load(half)
    for node in other.graph.node:
        node.input[:] = [f"my {name}" if name == "text_pooled" else name for name in node.input]
        node.output[:] = [f"my {name}" if name == "text_pooled" else name for name in node.output]
    with pytest.raises(ModelError, match="does not give"):
        split_stages(onnx.load(parent.graph("fp32")), ORDERS[3], parent.golden()[0], other)


def test_in_a_bundle_its_image_is_decoded_once_and_the_stage_says_which_was_looked_at(folder, parent, half):
    """Records leave by the modalities that they have: with text and image after half of it, others later."""
    stages = (("text",), (HALF,), ("image",), ("audio",))
    exits = [
        {},
        {"image+text": Exit(threshold=0)},
        {"image": Exit(threshold=0), "text": Exit(threshold=0)},
    ]
    bundle = cut_into(folder / "cascade", parent, stages, exits, half=half)
    predict, preprocess = Predictor(bundle, variant="cascade", provider="cpu"), open_preprocessor(bundle)
    records = mixed_records()
    rows = predict(preprocess(records, predict.later), preprocess.complete).to_pylist()
    feeds = pack(open_preprocessor(parent)(records), parent.spec)
    has = [{m for m, flag in zip(MODALITIES, flags, strict=True) if flag} for flags in feeds["present"]]
    for row, own in zip(rows, has, strict=True):
        if {"image", "text"} <= own:
            assert (row["stage"], row["modalities"]) == (2, ["image", "text"])
        elif own & {"image", "text"}:
            assert row["stage"] == 3
        else:
            assert row["stage"] == 4, row["error"]
    small = Engine(half, provider="cpu")(
        feeds | {"present": feeds["present"] & np.array([True, True, False])}
    )
    for row, scores in zip(rows, small["scores"], strict=True):
        if row["stage"] == 2:
            assert row["scores"] == pytest.approx(scores, abs=1e-5)
    padded = Predictor(bundle, variant="cascade", provider="cpu", ladder=job_ladder(bundle.spec, 8), shadow=1)
    again = padded(preprocess(records, padded.later), preprocess.complete).to_pylist()
    for column in ("label", "stage", "modalities"):
        assert [row[column] for row in again] == [row[column] for row in rows]


def test_a_record_that_goes_on_has_its_image_decoded_already(folder, parent, half):
    """What the stage of half images leaves open holds pixels and no bytes, so there is nothing to decode."""
    stages, exits = ((HALF,), ("text", "image", "audio")), [{"text": Exit(threshold=0)}]
    bundle = cut_into(folder / "closed", parent, stages, exits, half=half, name="closed")
    predict, preprocess = Predictor(bundle, variant="closed", provider="cpu"), open_preprocessor(bundle)
    step = predict.step(1, preprocess(mixed_records(), predict.later), preprocess.complete)
    assert step.open["image"].null_count == step.open.num_rows
    assert step.open["pixels"].null_count < step.open.num_rows
    assert not any(name.startswith(CARRIED) for name in step.open.column_names)  # of no use to the next stage
