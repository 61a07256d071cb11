"""The type of this machine's device: measurements and compiled files are valid for all devices of a type."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import onnxruntime as ort

from mmray.engine.cpu import cpu_features
from mmray.engine.providers import ON_CPU


def device_type(provider: str) -> str:
    """Model and features of a provider's device, as far as known."""
    return _cpu_type() if provider in ON_CPU else f"{_gpu_types()} {_cpu_type()}"


def device_name(provider: str) -> str:
    """Readable name of a provider's device, as in "cuda 1 of node-7"."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES") if provider in ("cuda", "tensorrt") else None
    return f"{provider}{f' {gpu}' if gpu else ''} of {platform.node()}"


def engine_version() -> str:
    """Version of ONNX Runtime."""
    return str(ort.__version__)


def _cpu_type() -> str:
    """Architecture, model and features: the fastest variant may depend on each of them."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().split("\n\n")[0].splitlines() if info.exists() else [platform.processor()]
    models = [line.partition(":")[2].strip() for line in first if line.startswith(("model name", "CPU part"))]
    return " ".join([platform.machine(), *(models or first[:1]), *sorted(cpu_features())])


def _gpu_types() -> str:
    """Models of the NVIDIA GPUs, from their driver."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in file.read_text().splitlines() if line.startswith("Model")]
    return ", ".join(line.partition(":")[2].strip() for line in lines) or "GPU of unknown model"
