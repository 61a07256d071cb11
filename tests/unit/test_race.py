"""The fastest variant is found by running them, once for each kind of machine."""

import json

import onnx
import pytest
from onnx import helper
from support.bundles import make_bundle, reseal, small_bundle
from support.racing import convolved, extended, slowed

from mmray.digests import sealed
from mmray.engine.cpu import FEATURES_VARIABLE, needs_exact_int8
from mmray.errors import BundleError
from mmray.race import Form, candidates, choose, is_quantized
from mmray.shapes import cpu_rows, job_ladder
from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.int8 import to_static_int8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("race")


@pytest.fixture(scope="module")
def slow(folder):
    """A bundle whose fp32 graph is slow."""
    return make_bundle(folder / "slow", graph=slowed(small_bundle().graph("fp32"), folder / "slow.onnx"))


def fastest(bundle, cache, **options):
    return choose(bundle, "auto", provider="cpu", cache=cache, **options).variant


def test_the_faster_variant_wins(folder, slow, tmp_path):
    bundle = extended(folder, slow, "both")
    assert fastest(bundle, tmp_path) == "quick"


def test_a_variant_that_failed_its_gate_does_not_take_part(folder, slow, tmp_path):
    bundle = extended(folder, slow, "failed", passed=False)
    assert fastest(bundle, tmp_path) == "fp32"


def test_a_variant_for_another_provider_does_not_take_part(folder, slow, tmp_path):
    bundle = extended(folder, slow, "foreign", provider="tensorrt")
    assert fastest(bundle, tmp_path) == "fp32"


def test_a_slower_variant_loses(folder, slow, tmp_path):
    bundle = extended(folder, small_bundle(), "slower", graph=slow.graph("fp32"))
    assert fastest(bundle, tmp_path) == "fp32"
    (race,) = (tmp_path / "races").iterdir()
    times = json.loads(race.read_text())["batch_ms"]
    assert times["fp32"] < times["quick"]


@pytest.fixture(scope="module")
def int8(folder):
    """A bundle with convolutions, and its static int8 form."""
    graph = convolved(small_bundle().graph("fp32"), folder / "convolved.onnx")
    parent = make_bundle(folder / "convolved", graph=graph)
    model = onnx.load(graph)
    onnx.save(
        to_static_int8(model, collect_ranges(model, [parent.golden()[0]])), folder / "convolved-int8.onnx"
    )
    return extended(folder, parent, "int8", graph=folder / "convolved-int8.onnx", precision="int8")


def test_each_kind_of_cpu_has_a_race_of_its_own_and_its_fastest_wins(int8, tmp_path, monkeypatch):
    """Whether int8 is faster without VNNI depends on the CPU, too."""
    won = set()
    for features in ("avx2", "avx512_vnni"):
        monkeypatch.setenv(FEATURES_VARIABLE, features)
        won.add(fastest(int8, tmp_path))
    races = [json.loads(race.read_text())["batch_ms"] for race in (tmp_path / "races").iterdir()]
    assert len(races) == 2
    assert won == {min(race, key=race.get) for race in races}


@pytest.mark.skipif(needs_exact_int8(), reason="this CPU has no fast int8")
def test_int8_wins_with_vnni(int8, tmp_path):
    assert fastest(int8, tmp_path) == "quick"


def test_the_race_is_over_a_full_batch_like_the_jobs(folder, slow, tmp_path):
    """Only one of the golden records has all modalities; it is there once for each record of a batch."""
    bundle = extended(folder, slow, "full")
    choice = choose(bundle, "auto", provider="cpu", cache=tmp_path)
    [race] = (tmp_path / "races").iterdir()
    found = json.loads(race.read_text())
    assert choice.rows_per_s == pytest.approx(
        cpu_rows(bundle.spec) * 1e3 / found["batch_ms"]["quick"], rel=0.01
    )


def test_a_variant_that_does_not_run_here_does_not_take_part(folder, slow, tmp_path):
    bundle = extended(folder, slow, "broken")
    bundle.graph("quick").write_bytes(b"no graph")
    assert fastest(reseal(bundle), tmp_path) == "fp32"


def test_a_variant_that_was_altered_is_refused_not_passed_over(folder, slow, tmp_path):
    bundle = extended(folder, slow, "altered")
    bundle.graph("quick").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"quick\.onnx: differs from its checksum"):
        fastest(bundle, tmp_path)


