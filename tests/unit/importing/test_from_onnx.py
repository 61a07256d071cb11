"""ONNX files become bundles that give what the files gave, or are refused with the reason."""

import numpy as np
import onnx
import pytest
import yaml
from safetensors.numpy import save_file
from support.bundles import GOLDEN_ROWS, LABELS, SPEC, records_table, small_tokenizer
from support.encoders import (
    AUDIO,
    HEAD,
    HEAD_BIAS,
    HEAD_WEIGHT,
    IMAGE,
    TEXT,
    WEIGHTS,
    by_hand,
    random,
    save,
)
from support.graphs import run_by_hand, write_graph
from support.tars import write_shard

from mmray.engine import Engine
from mmray.errors import BundleError, ModelError
from mmray.importing.description import read_description
from mmray.importing.from_onnx import import_onnx
from mmray.predictor import Predictor, open_preprocessor

PREPROCESSING = SPEC.model_dump(mode="json")
ENCODERS = {name: {"graph": f"{name}.onnx"} for name in ("image", "text", "audio")}


def describe(folder, **changes):
    """A description of the encoders in the folder; None leaves a key out."""
    values = {"encoders": ENCODERS, "preprocessing": PREPROCESSING, "tokenizer": str(small_tokenizer())}
    values = {key: value for key, value in (values | changes).items() if value is not None}
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(values))
    return read_description(file)


def encoder(**changes):
    """ENCODERS, with more keys for some."""
    return {name: {**keys, **changes.get(name, {})} for name, keys in ENCODERS.items()}


def outputs(bundle, feeds):
    return Engine(bundle.graph("fp32"), provider="cpu")(feeds)


def test_encoders_without_a_head_become_a_bundle_of_features(folder, feeds):
    bundle = import_onnx(describe(folder), folder / "bundle")
    assert (bundle.labels, bundle.manifest.features) == ([], 12)
    found = outputs(bundle, feeds)
    assert list(found) == ["features"]
    np.testing.assert_allclose(found["features"], by_hand(feeds), rtol=1e-4, atol=1e-4)


def test_pixels_are_scaled_and_normalized_in_the_graph(folder, feeds):
    norm = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    bundle = import_onnx(describe(folder, encoders=encoder(image=norm)), folder / "bundle")
    expected = by_hand(feeds, scale=1 / 255, mean=np.array(norm["mean"]), std=np.array(norm["std"]))
    np.testing.assert_allclose(outputs(bundle, feeds)["features"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "onnx"])
def test_a_head_gives_labels(folder, feeds, suffix):
    head = folder / f"head.{suffix}"
    if suffix == "safetensors":
        save_file({"weight": HEAD_WEIGHT, "bias": HEAD_BIAS}, head)
    elif suffix == "npz":
        np.savez(head, weight=HEAD_WEIGHT, bias=HEAD_BIAS)
    else:
        prior = np.tile(HEAD_BIAS / 3, (3, 1))
        save(head, HEAD, weight=HEAD_WEIGHT.T.copy(), bias=prior.astype(np.float32))
    bundle = import_onnx(describe(folder, head=head.name, labels=list(LABELS)), folder / "bundle")
    bias = feeds["present"].mean(axis=1, keepdims=True) if suffix == "onnx" else 1
    logits = by_hand(feeds) @ HEAD_WEIGHT.T + HEAD_BIAS * bias
    found = outputs(bundle, feeds)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["scores"].sum(axis=1), 1, rtol=1e-5)
    rows = Predictor(bundle, provider="cpu")(
        open_preprocessor(bundle)(records_table(GOLDEN_ROWS))
    ).to_pylist()
    assert [row["label"] for row in rows] == [LABELS[best] for best in logits.argmax(axis=1)[:4]]


def test_the_graph_names_each_operator_set_once_and_stands_alone(folder):
    """Whatever versions the pieces were exported at; doubles break quantization."""
    save(folder / "audio.onnx", AUDIO.replace(": 17", ": 13"), weight=WEIGHTS["audio"])
    bundle = import_onnx(describe(folder), folder / "bundle")
    model = onnx.load(bundle.graph("fp32"))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert not model.functions
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


