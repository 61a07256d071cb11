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
from mmray.optimize.staging import split_stages

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
