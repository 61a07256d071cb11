"""Calibration: ranges are those of the real activations, whatever the batches, and cost no memory."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from support.parsed import parse
from support.scripts import ROOT

from mmray.errors import EngineError
from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.histogram import TAIL, Histogram

METHODS = ("minmax", "percentile", "entropy")

LAYERS = """
layers (float[N,3,6,6] x, float[M,4] other) => (float[N,5] y, float[M,2] z)
{
  convolved = Conv <pads = [1, 1, 1, 1]> (x, kernel, bias)
  positive = Relu (convolved)
  mean = ReduceMean <keepdims = 0> (positive, axes)
  y = MatMul (mean, weight)
  z = Gemm <transB = 1> (other, linear, linear_bias)
}
"""


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def layers():
    return parse(
        LAYERS,
        kernel=random(4, 3, 3, 3),
        bias=random(4),
        axes=np.array([2, 3]),
        weight=random(4, 5),
        linear=random(2, 4),
        linear_bias=random(2),
    )


def batch(rows, seed=1, others=None):
    return {"x": random(rows, 3, 6, 6, seed=seed), "other": random(others or rows, 4, seed=seed + 100)}


def activations(model, feeds):
    """Values of every tensor of the graph, by ONNX's own slow and plain evaluator."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, ReferenceEvaluator(probe).run(None, feeds), strict=True)) | feeds


def test_ranges_are_the_extremes_over_all_records(layers):
    feeds = [batch(5, seed) for seed in range(4)]
    values = [activations(layers, given) for given in feeds]
    ranges = collect_ranges(layers, feeds, "minmax")
    assert set(ranges) == {"x", "positive", "mean", "other"}
    for name, (low, high) in ranges.items():
        every = np.concatenate([value[name].reshape(-1) for value in values])
        np.testing.assert_allclose([low, high], [min(every.min(), 0), max(every.max(), 0)], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_do_not_depend_on_batches_or_order(layers, method):
    feeds = [batch(4, seed) for seed in range(6)]
    joined = {name: np.concatenate([given[name] for given in reversed(feeds)]) for name in feeds[0]}
    apart, together = collect_ranges(layers, feeds, method), collect_ranges(layers, [joined], method)
    assert apart.keys() == together.keys()
    for name, ends in apart.items():
        np.testing.assert_allclose(ends, together[name], rtol=1e-6)  # kernels add up in another order


def test_a_batch_without_a_modality_counts_for_the_others(layers):
    with_all = [batch(4), batch(4, 2)]
    halves = [{**given, "x": given["x"][:0]} for given in with_all] + [
        {**given, "other": given["other"][:0]} for given in with_all
    ]
    apart, together = (collect_ranges(layers, feeds, "minmax") for feeds in (halves, with_all))
    assert apart.keys() == together.keys()
    for name, ends in apart.items():
        np.testing.assert_allclose(ends, together[name], rtol=1e-6)


def test_a_modality_that_no_record_has_gets_no_range(layers):
    only = {**batch(4), "other": np.zeros((0, 4), np.float32)}
    assert set(collect_ranges(layers, [only])) == {"x", "positive", "mean"}


def test_without_records_there_is_nothing_to_calibrate(layers):
    with pytest.raises(EngineError, match="no records"):
        collect_ranges(layers, [])


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_an_activation_that_is_not_finite_is_named(layers, poison):
    spoilt = batch(4)
    spoilt["other"][1, 1] = poison
    with pytest.raises(EngineError, match="not finite in other"):
        collect_ranges(layers, [batch(4), spoilt])


def test_attention_is_no_site(bundle):
    """Of a transformer's products only those with a constant weight get ranges."""
    model = onnx.load(bundle.graph("fp32"))
    constants = {i.name for i in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type == "MatMul" and not constants & set(n.input)]
    ranges = collect_ranges(model, [bundle.golden()[0]])
    assert products
    weighted = {n.input[0] for n in model.graph.node if n.op_type == "MatMul" and constants & set(n.input)}
    assert weighted <= set(ranges)
    assert not {name for node in products for name in node.input} & set(ranges)


def histogram(*parts):
    found = Histogram()
    for values in parts:
        array = np.asarray(values, np.float32)
        found.add(float(array.min()), float(array.max()), array)
    return found


def test_minmax_gives_up_nothing_and_percentile_the_tails():
    values = random(100_000)
    values[:3] = 1000, -500, 900  # fewer than the tail
    found = histogram(values)
    assert found.range("minmax") == (-500, 1000)
    low, high = found.range("percentile")
    bin_width = 1024 / 4096
    assert -4.5 - bin_width < low < np.quantile(values, TAIL) <= 0
    assert 0 <= np.quantile(values, 1 - TAIL) < high < 4.5 + bin_width


def test_entropy_spends_its_levels_where_the_values_are():
    """A long, thin tail is given up; an even distribution is kept whole."""
    tailed = np.concatenate([np.abs(random(100_000)), np.linspace(20, 100, 50, dtype=np.float32)])
    low, high = histogram(tailed).range("entropy")
    assert low == 0
    assert 3 < high < 30
    even = np.linspace(-1, 1, 100_000)
    assert histogram(even).range("entropy")[1] > 0.9


def test_entropy_is_not_blinded_by_the_zeros_of_relu():
    values = np.maximum(random(100_000), 0)
    assert histogram(values).range("entropy")[1] > 2


def test_a_rare_activation_is_zero_throughout():
    for method in METHODS:
        assert histogram(np.zeros(10)).range(method) == (0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_bins_hold_any_finite_value(method):
    """From denormal to nearly infinite, in any order, and the range never exceeds what was there."""
    parts = [[1e-40], [1e-3, -2e-3], [3e38], [-5.0, 7.0]]
    ranges = [histogram(*order).range(method) for order in (parts, parts[::-1])]
    assert ranges[0] == ranges[1]
    low, high = ranges[0]
    assert -5 <= low <= 0 <= high <= 3.01e38


def test_memory_grows_neither_with_depth_nor_with_records():
    """64 activations of 8 MB each are 512 MB a batch; a process that kept even one batch's would show it."""
    script = """
import sys
import numpy as np
from support.parsed import parse
from mmray.variants.quantize.calibrate import collect_ranges

steps = "\\n".join(f"x{i + 1} = Conv (x{i}, kernel)" for i in range(64))
model = parse("deep (float[N,8,256,256] x0) => (float[N,8,256,256] x64) {" + steps + "}",
              kernel=np.eye(8, dtype=np.float32)[:, :, None, None])
ones = np.ones((4, 8, 256, 256), np.float32)

def peak_mb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10

before = peak_mb()
ranges = collect_ranges(model, ({"x0": ones} for _ in range(4)))
assert len(ranges) == 65, len(ranges)
print(peak_mb() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200
