"""ONNX files as people export and fetch them: taken where they are right, refused by name where not."""

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from support.bundles import LABELS, SPEC, small_tokenizer
from support.encoders import HEAD_WEIGHT, IMAGE, TEXT, WEIGHTS, by_hand, random, save

from mmray.engine import Engine
from mmray.errors import ModelError
from mmray.importing.description import read_description
from mmray.importing.directories import read_audio
from mmray.importing.from_onnx import import_onnx

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 90387606\n"
HTML = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
HIDDEN = TEXT.replace("float[N, 4] text_embeds", "float[N, T, 4] tokens")  # before its own pooling
ENCODERS = {name: {"graph": f"{name}.onnx"} for name in ("image", "text", "audio")}


def describe(folder, head=None, labels=None, tokenizer=None, **encoders):
    values = {
        "encoders": {name: {**keys, **encoders.get(name, {})} for name, keys in ENCODERS.items()},
        "preprocessing": SPEC.model_dump(mode="json"),
        "tokenizer": str(tokenizer or small_tokenizer()),
    }
    if head:
        values |= {"head": head, "labels": labels or list(LABELS)}
    (folder / "model.yaml").write_text(yaml.safe_dump(values))
    return read_description(folder / "model.yaml")


def make(folder, **changes):
    return import_onnx(describe(folder, **changes), folder / "bundle")


def outputs(bundle, feeds):
    return Engine(bundle.graph("fp32"), provider="cpu")(feeds)


