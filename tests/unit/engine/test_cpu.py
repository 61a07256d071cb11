"""int8 is exact on every CPU, and fast where the CPU has the instructions for it."""

import platform

import pytest

from mmray.engine.cpu import FEATURES_VARIABLE, cpu_features, kernel_options, needs_exact_int8
from mmray.engine.device import device_type

IS_X64 = platform.machine() in ("x86_64", "AMD64")
AVX512 = "avx2 avx512f avx512bw avx512dq avx512vl"


@pytest.mark.parametrize(
    ("features", "saturates"),
    [
        ("", True),  # nobody knows
        ("sse4_1", True),
        ("avx2 fma", True),
        ("avx2 avx_vnni", False),
        (AVX512, True),
        (f"{AVX512} avx512_vnni", False),
        (f"{AVX512} avx512_vnni amx_int8 amx_tile", False),
        # ONNX Runtime takes its AVX-512 kernels there, and those have no use for the other VNNI.
        (f"{AVX512} avx_vnni", True),
    ],
)
@pytest.mark.skipif(not IS_X64, reason="only x86-64 has the instruction that saturates")
def test_the_exact_kernels_are_taken_where_int8_would_saturate(monkeypatch, features, saturates):
    monkeypatch.setenv(FEATURES_VARIABLE, features)
    assert needs_exact_int8() is saturates
    assert kernel_options() == ({"session.x64quantprecision": "1"} if saturates else {})


@pytest.mark.skipif(IS_X64, reason="of other architectures")
def test_other_architectures_do_not_saturate():
    assert not needs_exact_int8()


def test_what_is_measured_on_a_cpu_is_kept_under_its_features(monkeypatch):
    """So a cache that machines share has the race and the prepacked graph of each kind of CPU."""
    own = device_type("cpu")
    assert all(feature in own for feature in cpu_features())
    monkeypatch.setenv(FEATURES_VARIABLE, "avx2")
    assert device_type("cpu") != own
    assert "avx2" in device_type("cuda")
