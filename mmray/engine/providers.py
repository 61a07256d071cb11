"""ONNX Runtime's providers: our names for them, and their options.

CPU, CUDA and OpenVINO on a CPU have been tested (docs/gpu.md, docs/variants.md). TensorRT is set up according
to the documentation of ONNX Runtime 1.31; `jobs/prove_gpu.py` tests it on a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

Provider = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]

ORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

#: Providers that compute on the CPU, for which batches may have any shape.
ON_CPU = ("cpu", "openvino")

# How to get a provider that this build of ONNX Runtime lacks.
_REMEDIES = {
    "openvino": "in an environment of its own, uninstall onnxruntime and onnxruntime-gpu, then "
    "run pip install onnxruntime-openvino onnx; or choose provider=cpu",
}

_CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",  # grow by the needed size, not by doubling
    "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE searches longer, without a gain on an H200
    # Float32 products in TensorFloat-32: 1.4 times the speed on an H200, scores within 2e-4, decisions equal.
    # The golden outputs must be within their tolerance with it.
    "use_tf32": "1",
}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Setup:
    """Options of a provider."""

    cache: Path | None = None  # directory for compiled engines, kept from one process to the next
    profiles: tuple[Mapping[str, tuple[Shape, Shape]], ...] = ()  # (least, largest) shape by input
    precision: str = "fp32"  # of the graph: TensorRT may use float16 kernels only if it was judged so
    nhwc: bool = False  # whether convolutions run channels-last on CUDA: faster for some graphs (mmray.race)
    record_placement: bool = False  # whether `Engine.placement` can report the provider of each node
    trace: Path | None = None  # prefix of a file in which ONNX Runtime writes the time of each node


def provider_chain(provider: str, setup: Setup, threads: int = 1) -> list[Any]:
    """Providers for a session, the wanted one first; unsupported operators run on the following ones."""
    cuda = (ORT_NAMES["cuda"], _CUDA_OPTIONS | {"prefer_nhwc": str(int(setup.nhwc))})
    cpu = ORT_NAMES["cpu"]
    if provider == "cuda":
        return [cuda, cpu]
    if provider == "tensorrt":
        return [(ORT_NAMES["tensorrt"], tensorrt_options(setup)), cuda, cpu]
    if provider == "openvino":
        return [(ORT_NAMES["openvino"], openvino_options(threads)), cpu]
    return [cpu]


def openvino_options(threads: int) -> dict[str, str]:
    """Options of the OpenVINO provider.

    It does not read the session's number of threads. Float32 is stated, because OpenVINO by itself prefers
    bfloat16 on a CPU that has it, and no variant was judged so. Compiled models are not cached: the stamps
    loaded no faster from there, and each process needs a copy as large as the weights.
    """
    return {"device_type": "CPU", "num_of_threads": str(threads), "precision": "FP32"}


def tensorrt_options(setup: Setup) -> dict[str, str]:
    """Options of the TensorRT provider.

    Without profiles TensorRT builds a new engine for each new shape (onnxruntime#12120). With them it builds
    one for all shapes and keeps it in the cache, under a name with its version and the type of GPU.
    """
    options = {
        "trt_fp16_enable": "1" if setup.precision in ("fp16", "int8") else "0",
        "trt_int8_enable": "1" if setup.precision == "int8" else "0",
    }
    if setup.cache:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(setup.cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(setup.cache),
        }
    if setup.profiles:
        least = [(name, shapes[0]) for profile in setup.profiles for name, shapes in profile.items()]
        largest = [(name, shapes[1]) for profile in setup.profiles for name, shapes in profile.items()]
        options["trt_profile_min_shapes"] = _to_text(least)
        options["trt_profile_opt_shapes"] = options["trt_profile_max_shapes"] = _to_text(largest)
    return options


def _to_text(shapes: list[tuple[str, Shape]]) -> str:
    """In the provider's syntax: "pixels:1x224x224x3,present:1x3"; a repeated name begins the next profile."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes)


def available_providers() -> Mapping[str, bool]:
    """The providers of this installation of ONNX Runtime, by our names."""
    built = ort.get_available_providers()
    return {ours: theirs in built for ours, theirs in ORT_NAMES.items()}


def remedy(provider: str) -> str:
    """What to do where this installation of ONNX Runtime lacks a provider."""
    return _REMEDIES.get(provider, "run `mmray doctor`, or choose provider=cpu")


def best_provider() -> Provider:
    """CUDA if the wheel has it and the machine has a device; other providers must be requested."""
    has_device = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()
    return "cuda" if has_device and available_providers()["cuda"] else "cpu"