def alter(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


# The batch


@pytest.mark.parametrize("size", [-1, 0, 1, 4, None])
def test_any_way_to_write_the_batch_is_taken_where_rows_are_the_same_alone(folder, feeds, size):
    def set_rows(model):
        for value in (*model.graph.input, *model.graph.output):
            dim = value.type.tensor_type.shape.dim[0]
            dim.Clear()
            if size is not None:
                dim.dim_value = size

    for name in ENCODERS:
        alter(folder / f"{name}.onnx", set_rows)
    found = outputs(make(folder), feeds)["features"]
    np.testing.assert_allclose(found, by_hand(feeds), rtol=1e-4, atol=1e-4)


BROKEN_ROWS = {
    "a reshape to one row": (
        "own = MatMul (means, weight) shape = Constant <value = int64[2] {1, -1}> () "
        "image_embeds = Reshape (own, shape)",
        r"is \[1, 6\] for two rows, .* dynamic batch",
    ),
    "one row that holds all": (
        "own = MatMul (means, weight) shape = Constant <value = int64[3] {1, -1, 3}> () "
        "rows = Reshape (own, shape) mixed = Softmax <axis = 1> (rows) "
        "back = Constant <value = int64[2] {-1, 3}> () image_embeds = Reshape (mixed, back)",
        "row 0 other values alone .* dynamic batch",
    ),
    "quantized with the scale of the batch": (
        "q, s, z = DynamicQuantizeLinear (means) m = DequantizeLinear (q, s, z) "
        "image_embeds = MatMul (m, weight)",
        "row . other values alone .*DynamicQuantizeLinear.*not quantized",
    ),
}


@pytest.mark.parametrize("case", BROKEN_ROWS)
@pytest.mark.parametrize("rows", ["N", "1"])
def test_an_encoder_that_is_right_for_one_row_alone_is_refused_by_name(folder, case, rows):
    nodes, message = BROKEN_ROWS[case]
    graph = IMAGE.replace("image_embeds = MatMul (means, weight)", nodes).replace("[N", f"[{rows}")
    save(folder / "image.onnx", graph, weight=WEIGHTS["image"])
    with pytest.raises(ModelError, match=rf"image\.onnx: .*{message}"):
        make(folder)


def test_a_mean_that_counts_padding_is_refused_by_name(folder):
    graph = """
    <ir_version: 8, opset_import: ["" : 17]>
    text (int64[N, T] input_ids) => (float[N, 4] text_embeds) {
        tokens = Gather <axis = 0> (weight, input_ids)
        text_embeds = ReduceMean <axes = [1], keepdims = 0> (tokens)
    }
    """
    save(folder / "text.onnx", graph, weight=WEIGHTS["text"])
    with pytest.raises(ModelError, match=r"text\.onnx: .* padded to .* masked, .*attention_mask.*pad_to"):
        make(folder)


# Outputs and inputs


def test_an_embedding_with_axes_of_one_place_is_flattened(folder, feeds):
    """As a GlobalAveragePool leaves them: [N, D, 1, 1]."""
    graph = IMAGE.replace("float[N, 3] image_embeds", "float[N, 3, 1, 1] y").replace(
        "image_embeds = MatMul (means, weight)",
        "own = MatMul (means, weight) axes = Constant <value = int64[2] {2, 3}> () y = Unsqueeze (own, axes)",
    )
    save(folder / "image.onnx", graph, weight=WEIGHTS["image"])
    found = outputs(make(folder), feeds)["features"]
    np.testing.assert_allclose(found, by_hand(feeds), rtol=1e-4, atol=1e-4)


def test_hidden_states_are_pooled_as_the_description_says(folder, feeds):
    save(folder / "text.onnx", HIDDEN, weight=WEIGHTS["text"])
    with pytest.raises(ModelError, match=r"text\.onnx: .* has 3 dimensions.*`pool: mean` or `pool: first`"):
        make(folder)
    found = outputs(make(folder, text={"pool": "mean"}), feeds)["features"]
    np.testing.assert_allclose(found, by_hand(feeds), rtol=1e-4, atol=1e-4)
    found = outputs(make(folder, text={"pool": "first"}), feeds)["features"][feeds["text_row"], 3:7]
    np.testing.assert_allclose(found, WEIGHTS["text"][feeds["input_ids"][:, 0]], rtol=1e-4, atol=1e-4)


def test_the_mean_of_a_feature_map_is_over_its_places(folder, feeds):
    graph = IMAGE.replace("float[N, 3] image_embeds", "float[N, 3, 16, 16] pixels")
    graph = graph.replace("means =", "pixels = Identity (pixel_values) means =")
    save(folder / "image.onnx", graph, weight=WEIGHTS["image"])
    found = outputs(make(folder, image={"pool": "mean"}), feeds)["features"][feeds["pixels_row"], :3]
    np.testing.assert_allclose(found, feeds["pixels"].mean(axis=(1, 2)), rtol=1e-4, atol=1e-3)


def test_position_ids_are_counted_from_where_the_description_says(folder, feeds):
    graph = TEXT.replace("attention_mask)", "attention_mask, int64[N, T] position_ids)", 1).replace(
        "tokens = Gather <axis = 0> (weight, input_ids)",
        """own = Gather <axis = 0> (weight, input_ids)
        places = Gather <axis = 0> (weight, position_ids)
        tokens = Add (own, places)""",
    )
    save(folder / "text.onnx", graph, weight=WEIGHTS["text"])
    with pytest.raises(ModelError, match=r"text\.onnx: takes position_ids: .*positions_from: 0"):
        make(folder)
    found = outputs(make(folder, text={"positions_from": 2}), feeds)["features"][feeds["text_row"], 3:7]
    for row, ids, mask in zip(found, feeds["input_ids"], feeds["attention_mask"], strict=True):
        kept = ids[mask == 1]
        expected = (WEIGHTS["text"][kept] + WEIGHTS["text"][2 : 2 + len(kept)]).mean(axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_a_label_beside_the_embedding_is_not_taken_for_it(folder, feeds):
    graph = IMAGE.replace("=> (", "=> (int64[N] label, ").replace(
        "image_embeds = MatMul (means, weight)",
        "image_embeds = MatMul (means, weight) label = ArgMax <axis = 1, keepdims = 0> (image_embeds)",
    )
    save(folder / "image.onnx", graph, weight=WEIGHTS["image"])
    found = outputs(make(folder), feeds)["features"]
    np.testing.assert_allclose(found, by_hand(feeds), rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match=r"'label' is int64 .* an embedding is of floats"):
        make(folder, image={"output": "label"})


def test_double_precision_is_taken_where_it_runs(folder, feeds):
    graph = IMAGE.replace("float[", "double[").replace(
        "image_embeds =", "double_weight = Cast <to = 11> (weight) y ="
    )
    graph = graph.replace("(means, weight)", "(means, double_weight) image_embeds = Identity (y)")
    save(folder / "image.onnx", graph, weight=WEIGHTS["image"])
    found = outputs(make(folder), feeds)["features"]
    np.testing.assert_allclose(found, by_hand(feeds), rtol=1e-4, atol=1e-4)


def test_strings_as_input_mean_that_the_tokenizer_is_inside(folder):
    graph = "text (string[N] text) => (float[N, 1] y) { y = Cast <to = 1> (text) }"
    save(folder / "text.onnx", f'<ir_version: 8, opset_import: ["" : 17]> {graph}')
    with pytest.raises(ModelError, match=r"text\.onnx: .*its tokenizer is in the graph"):
        make(folder)


# Versions and operators


def set_ir(model):
    model.ir_version = 99


def set_opset(model):
    model.opset_import[0].version = 99


def set_ml(model):
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 99))


