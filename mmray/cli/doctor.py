"""`mmray doctor`: what this machine has, and what would go wrong on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mmray.cli.display import console, print_json

_DISK_GB = 5.0
_SIGNS = {"good": "[green]✓[/]", "note": "[yellow]•[/]", "bad": "[red]✗[/]"}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["good", "note", "bad"]
    subject: str
    message: str


def diagnose() -> list[Finding]:
    """Look at everything; starts no cluster."""
    return [*_packages(), *_engines(), *_hardware(), *_ray()]


def print_findings(findings: list[Finding], *, as_json: bool) -> None:
    """What `mmray doctor` shows."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    for finding in findings:
        console.print(
            f"{_SIGNS[finding.level]} [bold]{finding.subject:<12}[/] {finding.message}", soft_wrap=True
        )


def _packages() -> Iterator[Finding]:
    yield Finding(
        "good", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
    engines = [f"{name} {version}" for name in names if (version := _version(name))]
    if len(engines) > 1:
        remedy = "uninstall all of them, then install one"
        yield Finding("bad", "onnxruntime", f"{' and '.join(engines)} overwrite each other's files; {remedy}")
    elif not engines:
        yield Finding("bad", "onnxruntime", "is not installed; pip install mmray brings it")
    else:
        yield Finding("good", "onnxruntime", engines[0])


def _engines() -> Iterator[Finding]:
    from mmray.engine import available_providers

    for provider, built in available_providers().items():
        if built:
            yield Finding("good", "provider", f"{provider} is built in" + _device_note(provider))
        else:
            yield Finding("note", "provider", f"{provider} is not in this build of ONNX Runtime")


def _device_note(provider: str) -> str:
    if provider != "cuda" or Path("/proc/driver/nvidia/version").exists():
        return ""
    return "; no NVIDIA driver here, so auto takes the CPU"


def _hardware() -> Iterator[Finding]:
    flags = _cpu_flags()
    known = [flag for flag in _CPU_FLAGS if flag in flags]
    yield Finding("good", "cpu", f"{os.cpu_count()} CPUs, {', '.join(known) or 'no vector flags known'}")
    if "avx2" in known and not {"avx512_vnni", "avx_vnni"} & set(known):
        yield Finding("note", "int8", "no VNNI: int8 makes models smaller here, hardly faster")
    free = shutil.disk_usage(".").free / 1e9
    level: Literal["good", "bad"] = "good" if free >= _DISK_GB else "bad"
    yield Finding(level, "disk", f"{free:.0f} GB free here" + ("" if level == "good" else "; free some"))
    shm = Path("/dev/shm")  # Ray's object store lives there
    if shm.exists() and shutil.disk_usage(shm).total < 1e9:
        yield Finding("note", "/dev/shm", "is below 1 GB: Ray falls back to slow files; raise --shm-size")


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def _ray() -> Iterator[Finding]:
    yield Finding("good", "ray", _version("ray") or "not installed")
    address = os.environ.get("RAY_ADDRESS")
    where = (
        f"RAY_ADDRESS={address}" if address else "no RAY_ADDRESS: a run joins a local cluster, or starts one"
    )
    yield Finding("good", "cluster", where)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
