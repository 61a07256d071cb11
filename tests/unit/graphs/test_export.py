"""Export: the graph serves every batch as torch does, says so only after looking, and carries no traces."""

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.packed import SIZES, SPEC, VOCABULARY, feeds

from mmray.engine import Engine
from mmray.errors import EngineError
from mmray.graphs import check_parity, clean, export_graph, with_blank_rows
from mmray.models.efficientnet_lite import EfficientNetLite
from mmray.models.fused import OUTPUTS, FusedModel
from mmray.models.head import SubsetHead
from mmray.models.minilm import MiniLM
from mmray.models.yamnet import YAMNet
from mmray.preprocess.spec import PreprocessSpec


def random_model(modalities=("image", "text", "audio")):
    torch.manual_seed(0)
    encoders = {
        "image": EfficientNetLite(width=0.25, depth=0.3, features=8),
        "text": MiniLM(VOCABULARY, layers=1, hidden=8, heads=2, intermediate=16, positions=16),
        "audio": YAMNet(width=0.25, layers=2),
    }
    kept = {m: encoders[m] for m in modalities}
    head = SubsetHead([encoder.dim for encoder in kept.values()], classes=4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    kept.get("image", EfficientNetLite()).fold_norms()
    return FusedModel(kept, head).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with all modalities, and its graph."""
    model, path = random_model(), tmp_path_factory.mktemp("graphs") / "fused.onnx"
    export_graph(model, SPEC, path)
    return model, path


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_any_sizes_give_what_torch_gives(exported, sizes):
    model, path = exported
    assert check_parity(model, path, {"sizes": feeds(**sizes)}) < 1e-5


def test_inputs_and_outputs_are_those_of_the_contract(exported):
    graph = onnx.load(exported[1]).graph
    free = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in (*graph.input, *graph.output)
    }
    width = 8 + 8 + exported[0].encoders["audio"].dim
    assert free == {
        "present": ["records", 3],
        "pixels": ["images", 32, 48, 3],
        "pixels_row": ["images"],
        "input_ids": ["texts", "tokens"],
        "attention_mask": ["texts", "tokens"],
        "text_row": ["texts"],
        "log_mel": ["patches", 96, 64],
        "log_mel_row": ["patches"],
        "logits": ["records", 4],
        "scores": ["records", 4],
        "features": ["records", width],
    }
    assert list(free)[-3:] == list(OUTPUTS)
    types = {i.name: i.type.tensor_type.elem_type for i in graph.input}
    assert types["pixels"] == TensorProto.UINT8
    assert types["log_mel"] == TensorProto.FLOAT16
    assert types["input_ids"] == TensorProto.INT32


def test_a_bad_record_does_not_spoil_its_neighbours_in_the_graph_either(exported):
    given = feeds(records=4, images=4, texts=4, tokens=6, patches=8)
    given["log_mel_row"][:] = np.arange(8) // 2
    given["present"][:, 2] = True
    engine = Engine(exported[1], provider="cpu")
    clean_scores = engine(given)["scores"]
    given["log_mel"][:2] = np.nan
    scores = engine(given)["scores"]
    assert np.isnan(scores[0]).all()
    np.testing.assert_allclose(scores[1:], clean_scores[1:], atol=1e-6)


def test_the_graph_carries_no_paths_of_this_machine(exported):
    data = exported[1].read_bytes()
    assert b".py" not in data
    assert str(exported[1].parent).encode() not in data


def test_a_model_of_one_modality_has_only_its_inputs(tmp_path):
    model = random_model(("text",))
    path = tmp_path / "text.onnx"
    export_graph(model, PreprocessSpec(text=SPEC.text), path)
    given = {
        name: array
        for name, array in feeds(records=3, images=0, texts=2, tokens=4, patches=0).items()
        if name in model.input_names
    }
    given["present"] = given["present"][:, 1:2]
    assert check_parity(model, path, {"text": given}) < 1e-5


def test_a_graph_that_differs_is_refused_by_the_name_of_the_batch(exported, tmp_path):
    """One bias of the head is changed: batches that do not use it pass, the first that does is named."""
    model, path = exported
    proto = onnx.load(path)
    bias = next(i for i in proto.graph.initializer if i.name.endswith("head.bias"))
    values = numpy_helper.to_array(bias).copy()
    values[0b010] += 0.5  # the subset of text alone
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(proto, tmp_path / "altered.onnx")
    cases = {
        "pictures only": feeds(records=3, images=3, texts=0, tokens=8, patches=0),
        "captions only": feeds(records=3, images=0, texts=3, tokens=8, patches=0),
    }
    with pytest.raises(EngineError, match=r"'logits' differs .* on the batch 'captions only'") as raised:
        check_parity(model, tmp_path / "altered.onnx", cases)
    assert "input_ids (3, 8)" in str(raised.value)


def test_a_graph_that_gives_nan_is_refused(exported, tmp_path):
    model, path = exported
    proto = onnx.load(path)
    bias = next(i for i in proto.graph.initializer if i.name.endswith("head.bias"))
    bias.CopyFrom(numpy_helper.from_array(np.full(bias.dims, np.nan, np.float32), bias.name))
    onnx.save(proto, tmp_path / "nan.onnx")
    with pytest.raises(EngineError, match="differs from torch's by nan"):
        check_parity(model, tmp_path / "nan.onnx", {"any": feeds(2, 1, 1, 4, 1)})


def test_cleaning_drops_what_is_unused_and_splits_shared_zero_points():
    """Two DequantizeLinear nodes share a zero-point; ONNX Runtime's exact int8 needs one for each."""
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["b", "scale", "zero"], ["y"]),
        helper.make_node("Add", ["x", "y"], ["sum"], doc_string="a trace"),
    ]
    initializers = [
        numpy_helper.from_array(np.array([1, 2], np.int8), "a"),
        numpy_helper.from_array(np.array([3, 4], np.int8), "b"),
        numpy_helper.from_array(np.float32(0.5), "scale"),
        numpy_helper.from_array(np.int8(1), "zero"),
        numpy_helper.from_array(np.zeros(99, np.float32), "unused"),
    ]
    output = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [2])
    graph = helper.make_graph(nodes, "g", [], [output], initializers)
    graph.value_info.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    clean(proto)
    zeros = [node.input[2] for node in proto.graph.node[:2]]
    assert len(set(zeros)) == 2
    assert {i.name for i in proto.graph.initializer} == {"a", "b", "scale", *zeros}
    assert not proto.graph.value_info
    assert not proto.graph.node[2].doc_string
    values = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    assert [values[name] for name in zeros] == [1, 1]


