"""A student and the early model as graphs: equal to torch on any batch, and int8 where int8 is faster."""

import onnx
import pytest
import torch
from support.packed import SIZES, SPEC, VOCABULARY, feeds

from mmray.graphs import check_parity, export_graph
from mmray.models.early import EarlyFusion, EarlySizes
from mmray.models.efficientnet_lite import EfficientNetLite
from mmray.models.fused import FusedModel
from mmray.models.fusion import GatedFusion
from mmray.models.small_sound import SmallSound
from mmray.models.small_text import SmallText
from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.int8 import to_static_int8
from mmray.variants.quantize.targets import sites


def student():
    encoders = {
        "image": EfficientNetLite(width=0.25, depth=0.3, features=8),
        "text": SmallText(VOCABULARY, dim=12),
        "audio": SmallSound(dim=16),
    }
    model = FusedModel(encoders, GatedFusion([e.dim for e in encoders.values()], classes=4, width=16))
    model.eval()
    encoders["image"].fold_norms()
    encoders["audio"].fold_norms()
    return model


def early():
    return EarlyFusion(SPEC, 4, VOCABULARY, EarlySizes(hidden=16, layers=1, heads=2, intermediate=32))


@pytest.fixture(
    scope="module", params=[student, pytest.param(early, marks=pytest.mark.long)], ids=["student", "early"]
)
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    model, path = request.param().requires_grad_(False), tmp_path_factory.mktemp("graphs") / "model.onnx"
    export_graph(model, SPEC, path)
    return model, path


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_any_sizes_give_what_torch_gives(exported, sizes):
    model, path = exported
    assert check_parity(model, path, {"sizes": feeds(**sizes)}) < 1e-5


def test_every_product_with_weights_becomes_int8(exported):
    """Convolutions and linear layers all: no norm stands behind one, and no Pad before one with a stride."""
    model = onnx.load(exported[1])
    found = [site.node.output[0] for site in sites(model.graph)]
    linear = [m for m in exported[0].modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(found) == len(linear)
    small = to_static_int8(model, collect_ranges(model, [feeds(9, 9, 9, 16, 20)], "minmax"))
    weights = {i.name for i in small.graph.initializer if i.data_type == onnx.TensorProto.INT8}
    assert len(weights) >= len(found)
    assert "BatchNormalization" not in {node.op_type for node in small.graph.node}
