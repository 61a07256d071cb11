"""A graph that is cut into stages gives what it gave whole."""

from itertools import permutations

import numpy as np
import onnx
import pytest
from onnx import helper
from support.bundles import small_bundle

from mmray.cascade import CARRIED
from mmray.engine import Engine
from mmray.errors import ModelError
from mmray.variants.cascades.staging import dependencies, split_stages
from mmray.variants.quantize.int8 import to_dynamic_int8, to_static_int8

MODALITIES = ("image", "text", "audio")
ORDERS = [
    *([(a,), (b,), (c,)] for a, b, c in permutations(MODALITIES)),
    *([(a,), (b, c)] for a, b, c in permutations(MODALITIES)),
    [("image", "text"), ("audio",)],
]


@pytest.fixture(scope="module", params=["by hand", "exported"])
def graph(request, bundle):
    """A graph made node by node, and one from torch's exporter; with a batch for it."""
    chosen = small_bundle() if request.param == "by hand" else bundle
    return chosen.graph("fp32"), chosen.golden()[0]


@pytest.mark.parametrize("stages", ORDERS, ids=lambda stages: " ".join("+".join(stage) for stage in stages))
def test_a_stage_gives_what_the_whole_gives_without_the_modalities_that_are_to_come(graph, stages, tmp_path):
    file, feeds = graph
    whole = Engine(file, provider="cpu")
    handed, seen = {}, []
    for number, part in enumerate(split_stages(onnx.load(file), stages, feeds)):
        onnx.save(part, tmp_path / f"{number}.onnx")
        engine = Engine(tmp_path / f"{number}.onnx", provider="cpu")
        seen += stages[number]
        present = feeds["present"] & np.isin(MODALITIES, seen)
        known = feeds | handed | {"present": present}
        found = engine({name: known[name] for name in engine.inputs})
        handed |= {name: value for name, value in found.items() if name.startswith(CARRIED)}
        expected = whole(feeds | {"present": present})
        for name in ("logits", "scores", "features"):
            assert np.abs(found[name] - expected[name]).max() <= 1e-6


def test_no_stage_holds_the_weights_of_another(bundle):
    sizes = [
        sum(len(i.raw_data) for i in part.graph.initializer)
        for part in split_stages(
            onnx.load(bundle.graph("fp32")), [("text",), ("audio",), ("image",)], bundle.golden()[0]
        )
    ]
    whole = sum(len(i.raw_data) for i in onnx.load(bundle.graph("fp32")).graph.initializer)
    assert sum(sizes) < 1.2 * whole + 2000 * len(sizes)


def in_int8(bundle):
    """The graph between QuantizeLinear and DequantizeLinear, with made-up ranges for every activation."""
    model = onnx.load(bundle.graph("fp32"))
    ranges = {name: (-6.0, 6.0) for node in model.graph.node for name in [*node.input, *node.output]}
    return to_static_int8(model, ranges)


HEAVY = ("Conv", "MatMul", "Gemm", "MatMulInteger", "QuantizeLinear")


@pytest.mark.parametrize("form", ["fp32", "int8-static", "int8-dynamic"])
def test_no_stage_computes_what_another_does(bundle, form):
    """Each heavy node is in one stage, that of its own modality; only the head is in every stage."""
    whole = onnx.load(bundle.graph("fp32"))
    if form == "int8-dynamic":
        whole = to_dynamic_int8(whole)
    elif form == "int8-static":
        whole = in_int8(bundle)
    of = dependencies(whole.graph)
    heavy = {node.name: of[node.output[0]] for node in whole.graph.node if node.op_type in HEAVY}
    assert all(heavy), "they are told apart by their names"
    stages = [("text",), ("audio",), ("image",)]
    parts = split_stages(whole, stages, bundle.golden()[0])
    inside = [{node.name for node in part.graph.node} & heavy.keys() for part in parts]
    for name, modalities in heavy.items():
        places = [i for i, names in enumerate(inside) if name in names]
        if len(modalities) == 1:
            assert places == [stages.index(tuple(modalities))]
        else:
            assert places == [0, 1, 2], "the head"
    assert sum(len(modalities) == 1 for modalities in heavy.values()) > len(heavy) / 2
    for part in parts:
        handed = [value for value in part.graph.output if value.name.startswith(CARRIED)]
        assert {value.type.tensor_type.elem_type for value in handed} <= {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("stages", [[("text",), ("image",), ("audio",)], [("audio", "text"), ("image",)]])
def test_stages_of_an_int8_graph_give_what_it_gives_whole(bundle, stages, tmp_path):
    feeds = bundle.golden()[0]
    onnx.save(in_int8(bundle), tmp_path / "whole.onnx")
    whole = Engine(tmp_path / "whole.onnx", provider="cpu")(feeds)
    handed = {}
    for number, part in enumerate(split_stages(onnx.load(tmp_path / "whole.onnx"), stages, feeds)):
        onnx.save(part, tmp_path / f"{number}.onnx")
        engine = Engine(tmp_path / f"{number}.onnx", provider="cpu")
        seen = [m for stage in stages[: number + 1] for m in stage]
        known = feeds | handed | {"present": feeds["present"] & np.isin(MODALITIES, seen)}
        found = engine({name: known[name] for name in engine.inputs})
        handed |= {name: value for name, value in found.items() if name.startswith(CARRIED)}
    for name in ("logits", "scores", "features"):
        assert np.abs(found[name] - whole[name]).max() <= 1e-4 * max(1.0, np.abs(whole[name]).max())


def test_a_graph_that_mixes_modalities_before_they_are_a_row_a_record_is_refused():
    bundle = small_bundle()
    model = onnx.load(bundle.graph("fp32"))
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["pixels"], ["pictures"]),
            helper.make_node("Cast", ["pixels_row"], ["own_rows"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Cast", ["text_row"], ["other_rows"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Concat", ["own_rows", "other_rows"], ["mixed"], axis=0),
        ]
    )
    with pytest.raises(ModelError, match="cannot be cut around"):
        split_stages(model, [("text",), ("audio", "image")], bundle.golden()[0])
