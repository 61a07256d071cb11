"""What this machine's CPU can do, and which int8 kernels ONNX Runtime may therefore use.

Without VNNI, x86-64 multiplies uint8 by int8 with `vpmaddubsw`, whose 16-bit sums saturate: scores come out
wrong. `session.x64quantprecision` avoids it with uint8 weights, which is exact. On a CPU that has VNNI it
would make int8 slower than float32 (stamps: 2.7 times int8's time, docs/variants.md).
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

#: Where set, these names are taken for the CPU's features (as /proc/cpuinfo has them, with spaces between):
#: to time or prepare on this machine what another, lesser one will run. The instructions stay this machine's.
FEATURES_VARIABLE = "MMRAY_CPU_FEATURES"

#: Optimizers of ONNX Runtime that no graph is run with. This one (1.31) gives the float weights of a
#: convolution between DequantizeLinear and QuantizeLinear one int8 scale for all channels, and scores go
#: wrong. Where a graph wants int8 weights, it has them.
LEFT_OUT = ["WeightBiasQuantization"]

_AVX512_CORE = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def cpu_features() -> frozenset[str]:
    """Names of what the CPU can do, as the kernel calls them; empty where that is not known."""
    forced = os.environ.get(FEATURES_VARIABLE)
    return _features() if forced is None else frozenset(forced.split())


def needs_exact_int8() -> bool:
    """Whether int8 would saturate here: on x86-64 without VNNI, or where nobody knows.

    As MLAS chooses (onnxruntime/core/mlas/lib/platform.cpp): a CPU with AVX-512's core takes those kernels,
    and then only avx512_vnni counts; any other takes avx_vnni. AMX comes with avx512_vnni, and has no
    convolutions in MLAS.
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
