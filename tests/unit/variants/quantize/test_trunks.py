"""Each modality's part of a graph gets the form that is fastest here and passes; the head stays in float."""

import numpy as np
import onnx
import pytest
from support.bundles import small_bundle
from support.racing import convolved, slowed

from mmray.engine import Engine
from mmray.engine.cpu import FEATURES_VARIABLE, needs_exact_int8
from mmray.errors import EngineError
from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.int8 import to_int8
from mmray.variants.quantize.trunks import best_forms, trunks


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Convolutions of the pixels; text and audio have nothing that int8 is about."""
    path = tmp_path_factory.mktemp("trunks") / "convolved.onnx"
    return onnx.load(convolved(small_bundle().graph("fp32"), path))


@pytest.fixture(scope="module")
def golden():
    return small_bundle().golden()[0]


def choose(model, golden, tmp_path, passes=lambda _: True, form=to_int8):
    def change(tried):
        onnx.save(tried, tmp_path / "tried.onnx")
        found = Engine(tmp_path / "tried.onnx", provider="cpu")(golden)["scores"]
        return float(np.abs(found - small_bundle().golden()[1]["scores"]).max())

    ranges = collect_ranges(model, [golden])
    return best_forms(model, lambda form_of: form(model, form_of, ranges), [golden], 8, change, passes)


def test_a_trunk_is_what_depends_on_one_modality_alone(bundle):
    found = trunks(onnx.load(bundle.graph("fp32")))
    assert list(found) == ["image", "text", "audio"]
    everything = [name for names in found.values() for name in names]
    assert len(everything) == len(set(everything))
    graph = onnx.load(bundle.graph("fp32")).graph
    for modality, names in found.items():
        others = {"image", "text", "audio"} - {modality}
        weights = {i for node in graph.node if node.name in names for i in node.input if "encoders" in i}
        assert weights
        assert not [w for w in weights if any(f"encoders.{other}." in w for other in others)]
    head = next(node.name for node in graph.node if "logits" in node.output)
    assert head not in everything


@pytest.mark.skipif(needs_exact_int8(), reason="this CPU has no fast int8")
def test_with_vnni_the_convolutions_are_integers_and_the_rest_is_float(model, golden, tmp_path):
    chosen = choose(model, golden, tmp_path)
    assert chosen.forms == {"image": "static", "text": "float", "audio": "float"}
    assert chosen.report.startswith("image static (float ")
    kinds = [node.op_type for node in chosen.model.graph.node]
    assert kinds.count("Conv") == 4
    logits = next(node for node in chosen.model.graph.node if "logits" in node.output)
    assert logits.op_type == "MatMul"
    assert logits.input[1] == "head"


def test_where_int8_is_slower_all_stays_in_float_and_the_reason_says_so(model, golden, tmp_path):
    """As without VNNI on some CPUs."""

    def slow_int8(model, form_of, ranges):
        onnx.save(to_int8(model, form_of, ranges), tmp_path / "small.onnx")
        return onnx.load(slowed(tmp_path / "small.onnx", tmp_path / "slow.onnx"))

    with pytest.raises(EngineError, match=r"no form of int8 is 5 % faster here .* image float \(float "):
        choose(model, golden, tmp_path, form=slow_int8)


@pytest.mark.skipif(needs_exact_int8(), reason="this CPU has no fast int8")
def test_what_does_not_pass_is_not_chosen(model, golden, tmp_path):
    with pytest.raises(EngineError, match="and passes"):
        choose(model, golden, tmp_path, passes=lambda _: False)


def test_a_modality_that_no_record_has_stays_in_float(model, golden, tmp_path, monkeypatch):
    monkeypatch.setenv(FEATURES_VARIABLE, "avx2")
    blind = golden | {"pixels": golden["pixels"][:0], "pixels_row": golden["pixels_row"][:0]}
    blind["present"] = golden["present"] & np.array([False, True, True])
    with pytest.raises(EngineError, match=r": text float \("):
        best_forms(model, lambda form_of: to_int8(model, form_of), [blind], 8, lambda _: 0.0, lambda _: True)