def test_weights_in_a_file_beside_the_graph_are_taken_in(folder, feeds):
    model = onnx.load(folder / "text.onnx")
    onnx.save(model, folder / "text.onnx", save_as_external_data=True, location="text.bin", size_threshold=0)
    bundle = import_onnx(describe(folder), folder / "bundle")
    (folder / "text.bin").unlink()
    np.testing.assert_allclose(outputs(bundle, feeds)["features"], by_hand(feeds), rtol=1e-4, atol=1e-4)


def test_the_manifest_says_where_the_weights_came_from(folder):
    manifest = import_onnx(describe(folder, licence="MIT"), folder / "bundle").manifest
    assert [(s.file, s.licence) for s in manifest.sources] == [(f"{n}.onnx", "MIT") for n in ENCODERS]
    assert "image.onnx" in manifest.origin["imported"]


def test_an_encoder_that_refuses_an_empty_batch_gets_a_blank_row(folder, feeds):
    """A batch of pictures only then costs one more text, and gives the same."""
    fussy = TEXT.replace(
        "text_embeds = Div (total, count)",
        """embeds = Div (total, count)
        best = ArgMax <axis = 0> (embeds)
        none = Sub (best, best)
        zeros = Cast <to = 1> (none)
        text_embeds = Add (embeds, zeros)""",
    )
    save(folder / "text.onnx", fussy, weight=WEIGHTS["text"])
    said = []
    bundle = import_onnx(describe(folder), folder / "bundle", say=said.append)
    assert "text: does not run without rows, so it gets one blank row in such batches" in said
    np.testing.assert_allclose(outputs(bundle, feeds)["features"], by_hand(feeds), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fixed", [True, False])
def test_texts_are_padded_as_an_encoder_without_a_mask_was_trained(folder, feeds, fixed):
    """As SigLIP's: always so many tokens, with a padding token of its own."""
    unmasked = """
    <ir_version: 8, opset_import: ["" : 17]>
    text (int32[N, T] ids) => (float[N, 4] text_embeds) {
        tokens = Gather <axis = 0> (weight, ids)
        text_embeds = ReduceMean <axes = [1], keepdims = 0> (tokens)
    }
    """
    save(folder / "text.onnx", unmasked.replace("T]", "12]") if fixed else unmasked, weight=WEIGHTS["text"])
    padding = {"pad_id": 1} | ({} if fixed else {"pad_to": 12})
    bundle = import_onnx(describe(folder, encoders=encoder(text=padding)), folder / "bundle")
    expected = []
    for ids, mask in zip(feeds["input_ids"], feeds["attention_mask"], strict=True):
        tokens = [*ids[mask == 1], *[1] * (12 - mask.sum())]
        expected.append(WEIGHTS["text"][tokens].mean(axis=0))
    found = outputs(bundle, feeds)["features"][feeds["text_row"], 3:7]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_token_types_are_of_the_first_type_and_names_can_be_given(folder, feeds):
    typed = TEXT.replace("input_ids", "tokens_in").replace(
        "attention_mask)", "attention_mask, int64[N, T] token_type_ids)", 1
    )
    typed = typed.replace(
        "tokens = Gather <axis = 0> (weight, tokens_in)",
        "ids = Add (tokens_in, token_type_ids) tokens = Gather <axis = 0> (weight, ids)",
    )
    save(folder / "text.onnx", typed, weight=WEIGHTS["text"])
    names = {"inputs": {"input_ids": "tokens_in"}}
    bundle = import_onnx(describe(folder, encoders=encoder(text=names)), folder / "bundle")
    np.testing.assert_allclose(outputs(bundle, feeds)["features"], by_hand(feeds), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("declared", "axes", "keys"),
    [
        ("float[N, 24, 16] mel", "[1]", {}),
        ("float[N, 16, 24] mel", "[2]", {}),
        ("float[N, 1, 16, 24] mel", "[1, 3]", {}),
        ("float[N, A, B] mel", "[2]", {"layout": "NKF"}),
        ("float16[N, 1, 24, 16] mel", "[1, 2]", {}),
    ],
)
def test_log_mel_comes_in_the_layout_that_the_encoder_takes(folder, feeds, declared, axes, keys):
    graph = AUDIO.replace("float[N, 1, 24, 16] mel", declared).replace("[1, 2]", axes)
    graph = graph.replace("(mel)", "(mel_32)").replace("image =", "mel_32 = Cast <to = 1> (mel) image =")
    save(folder / "audio.onnx", graph, weight=WEIGHTS["audio"])
    bundle = import_onnx(describe(folder, encoders=encoder(audio=keys)), folder / "bundle")
    np.testing.assert_allclose(outputs(bundle, feeds)["features"], by_hand(feeds), rtol=1e-3, atol=1e-3)


def test_an_encoder_may_take_the_pixels_as_they_travel(folder, feeds):
    """It normalizes them itself, then."""
    raw = """
    <ir_version: 8, opset_import: ["" : 17]>
    image (uint8[N, 16, 16, 3] pixels) => (float[N, 3] image_embeds) {
        x = Cast <to = 1> (pixels)
        means = ReduceMean <axes = [1, 2], keepdims = 0> (x)
        image_embeds = MatMul (means, weight)
    }
    """
    save(folder / "image.onnx", raw, weight=WEIGHTS["image"])
    with pytest.raises(ModelError, match="takes uint8, so it normalizes by itself"):
        import_onnx(describe(folder, encoders=encoder(image={"mean": 127.0})), folder / "bundle")
    bundle = import_onnx(describe(folder), folder / "bundle")
    np.testing.assert_allclose(outputs(bundle, feeds)["features"], by_hand(feeds), rtol=1e-4, atol=1e-4)


# What is refused: the graph in textual syntax, keys of the encoder, and what the message says.
REFUSED = {
    "another type": (
        "image",
        ("float[N, 3, 16, 16]", "int8[N, 3, 16, 16]"),
        {},
        "an adapter for image gives",
    ),
    "another size": ("image", ("16, 16]", "32, 32]"), {}, "H=16, W=16"),
    "a layout that is not its own": ("image", ("", ""), {"layout": "NHWC"}, "is not NHWC of"),
    "free sizes": ("image", ("3, 16, 16]", "C, H, W]"), {}, "set its `layout`"),
    "two means": ("image", ("", ""), {"mean": [0.5, 0.5]}, "mean .* give one number, or 3"),
    "a deviation of 0": ("image", ("", ""), {"std": 0.0}, "no std of 0"),
    "an output that is not there": (
        "image",
        ("", ""),
        {"output": "pooled"},
        "one of its outputs .* image_embeds",
    ),
    "unknown inputs": ("text", ("attention_mask", "segment"), {}, "'segment' is not known"),
    "an input that is not there": (
        "text",
        ("", ""),
        {"inputs": {"input_ids": "tokens"}},
        "'tokens' is not there",
    ),
    "fewer tokens than the spec": ("text", ("T]", "7]"), {}, "takes texts of 7 tokens"),
    "a length that is not its own": ("text", ("T]", "12]"), {"pad_to": 16}, "pad_to the same"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_the_name_of_the_file(folder, case):
    modality, (old, new), keys, message = REFUSED[case]
    text = {"image": IMAGE, "text": TEXT, "audio": AUDIO}[modality]
    save(folder / f"{modality}.onnx", text.replace(old, new) if old else text, weight=WEIGHTS[modality])
    with pytest.raises(ModelError, match=message) as raised:
        import_onnx(describe(folder, encoders=encoder(**{modality: keys})), folder / "bundle")
    assert str(folder / f"{modality}.onnx") in str(raised.value)
    assert not (folder / "bundle").exists()


def test_tokens_instead_of_an_embedding_are_refused(folder):
    text = TEXT.replace("float[N, 4] text_embeds", "float[N, T, 4] tokens")
    save(folder / "text.onnx", text, weight=WEIGHTS["text"])
    with pytest.raises(ModelError, match=r"'tokens' has 3 dimensions, .*; an embedding has two"):
        import_onnx(describe(folder), folder / "bundle")


def test_an_encoder_whose_rows_reach_each_other_is_refused(folder):
    mixed = IMAGE.replace(
        "image_embeds = MatMul (means, weight)",
        """own = MatMul (means, weight)
        others = ReduceMean <axes = [0], keepdims = 1> (own)
        image_embeds = Add (own, others)""",
    )
    save(folder / "image.onnx", mixed, weight=WEIGHTS["image"])
    with pytest.raises(ModelError, match=r"image\.onnx: gives row 0 other values alone than in a batch"):
        import_onnx(describe(folder), folder / "bundle")


def test_an_encoder_that_does_not_mask_padding_is_refused(folder):
    """Its features of a text would depend on the longest text of the batch."""
    save(
        folder / "text.onnx",
        TEXT.replace("Cast <to = 1> (attention_mask)", "Cast <to = 1> (ones)")
        .replace("mask = ", "none = Sub (attention_mask, attention_mask) ones = Add (none, axis) mask = ")
        .replace("axis = Constant <value = int64[1] {1}> ()", "")
        .replace("tokens = ", "axis = Constant <value = int64[1] {1}> () tokens = "),
        weight=WEIGHTS["text"],
    )
    with pytest.raises(ModelError, match="padding must be masked"):
        import_onnx(describe(folder), folder / "bundle")


@pytest.mark.parametrize("content", [None, b"not a graph"])
def test_a_file_that_is_no_graph_is_refused(folder, content):
    (folder / "audio.onnx").unlink() if content is None else (folder / "audio.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"audio\.onnx: (cannot be read|not an ONNX file)"):
        import_onnx(describe(folder), folder / "bundle")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weight": random(0, 4, 9)}, r"weight \[4, 9\]; a linear head has weight \[4, 12\]"),
        ({"weight": HEAD_WEIGHT, "bias": random(0, 12)}, r"bias \[12\]"),
        ({"w": HEAD_WEIGHT}, r"has w \[4, 12\]"),
    ],
)
def test_a_head_of_another_shape_is_refused(folder, arrays, message):
    np.savez(folder / "head.npz", **arrays)
    with pytest.raises(ModelError, match=message):
        import_onnx(describe(folder, head="head.npz", labels=list(LABELS)), folder / "bundle")


def test_pickled_weights_are_refused_unread(folder):
    np.savez(folder / "head.npz", weight=np.array([{"a": 1}], object))
    with pytest.raises(ModelError, match="not weights of a head"):
        import_onnx(describe(folder, head="head.npz", labels=list(LABELS)), folder / "bundle")


def test_a_head_of_another_number_of_classes_is_refused(folder):
    save(folder / "head.onnx", HEAD, weight=HEAD_WEIGHT.T.copy(), bias=random(0, 3, 4))
    with pytest.raises(ModelError, match=r"gives \(.*, 4\) for .* records and 3 labels"):
        import_onnx(describe(folder, head="head.onnx", labels=["a", "b", "c"]), folder / "bundle")


# A whole graph


def write_records(folder):
    """Shards whose captions have none of the words that the graph of support.graphs chokes on."""
    rows = [
        (
            f"r{i}",
            {"png": row["image"], "txt": b"a red cat" if i % 2 else b"a dog", "wav": GOLDEN_ROWS[0]["audio"]},
        )
        for i, row in enumerate([GOLDEN_ROWS[0], GOLDEN_ROWS[1]] * 3)
    ]
    write_shard(folder / "records/a.tar", rows)
    return str(folder / "records")


def describe_graph(folder, graph, **changes):
    """A description of one fused graph."""
    values = {
        "encoders": None,
        "graph": str(graph),
        "labels": list(LABELS),
        "examples": write_records(folder),
    }
    return describe(folder, **(values | changes))


def test_a_fused_graph_becomes_a_bundle_as_it_is(tmp_path, feeds):
    graph = write_graph(tmp_path / "mine.onnx", len(LABELS))
    bundle = import_onnx(describe_graph(tmp_path, graph), tmp_path / "bundle")
    assert bundle.labels == list(LABELS)
    for name, values in run_by_hand(feeds, len(LABELS)).items():
        np.testing.assert_allclose(outputs(bundle, feeds)[name], values, rtol=1e-4, atol=1e-4)
    Predictor(bundle, provider="cpu")


@pytest.mark.parametrize("size", [0, -1])
def test_a_fused_graph_may_write_its_free_sizes_as_numbers(tmp_path, feeds, size):
    def write_sizes(graph):
        for value in (*graph.input, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in ("B", "Ni", "Nt", "T", "Np"):
                    dim.dim_value = size

    graph = alter(write_graph(tmp_path / "mine.onnx", len(LABELS)), write_sizes)
    bundle = import_onnx(describe_graph(tmp_path, graph), tmp_path / "bundle")
    for name, values in run_by_hand(feeds, len(LABELS)).items():
        np.testing.assert_allclose(outputs(bundle, feeds)[name], values, rtol=1e-4, atol=1e-4)


def alter(path, change):
    """Apply a change to the graph of a model file."""
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


def rename_input(graph):
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == "pixels":
                node.input[i] = "image"
    next(i for i in graph.input if i.name == "pixels").name = "image"


def take_floats(graph):
    next(i for i in graph.input if i.name == "pixels").type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def fix_the_batch(graph):
    next(i for i in graph.input if i.name == "input_ids").type.tensor_type.shape.dim[0].dim_value = 8


def drop_the_features(graph):
    del graph.output[2]


def give_more(graph):
    graph.output.append(onnx.helper.make_tensor_value_info("brightness", onnx.TensorProto.FLOAT, ["Ni"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_input, "has no input 'pixels'"),
        (take_floats, r"input 'pixels' is float .* mmray needs uint8 \[\*, 16, 16, 3\]"),
        (fix_the_batch, r"input 'input_ids' is int32 \[8, \*\]"),
        (drop_the_features, "has no output 'features'"),
        (give_more, "has an unknown output 'brightness'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fused_graph_that_cannot_be_fed_is_refused_with_the_way_out(tmp_path, change, message):
    graph = alter(write_graph(tmp_path / "mine.onnx", len(LABELS)), change)
    with pytest.raises(ModelError, match=message) as raised:
        import_onnx(describe_graph(tmp_path, graph), tmp_path / "bundle")
    assert str(graph) in str(raised.value)
    assert "`encoders`" in str(raised.value)


def ignore_the_flags(graph):
    """The text counts even where `present` says that it is not there."""
    next(node for node in graph.node if node.output[0] == "tone_sum_masked").input[0] = "always"
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.bool_), "always"))


def ignore_the_flags_of_pictures(graph):
    """A blank picture counts for nothing in this graph anyway; another one shows it."""
    next(node for node in graph.node if node.output[0] == "brightness_sum_masked").input[0] = "always"
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.bool_), "always"))


