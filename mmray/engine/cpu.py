"""Features of this machine's CPU, and the int8 kernels that ONNX Runtime may use on it.

Without VNNI, x86-64 multiplies uint8 by int8 with `vpmaddubsw`, whose 16-bit sums saturate: scores are wrong.
`session.x64quantprecision` avoids it with uint8 weights, which is exact. On a CPU that has VNNI it would make
int8 slower than float32 (stamps: 2.7 times int8's time, docs/variants.md).
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

#: If set, these names (as in /proc/cpuinfo, separated by spaces) are used as the CPU's features, to measure
#: or prepare graphs for a CPU with fewer features. The instructions that run are still this machine's.
FEATURES_VARIABLE = "MMRAY_CPU_FEATURES"

#: Disabled optimizers of ONNX Runtime. This one (1.31) gives the float weights of a convolution between
#: DequantizeLinear and QuantizeLinear one int8 scale for all channels, and scores become wrong. A graph that
#: needs int8 weights has them already.
LEFT_OUT = ["WeightBiasQuantization"]

_AVX512_CORE = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def cpu_features() -> frozenset[str]:
    """Names of the CPU's features, as in the Linux kernel; empty if unknown."""
    forced = os.environ.get(FEATURES_VARIABLE)
    return _features() if forced is None else frozenset(forced.split())


def needs_exact_int8() -> bool:
    """Whether int8 would saturate here: on x86-64 without VNNI, or if unknown.

    MLAS chooses (onnxruntime/core/mlas/lib/platform.cpp): a CPU with AVX-512 core uses those kernels, and
    then only avx512_vnni helps; others use avx_vnni. AMX comes with avx512_vnni, and has no convolutions in
    MLAS.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    features = cpu_features()
    return ("avx512_vnni" if features >= _AVX512_CORE else "avx_vnni") not in features


def kernel_options() -> dict[str, str]:
    """Session options of ONNX Runtime that depend on the CPU."""
    return {"session.x64quantprecision": "1"} if needs_exact_int8() else {}


@cache
def _features() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    return frozenset(
        feature
        for line in lines
        if line.startswith(("flags", "Features"))
        for feature in line.partition(":")[2].split()
    )