def test_a_race_is_run_once(folder, slow, tmp_path):
    bundle = extended(folder, slow, "once")
    assert fastest(bundle, tmp_path) == "quick"
    (race,) = (tmp_path / "races").iterdir()
    race.write_bytes(sealed({"variant": "fp32"}))
    assert fastest(bundle, tmp_path) == "fp32"
    assert fastest(bundle, tmp_path, threads=2) == "quick"


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"[]",
        sealed({"variant": "gone"}),
        b'{"variant": "fp32"}',
        b'{"sha256": "", "variant": "fp32"}',
        b"\xff",
    ],
)
def test_what_is_no_answer_is_run_anew(folder, slow, tmp_path, junk):
    bundle = extended(folder, slow, "junk")
    fastest(bundle, tmp_path)
    (race,) = (tmp_path / "races").iterdir()
    race.write_bytes(junk)
    assert fastest(bundle, tmp_path) == "quick"


def test_for_a_device_the_race_is_over_a_batch_of_the_job(folder, slow, tmp_path):
    """Its rate is that of the job's batches, and it is kept."""
    bundle = extended(folder, slow, "padded")
    ladder = job_ladder(bundle.spec, 16)
    first, again = (choose(bundle, "auto", provider="cpu", ladder=ladder, cache=tmp_path) for _ in range(2))
    assert first == again
    assert first.variant == "quick"
    [race] = (tmp_path / "races").iterdir()
    found = json.loads(race.read_text())
    assert first.rows_per_s == pytest.approx(16e3 / found["batch_ms"]["quick"], rel=0.01)
    assert choose(bundle, "auto", provider="cpu", cache=tmp_path).variant == "quick"
    assert len(list((tmp_path / "races").iterdir())) == 2


def test_on_a_gpu_each_variant_runs_in_two_layouts_also_where_it_was_asked_for(folder, slow):
    bundle = extended(folder, slow, "layouts")
    both = [Form("fp32"), Form("fp32", nhwc=True), Form("quick"), Form("quick", nhwc=True)]
    assert candidates(bundle, "auto", "cuda") == both
    assert candidates(bundle, "quick", "cuda") == both[2:]
    assert candidates(bundle, "auto", "cpu") == [both[0], both[2]]
    assert candidates(bundle, "quick", "cpu") == [both[2]]


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"])
def test_integer_graphs_take_no_part_on_a_gpu_and_on_openvino(folder, slow, tmp_path, operator):
    """On a GPU int8 is slower than float32, and OpenVINO answers otherwise than the judged graph."""
    graph = with_operator(slow.graph("fp32"), operator, tmp_path / "graph.onnx")
    assert is_quantized(graph)
    assert not is_quantized(with_operator(slow.graph("fp32"), "DequantizeLinear", tmp_path / "weights.onnx"))
    bundle = extended(folder, slow, operator)
    bundle.graph("quick").write_bytes(graph.read_bytes())
    bundle = reseal(bundle)
    for provider in ("cuda", "openvino"):
        assert {form.variant for form in candidates(bundle, "auto", provider)} == {"fp32"}
        assert {form.variant for form in candidates(bundle, "quick", provider)} == {"quick"}
    assert {form.variant for form in candidates(bundle, "auto", "cpu")} == {"fp32", "quick"}


def test_a_variant_that_says_it_is_int8_takes_no_part_on_a_gpu_either(folder, slow):
    bundle = extended(folder, slow, "said", precision="int8")
    assert {form.variant for form in candidates(bundle, "auto", "cuda")} == {"fp32"}
    assert {form.variant for form in candidates(bundle, "auto", "cpu")} == {"fp32", "quick"}


def test_on_a_gpu_the_usual_variant_takes_part_even_with_integers_in_it(folder, tmp_path):
    """An imported model may hold some: there is nothing else to fall back to."""
    graph = with_operator(small_bundle().graph("fp32"), "QuantizeLinear", tmp_path / "graph.onnx")
    bundle = make_bundle(folder / "integers", graph=graph)
    assert {form.variant for form in candidates(bundle, "auto", "cuda")} == {"fp32"}


def with_operator(graph, operator, path):
    """The graph with one more node, which nobody uses."""
    model = onnx.load(graph)
    inputs = ["missing"] * (1 if operator.startswith("Dynamic") else 2)
    model.graph.node.append(helper.make_node(operator, inputs, ["unused"]))
    onnx.save(model, path)
    return path