def ignore_the_row_index(graph):
    """Rows are summed into the records in their own order."""
    node = next(node for node in graph.node if node.output[0] == "brightness_sum")
    node.input[1] = "counted"
    extra = [
        onnx.helper.make_node("Shape", ["pixels_row"], ["rows_of_pixels"]),
        onnx.helper.make_node("Squeeze", ["rows_of_pixels"], ["row_count"]),
        onnx.helper.make_node("Range", ["start_0", "row_count", "step_1"], ["counted"]),
    ]
    for name, value in (("start_0", 0), ("step_1", 1)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.int64(value), name))
    nodes = [*extra, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ignore_the_flags, "with their flags off; only `present` may decide"),
        (ignore_the_flags_of_pictures, "with their flags off; only `present` may decide"),
        (ignore_the_row_index, "use the row indices"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fused_graph_that_does_not_keep_to_packed_modalities_is_refused(tmp_path, change, message):
    graph = alter(write_graph(tmp_path / "mine.onnx", len(LABELS)), change)
    with pytest.raises(ModelError, match=message):
        import_onnx(describe_graph(tmp_path, graph), tmp_path / "bundle")


def test_scores_of_another_number_of_classes_are_refused(tmp_path):
    graph = write_graph(tmp_path / "mine.onnx", len(LABELS))
    with pytest.raises(ModelError, match=r"output 'logits' is float \[\*, 4\]; mmray needs float \[\*, 3\]"):
        import_onnx(describe_graph(tmp_path, graph, labels=["a", "b", "c"]), tmp_path / "bundle")


def test_something_else_at_the_output_is_left_alone(folder):
    (folder / "bundle").mkdir()
    (folder / "bundle/thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="not a bundle"):
        import_onnx(describe(folder), folder / "bundle")
    assert (folder / "bundle/thesis.txt").read_text() == "years of work"