def set_operator(domain, op="MySpecialPool"):
    def change(model):
        model.graph.node[0].op_type, model.graph.node[0].domain = op, domain
        model.graph.node[0].name = "pool_7"
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


TOO_NEW = {
    "IR": (set_ir, r"IR version 99; .* reads versions up to \d+: save it with"),
    "opset": (set_opset, r"opset 99 of ai\.onnx; .* reads up to \d+: export it again with opset_version=20"),
    "ai.onnx.ml": (set_ml, r"opset 99 of ai\.onnx\.ml; .* reads up to \d+"),
    "a domain": (
        set_operator("my.plugins"),
        r"'pool_7' is the operator MySpecialPool of the domain 'my\.",
    ),
    "an operator": (set_operator(""), r"'pool_7' is the operator MySpecialPool of the domain 'ai\.onnx'"),
    "a custom tokenizer": (set_operator("ai.onnx.contrib", "BertTokenizer"), "tokenizer .* in the graph"),
}


@pytest.mark.parametrize("case", TOO_NEW)
def test_what_the_installed_runtime_does_not_know_is_refused_by_name(folder, case):
    change, message = TOO_NEW[case]
    alter(folder / "image.onnx", change)
    with pytest.raises(ModelError, match=rf"image\.onnx: .*{message}") as raised:
        make(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("opset", [22, 24, 26])
def test_newer_operator_sets_are_brought_to_ours(folder, feeds, opset):
    """GroupNormalization of 21 has no older equal, but is made of older operators."""
    graph = f"""
    <ir_version: 10, opset_import: ["" : {opset}]>
    image (float[N, 3, 16, 16] pixel_values) => (float[N, 3] y) {{
        axes = Constant <value = int64[2] {{2, 3}}> ()
        scale = Constant <value = float[3] {{1.0, 2.0, 3.0}}> ()
        bias = Constant <value = float[3] {{0.5, 0.0, 0.0}}> ()
        normal = GroupNormalization <num_groups = 3, epsilon = 1.0> (pixel_values, scale, bias)
        y = ReduceMean <keepdims = 0> (normal, axes)
    }}
    """
    save(folder / "image.onnx", graph)
    found = outputs(make(folder), feeds)["features"][feeds["pixels_row"], :3]
    np.testing.assert_allclose(found, np.tile([0.5, 0, 0], (len(found), 1)), atol=1e-4)


# Heads


def classifier(
    path, transform="SOFTMAX", outputs=("label", "p"), zipmap=False, kind=TensorProto.FLOAT, **classes
):
    """As skl2onnx writes a logistic regression: float [*, 12] to a label and probabilities."""
    node = helper.make_node(
        "LinearClassifier",
        ["f"],
        ["label", "p"],
        domain="ai.onnx.ml",
        coefficients=HEAD_WEIGHT.ravel().tolist(),
        intercepts=[0.0] * 4,
        post_transform=transform,
        **(classes or {"classlabels_ints": [0, 1, 2, 3]}),
    )
    label_kind = TensorProto.STRING if "classlabels_strings" in classes else TensorProto.INT64
    declared = {
        "label": helper.make_tensor_value_info("label", label_kind, [None]),
        "p": helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 4]),
    }
    nodes = [node]
    if zipmap:
        nodes.append(
            helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
        )
        mapping = helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
        declared["p"] = helper.make_value_info("z", helper.make_sequence_type_proto(mapping))
    features = helper.make_tensor_value_info("f", kind, [None, 12])
    graph = helper.make_graph(nodes, "head", [features], [declared[name] for name in outputs])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
