"""The audio encoder: equal to the published ONNX graph that its weights come from."""

import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mmray.models.encoders import yamnet_convolutions
from mmray.models.pretrained import YAMNET
from mmray.models.yamnet import YAMNet


@torch.no_grad()
def test_gives_what_the_published_graph_gives(weights, tmp_path):
    """The graph's last layer turns its features into class scores; the features are the input of that."""
    archive = weights(YAMNET)
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(tmp_path)
    path = next(tmp_path.rglob("*.onnx"))
    graph = onnx.load(path).graph
    classifier = next(node for node in graph.node if node.op_type == "Gemm")
    tensors = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    weight, bias = (tensors[name] for name in classifier.input[1:])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    model = YAMNet().eval()
    model.load_convolutions(yamnet_convolutions(archive))
    # Log-mel values of real sounds lie between log(0.001) = -6.9 and about 4.
    patches = torch.from_numpy(np.random.default_rng(0).uniform(-6.9, 4, (3, 96, 64)).astype(np.float32))
    scores = model(patches).numpy() @ weight.T + bias
    expected = np.concatenate(
        [session.run(None, {"audio": patch[None, None].numpy()})[0] for patch in patches]
    )
    assert model.dim == 1024
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_float16_frames_count_as_floats():
    torch.manual_seed(0)
    model = YAMNet(width=0.125, layers=3).eval()
    patches = torch.randn(2, 96, 64).to(torch.float16)
    assert torch.equal(model(patches), model(patches.float()))


@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_weights_that_do_not_fit_are_refused(damage):
    model = YAMNet(width=0.125, layers=2)
    convolutions = [(m.weight, m.bias) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    if damage == "missing":
        convolutions.pop()
    else:
        convolutions[2] = (torch.zeros(1, 1, 1, 1), convolutions[2][1])
    with pytest.raises(ValueError, match="the checkpoint"):
        model.load_convolutions(convolutions)
