"""The engine runs the graph that it was given on the provider that was asked for, or says why not."""

from pathlib import Path

import numpy as np
import pytest
from support.bundles import GOLDEN_ROWS, SPEC, records_table, small_bundle, small_tokenizer
from support.graphs import run_by_hand, write_graph

from mmray.batching import pack, padded
from mmray.engine import Engine, available_providers
from mmray.errors import EngineError
from mmray.preprocess import Preprocessor

HAS_NVIDIA = Path("/proc/driver/nvidia/version").exists()


@pytest.fixture(scope="module")
def engine():
    return Engine(small_bundle().graph("fp32"), provider="cpu")


@pytest.fixture(scope="module")
def tensors():
    return Preprocessor(SPEC, small_tokenizer())(records_table(GOLDEN_ROWS))


def test_outputs_are_those_of_the_graph_by_name(engine, tensors):
    feeds = pack(tensors, SPEC)
    outputs = engine(feeds)
    expected = run_by_hand(feeds)
    assert set(outputs) == set(engine.outputs) == {"logits", "scores", "features"}
    for name, array in outputs.items():
        assert array.dtype == np.float32
        assert np.abs(array - expected[name]).max() < 1e-5


@pytest.mark.parametrize("row", range(len(GOLDEN_ROWS)))
def test_a_modality_may_have_no_rows_at_all(engine, tensors, row):
    together = engine(pack(tensors, SPEC))["scores"][row]
    alone = engine(pack(tensors.slice(row, 1), SPEC))["scores"][0]
    assert np.abs(together - alone).max() < 1e-6


def test_padding_counts_for_nothing(engine, tensors):
    for row in range(len(GOLDEN_ROWS)):
        alone = tensors.slice(row, 1)
        plain, filled = engine(pack(alone, SPEC)), engine(padded(alone, SPEC))
        assert np.abs(plain["scores"][0] - filled["scores"][0]).max() < 1e-6


def test_more_threads_give_the_same(tensors):
    feeds = pack(tensors, SPEC)
    one, two = (Engine(small_bundle().graph("fp32"), provider="cpu", threads=n)(feeds) for n in (1, 2))
    assert all(np.abs(one[name] - two[name]).max() < 1e-6 for name in one)


def test_a_missing_graph_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"nowhere\.onnx: ONNX Runtime cannot load it on cpu"):
        Engine(tmp_path / "nowhere.onnx", provider="cpu")


@pytest.mark.parametrize(
    "spoil", [lambda _: b"", lambda _: b"not a graph", lambda data: data[: len(data) // 2]]
)
def test_a_damaged_graph_is_named(tmp_path, spoil):
    path = write_graph(tmp_path / "g.onnx")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(EngineError, match=r"g\.onnx"):
        Engine(path, provider="cpu")


@pytest.mark.skipif(HAS_NVIDIA, reason="this machine has the device that the test must lack")
def test_cuda_without_a_device_is_an_error_and_no_silent_fallback():
    """ONNX Runtime itself would run on the CPU and only log it."""
    with pytest.raises(EngineError, match=r"cuda|CUDA") as e:
        Engine(small_bundle().graph("fp32"), provider="cuda")
    assert "provider=cpu" in str(e.value) or "cannot load" in str(e.value)


@pytest.mark.skipif(HAS_NVIDIA, reason="this machine has the device that the test must lack")
def test_auto_takes_the_cpu_where_there_is_no_device():
    engine = Engine(small_bundle().graph("fp32"))
    assert engine.provider == "cpu"
    assert not engine.wants_padding


@pytest.mark.skipif(not HAS_NVIDIA, reason="needs an NVIDIA device")
def test_auto_takes_the_device_where_there_is_one(tensors):
    engine = Engine(small_bundle().graph("fp32"))
    assert engine.provider == "cuda"
    assert engine.wants_padding
    feeds = padded(tensors, SPEC)
    expected = run_by_hand(pack(tensors, SPEC))["scores"]
    assert np.abs(engine(feeds)["scores"][:-1] - expected).max() < 1e-3


@pytest.mark.skipif(available_providers()["openvino"], reason="this build has what the test must lack")
def test_a_build_without_openvino_says_which_to_install():
    with pytest.raises(EngineError, match="pip install onnxruntime-openvino onnx"):
        Engine(small_bundle().graph("fp32"), provider="openvino")


@pytest.mark.skipif(not available_providers()["openvino"], reason="needs onnxruntime-openvino")
def test_openvino_gives_what_the_cpu_gives_for_batches_of_any_shape(engine, tensors):
    found = Engine(small_bundle().graph("fp32"), provider="openvino")
    assert not found.wants_padding
    for rows in (tensors, *(tensors.slice(row, 1) for row in range(len(GOLDEN_ROWS)))):
        feeds = pack(rows, SPEC)
        assert np.abs(engine(feeds)["scores"] - found(feeds)["scores"]).max() < 1e-6


def test_the_cpu_is_always_available():
    assert available_providers()["cpu"]