@pytest.mark.parametrize(
    "classes", [{"classlabels_ints": [0, 1, 2, 3]}, {"classlabels_strings": list(LABELS)}]
)
def test_the_probabilities_of_a_classifier_are_the_scores(folder, feeds, classes, kind):
    classifier(folder / "head.onnx", kind=kind, **classes)
    found = outputs(make(folder, head="head.onnx"), feeds)
    logits = by_hand(feeds) @ HEAD_WEIGHT.T
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found["scores"], raised / raised.sum(axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("outputs", [("label", "p"), ("p",)])
def test_probabilities_in_a_map_are_refused_with_the_option_that_helps(folder, outputs):
    classifier(folder / "head.onnx", zipmap=True, outputs=outputs)
    with pytest.raises(ModelError, match=r"head\.onnx: .*ZipMap.*options=\{'zipmap': False\}"):
        make(folder, head="head.onnx")


def test_classes_in_another_order_than_the_labels_are_refused(folder):
    classifier(folder / "head.onnx", classlabels_strings=list(LABELS)[::-1])
    with pytest.raises(ModelError, match=r"head\.onnx: its classes are .* `labels` has another order"):
        make(folder, head="head.onnx")


def test_a_sigmoid_for_each_class_is_refused(folder):
    classifier(folder / "head.onnx", transform="LOGISTIC", outputs=("p",))
    with pytest.raises(ModelError, match=r"head\.onnx: .* whose sum is not 1, like sigmoids"):
        make(folder, head="head.onnx")


def test_a_head_of_unknown_operators_is_refused(folder):
    classifier(folder / "head.onnx", outputs=("p",))
    alter(folder / "head.onnx", set_operator("my.plugins", "MySpecialHead"))
    with pytest.raises(ModelError, match=r"head\.onnx: .*MySpecialHead of the domain 'my\.plugins'"):
        make(folder, head="head.onnx")


# Files that are something else

SOMETHING_ELSE = {
    "lfs": (LFS, "Git LFS pointer.*git lfs pull"),
    "html": (HTML, "web page"),
    "empty": (b"", "is empty"),
    "torch": (b"PK\x03\x04" + bytes(300), "zip archive, as torch.save.*torch.onnx.export"),
    "pickle": (b"\x80\x02}q\x00.", "pickle"),
    "safetensors": ((2).to_bytes(8, "little") + b"{}", "safetensors file"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
    "engine": (b"ftrt" + bytes(100), "TensorRT engine"),
    "encrypted": (b"Salted__" + bytes(100), "encrypted"),
    "noise": (random(0, 100).tobytes(), "not an ONNX"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "gzip; unpack"),
}


@pytest.mark.parametrize("case", SOMETHING_ELSE)
def test_what_stands_in_the_place_of_a_graph_is_named(folder, case):
    content, message = SOMETHING_ELSE[case]
    (folder / "image.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=rf"image\.onnx: .*{message}"):
        make(folder)


def test_a_graph_that_was_cut_off_is_refused_at_any_length(folder):
    whole = (folder / "text.onnx").read_bytes()
    for size in range(1, len(whole), 37):
        (folder / "text.onnx").write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"text\.onnx: not an ONNX"):
            make(folder)


def test_a_directory_is_not_a_graph(folder):
    (folder / "image.onnx").unlink()
    (folder / "image.onnx").mkdir()
    with pytest.raises(ModelError, match=r"image\.onnx: is a directory"):
        make(folder)


@pytest.mark.parametrize("place", ["tokenizer.json", "head.npz", "head.safetensors"])
@pytest.mark.parametrize("content", [LFS, HTML])
def test_what_stands_in_the_place_of_a_tokenizer_or_a_head_is_named(folder, place, content):
    (folder / place).write_bytes(content)
    changes = {"tokenizer": folder / place} if place == "tokenizer.json" else {"head": place}
    with pytest.raises(ModelError, match=rf"{place}: is (a Git LFS pointer|a web page)"):
        make(folder, **changes)


def test_a_pointer_in_the_place_of_labels_is_no_list_of_classes(folder):
    (folder / "labels.txt").write_bytes(LFS)
    describe(folder)
    values = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump(values | {"labels": "labels.txt", "head": "h.npz"}))
    with pytest.raises(ModelError, match=r"labels\.txt: is a Git LFS pointer"):
        import_onnx(read_description(folder / "model.yaml"), folder / "bundle")


def test_a_pointer_in_a_directory_of_transformers_is_named(folder):
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(LFS)
    with pytest.raises(ModelError, match=r"model\.safetensors: is a Git LFS pointer"):
        read_audio(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"[PAD]\n[UNK]\n", "a list of words: write one by AutoTokenizer"),
        ("spiece.model", b"\n\x0e\n\x05<unk>", "a model of SentencePiece"),
        ("tokenizer.json", b'{"version": "1.0", "trunc', "or incomplete"),
    ],
)
def test_what_is_no_tokenizer_json_is_refused(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name}: not a tokenizer\.json .*{message}"):
        make(folder, tokenizer=folder / name)


