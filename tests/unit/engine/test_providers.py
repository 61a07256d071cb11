"""How each provider is set up, as ONNX Runtime reads it."""

import pytest
from support.bundles import SPEC

from mmray.batching import blank
from mmray.engine import Setup, available_providers
from mmray.engine.providers import openvino_options, provider_chain, tensorrt_options
from mmray.loading import shape_profiles
from mmray.shapes import job_ladder, server_ladder


@pytest.mark.parametrize("provider", available_providers())
def test_what_a_provider_lacks_runs_on_the_cpu(provider):
    chain = provider_chain(provider, Setup())
    assert chain[-1] == "CPUExecutionProvider"
    assert provider.lower() in str(chain[0]).lower()


def test_tensorrt_is_given_every_step_of_the_ladder_as_a_profile():
    ladder = job_ladder(SPEC, 4)
    profiles = list(shape_profiles(ladder))
    options = tensorrt_options(Setup(profiles=tuple(profiles)))
    least = options["trt_profile_min_shapes"].split(",")
    largest = options["trt_profile_max_shapes"].split(",")
    assert len(least) == len(largest) == sum(map(len, profiles))
    for name, text in (("pixels", "1x16x16x3"), ("present", "5x3")):
        assert f"{name}:{text}" in least
    steps = [int(shape.rpartition("x")[2]) for shape in largest if shape.startswith("input_ids:")]
    assert steps == list(ladder.tokens)
    assert all(shape.startswith("input_ids:4x") for shape in largest if shape.startswith("input_ids:"))


@pytest.mark.parametrize("ladder", [job_ladder(SPEC, 8), server_ladder(SPEC, 16)], ids=["job", "server"])
def test_profiles_hold_every_shape_of_the_ladder(ladder):
    """An engine that is compiled for them meets no shape that it does not know."""
    profiles = list(shape_profiles(ladder))
    for shape in ladder.shapes(SPEC.modalities):
        feeds = blank(SPEC, shape)
        assert any(
            set(feeds) == set(profile) and all(fits(feeds[name].shape, *profile[name]) for name in feeds)
            for profile in profiles
        )


def fits(shape, least, largest):
    return all(low <= size <= high for low, size, high in zip(least, shape, largest, strict=True))


def test_layout_and_precision_on_cuda_are_said():
    [(_, plain), _] = provider_chain("cuda", Setup())
    [(_, nhwc), _] = provider_chain("cuda", Setup(nhwc=True))
    assert (plain["prefer_nhwc"], nhwc["prefer_nhwc"], plain["use_tf32"]) == ("0", "1", "1")


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"), [("fp32", "0", "0"), ("fp16", "1", "0"), ("int8", "1", "1")]
)
def test_tensorrt_is_as_precise_as_the_graph_was_judged(precision, fp16, int8):
    options = tensorrt_options(Setup(precision=precision))
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)


def test_compiled_engines_are_kept_where_the_cache_is(tmp_path):
    options = tensorrt_options(Setup(cache=tmp_path))
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)
    assert "trt_engine_cache_enable" not in tensorrt_options(Setup())


def test_openvino_computes_in_float32_with_the_threads_of_the_caller():
    """It does not read the session's number, and by itself it prefers bfloat16 where the CPU has it."""
    [(name, options), _] = provider_chain("openvino", Setup(precision="fp16"), threads=3)
    assert name == "OpenVINOExecutionProvider"
    assert options == openvino_options(3)
    assert (options["num_of_threads"], options["precision"]) == ("3", "FP32")
