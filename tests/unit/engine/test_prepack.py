"""A prepacked graph gives what the graph gives, is made once, and is shared."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from support.bundles import GOLDEN_ROWS, SPEC, records_table, small_bundle, small_tokenizer
from support.graphs import write_graph

from mmray.batching import pack
from mmray.engine import Engine, shared_graph
from mmray.engine.cpu import FEATURES_VARIABLE
from mmray.preprocess import Preprocessor

GRAPH = small_bundle().graph("fp32")


def test_a_prepacked_graph_gives_what_the_graph_gives(tmp_path):
    feeds = pack(Preprocessor(SPEC, small_tokenizer())(records_table(GOLDEN_ROWS)), SPEC)
    plain = Engine(GRAPH, provider="cpu")(feeds)
    prepacked = Engine(shared_graph([GRAPH], tmp_path), provider="cpu", prepacked=True)(feeds)
    assert all(np.abs(plain[name] - prepacked[name]).max() < 1e-6 for name in plain)


LOADED = """
import sys
from pathlib import Path
import numpy as np
from mmray.engine import Engine, shared_graph

graph, cache = map(Path, sys.argv[1:])
feeds = {"x": np.linspace(-1, 1, 7 * 256, dtype=np.float32).reshape(7, 256)}
shared = Engine(shared_graph([graph], cache), provider="cpu", prepacked=True)(feeds)
plain = Engine(graph, provider="cpu")(feeds)
assert all(np.abs(shared[name] - plain[name]).max() < 1e-4 for name in plain)
"""


def test_a_weight_of_an_odd_size_before_a_product_ends_no_process(tmp_path):
    """Kernels read packed weights from the mapped file as if they were aligned."""
    graph = tmp_path / "odd.onnx"
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N,256] x) => (float[N,5001] z, float[N,67] y) '
        "{ s = ReduceSum <keepdims = 1> (x, last)  z = Add (s, odd)  y = Gemm <transB = 1> (x, w) }"
    )
    random = np.random.default_rng(0)
    for name, shape in (("odd", (5001,)), ("w", (67, 256))):
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "last"))
    onnx.save(model, graph)
    command = [sys.executable, "-c", LOADED, str(graph), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-300:]


def test_it_is_made_once_even_if_many_ask_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        places = set(pool.map(lambda _: shared_graph([GRAPH], tmp_path), range(4)))
    (place,) = places
    made = place.stat().st_mtime_ns
    assert shared_graph([GRAPH], tmp_path) == place
    assert place.stat().st_mtime_ns == made


def test_processes_do_not_disturb_each_other(tmp_path):
    arguments = f"[Path({str(GRAPH)!r})], Path({str(tmp_path)!r})"
    script = f"from pathlib import Path; from mmray.engine import shared_graph; shared_graph({arguments})"
    both = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    Engine(shared_graph([GRAPH], tmp_path), provider="cpu", prepacked=True)


def test_another_graph_has_another_place(tmp_path):
    other = shared_graph([write_graph(tmp_path / "other.onnx", scale=2.0)], tmp_path)
    assert other != shared_graph([GRAPH], tmp_path)


def test_a_cpu_with_other_features_has_another_place(tmp_path, monkeypatch):
    """What they change is saved with the graph, and machines may share the folder."""
    own = shared_graph([GRAPH], tmp_path)
    monkeypatch.setenv(FEATURES_VARIABLE, "sse4_1")
    assert shared_graph([GRAPH], tmp_path) != own


def test_one_that_broke_off_while_it_was_made_is_made_anew(tmp_path):
    place = shared_graph([GRAPH], tmp_path)
    place.unlink()
    assert shared_graph([GRAPH], tmp_path).exists()
    Engine(place, provider="cpu", prepacked=True)


@pytest.mark.parametrize("name", ["graph.onnx", "sha256.json"])
def test_one_that_was_damaged_is_made_anew(tmp_path, name):
    """One flipped bit: a wrong weight would go unseen."""
    place = shared_graph([GRAPH], tmp_path)
    whole = (place.parent / name).read_bytes()
    flip(place.parent / name)
    assert shared_graph([GRAPH], tmp_path) == place
    assert (place.parent / name).read_bytes() == whole


def test_a_graph_is_known_by_its_bytes_not_by_its_name(tmp_path):
    """A damaged graph must not leave its weights to the next one of the same name."""
    graph = write_graph(tmp_path / "graph.onnx")
    sound = shared_graph([graph], tmp_path)
    write_graph(graph, scale=2.0)
    assert shared_graph([graph], tmp_path) != sound


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path):
    yield
    assert not list(tmp_path.glob("**/.tmp-*"))


@pytest.mark.parametrize("prepacked", [False, True])
def test_float_weights_between_integers_stay_in_float(tmp_path, prepacked):
    """ONNX Runtime would round them by one scale for all channels, and the smaller ones would be gone."""
    graph = tmp_path / "mixed.onnx"
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (uint8[N,4,8,8] x) => (uint8[N,4,6,6] y) '
        "{ f = DequantizeLinear (x, step, zero)  c = Conv <group = 4> (f, w) "
        "  y = QuantizeLinear (c, fine, zero) }"
    )
    scales = np.array([1, 0.014, 0.011, 0.003], np.float32)
    weights = np.full((4, 1, 3, 3), 1 / 9, np.float32) * scales[:, None, None, None]
    steps = {"step": np.float32(1), "fine": np.float32(0.1), "zero": np.uint8(0)}
    for name, array in (*steps.items(), ("w", weights)):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    bright = np.full((1, 4, 8, 8), 200, np.uint8)
    onnx.save(model, graph)
    path = shared_graph([graph], tmp_path / "cache") if prepacked else graph
    found = Engine(path, provider="cpu", prepacked=prepacked)({"x": bright})["y"]
    np.testing.assert_array_equal(found[0, :, 0, 0], [255, 28, 22, 6])