def put_outside(folder, *, linked=False):
    """The image encoder with its weights in a file beside it; linked: both by links, as in a hub's cache."""
    model = onnx.load(folder / "image.onnx")
    onnx.save(model, folder / "image.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    if linked:
        (folder / "blobs").mkdir()
        for number, name in enumerate(("image.onnx", "w.bin")):
            (folder / name).rename(folder / f"blobs/{number}")
            (folder / name).symlink_to(f"blobs/{number}")
    return folder / "w.bin"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"its weights are in 'w\.bin' in the same directory.*No such file"),
        (LFS, r"w\.bin: is a Git LFS pointer"),
        (HTML, r"w\.bin: is a web page"),
        (bytes(5), r"w\.bin: not the weights of image\.onnx.*download it again"),
    ],
)
def test_weights_beside_the_graph_that_are_not_there_are_named(folder, content, message):
    weights = put_outside(folder)
    weights.unlink() if content is None else weights.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        make(folder)


def test_weights_are_found_through_the_links_of_a_cache_and_no_others(folder, feeds):
    weights = put_outside(folder, linked=True)
    found = outputs(make(folder), feeds)["features"]
    np.testing.assert_allclose(found, by_hand(feeds), rtol=1e-4, atol=1e-4)
    secret = folder / "elsewhere/secret"
    secret.parent.mkdir()
    secret.write_bytes(weights.read_bytes())
    weights.unlink()
    weights.symlink_to(secret)
    with pytest.raises(ModelError, match="symbolic link"):
        make(folder)