def test_cleaning_keeps_the_weights_that_only_a_subgraph_uses():
    proto = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 20]>
    g (bool flag, float[2] x) => (float[2] y) {
        y = If (flag) <
            then_branch = a () => (float[2] p) { p = Add (x, weight) },
            else_branch = b () => (float[2] q) { q = Identity (x) }
        >
    }
    """)
    for name in ("weight", "unused"):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), name))
    clean(proto)
    assert [i.name for i in proto.graph.initializer] == ["weight"]


def test_blank_rows_are_put_in_only_where_there_are_none():
    given = feeds(records=2, images=0, texts=0, tokens=8, patches=3)
    filled = with_blank_rows(given)
    assert filled["log_mel"] is given["log_mel"]
    assert filled["pixels"].shape == (1, 32, 48, 3)
    assert filled["attention_mask"].tolist() == [[1] * 8]
    assert filled["text_row"].tolist() == [0]
    assert len(given["pixels"]) == 0


def test_cleaning_gives_each_gemm_a_weight_of_its_own():
    """Equal weights become one tensor in export, as those of image and text of a head from prompts."""
    proto = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 20]>
    g (float[N, 2] x) => (float[N, 3] y) {
        first = Gemm <transB = 1> (x, weight)
        second = Gemm <transB = 1> (x, weight)
        y = Add (first, second)
    }
    """)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((3, 2), np.float32), "weight"))
    clean(proto)
    weights = [node.input[1] for node in proto.graph.node[:2]]
    assert len(set(weights)) == 2
    assert {i.name for i in proto.graph.initializer} == set(weights)
