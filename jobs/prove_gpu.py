"""Test the job on this machine's GPU: correctness, placement of nodes, and speed compared with the CPUs.

    OMP_NUM_THREADS=1 python jobs/prove_gpu.py --bundle bundles/stamps --input data/tuxpaint

Within six minutes on one GPU; prints each table when it is ready and one JSON line at the end; add that line
to docs/log.md, with the card's name. In this order:

- placement: nodes on the device, and operators that are not;
- decisions: golden outputs, and decisions compared with fp32 on the CPU, with every subset of modalities;
- rates: rows a second by rows of a batch, plain and channels-last; two alternating shapes;
- ceiling: records a second that 1, 4, 16 plain processes prepare;
- job: the job, with a cascade if the bundle has one, and Ray Data as in its documentation, in turns;
- memory: a device whose memory another process uses.

Exit code 1 if the decisions of a variant or of the job differ. Without a GPU, `--provider cpu --quick` does
the same on the CPU, in a minute, and `--provider openvino --quick` where onnxruntime-openvino is installed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import _no_memory
import _proofs
import _proved_jobs
import typer
from _proofs import Setting
from rich.console import Console
from rich.table import Table

from mmray.bundle import FP32, Bundle
from mmray.engine import best_provider
from mmray.errors import MmrayError, UsageError
from mmray.evaluation import Records, run_outputs
from mmray.loading import open_engine
from mmray.pipeline.cluster import connected
from mmray.race import is_quantized
from mmray.variants.gate import Thresholds

BATCH_ROWS, QUICK_BATCH_ROWS = (8, 64, 256), (4, 8)
HELD_OUT, QUICK_HELD_OUT = 256, 24
# Thresholds that so many records can show for a graph that decides as on the CPU: of the stamps' recipe, and
# for 24.
ENOUGH = Thresholds(agreement=0.9, slice_agreement=0.8, accuracy_loss=0.07, slice_accuracy_loss=0.15)
FEW = Thresholds(
    least_groups=8, agreement=0.8, slice_agreement=0.3, accuracy_loss=0.2, slice_accuracy_loss=0.7
)


def main(
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
    input: Annotated[list[str], typer.Option(help="Shards; some with held-out records.")] = ["data/tuxpaint"],  # noqa: B006  (never altered)
    provider: Annotated[str, typer.Option(help="cuda, tensorrt, openvino or cpu.")] = "cuda",
    quick: Annotated[bool, typer.Option(help="Small batches, few records, one round.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Of the parts above; default: all.")] = None,
) -> None:
    """Measure, print, judge."""
    try:
        if provider in ("cuda", "tensorrt") and best_provider() != "cuda":
            raise UsageError(
                "no NVIDIA GPU here that ONNX Runtime can use: `mmray doctor` shows what is missing"
            )
        setting = _setting(Bundle.open(bundle), input, provider, quick=quick)
        figures, faults = prove(setting, only or list(PARTS), HELD_OUT if not quick else QUICK_HELD_OUT)
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    print(json.dumps({**_proofs.describe_machine(), **figures, "faults": faults}))
    if faults:
        raise typer.Exit(1)


PARTS = ("placement", "decisions", "rates", "ceiling", "job", "memory")


def prove(setting: Setting, parts: Sequence[str], rows: int) -> tuple[dict[str, Any], list[str]]:
    """Run the requested parts; returns their results and failures."""
    figures: dict[str, Any] = {}
    faults: list[str] = []
    start = perf_counter()

    def tell(part: str, found: list[dict[str, Any]]) -> None:
        figures[part] = [{k: v for k, v in row.items() if k != "labels"} for row in found]
        show(f"{part} ({perf_counter() - start:.0f} s)", figures[part])

    if "placement" in parts:
        tell("placement", [_proofs.placement(setting, variant) for variant in setting.variants])
    if "decisions" in parts:
        records = Records(setting.inputs, setting.bundle, {"train": 1, "tune": 1, "test": rows}).load("test")
        on_cpu = open_engine(setting.bundle, FP32, provider="cpu", threads=1)
        parent = run_outputs(on_cpu, records, batch_rows=8)
        tell("decisions", [_proofs.decisions(setting, v, records, parent) for v in setting.variants])
        faults += [f"{row['variant']}: {row['fault']}" for row in figures["decisions"] if row["fault"]]
    if "rates" in parts:
        layouts = (False, True) if setting.provider == "cuda" else (False,)
        variants = [v for v in setting.variants if not is_quantized(setting.bundle.graph(v))]
        tell("rates", [row for v in variants for nhwc in layouts for row in _proofs.rates(setting, v, nhwc)])
        tell("alternating", [_proofs.alternating(setting, variants[-1])])
    if "ceiling" in parts:
        tell("ceiling", [_proved_jobs.cpu_ceiling(setting, n) for n in setting.processes])
    if "job" in parts:
        found = measure_job(setting)
        labels = [
            row["labels"].sort_by([("shard", "ascending"), ("row", "ascending")])
            for row in found
            if "labels" in row
        ]
        tell("job", found)
        fp32 = [table for row, table in zip(found, labels, strict=False) if row["what"] == f"job, {FP32}"]
        faults += ["job: its decisions differ from run to run"] * any(not t.equals(fp32[0]) for t in fp32)
        faults += [f"{row['what']}: audit failed" for row in found if row.get("audit") is False]
    if "memory" in parts:
        tell("memory", [_no_memory.crowded(setting)])
    return figures, faults


def measure_job(setting: Setting) -> list[dict[str, Any]]:
    """The job, the cascade and Ray Data, in turns."""
    variants = [FP32, *(["fp16"] if "fp16" in setting.variants else [])]
    variants += [setting.cascade] if setting.cascade else []
    found = []
    with tempfile.TemporaryDirectory() as folder, connected():
        for _ in range(setting.rounds):
            found += [_proved_jobs.job(setting, variant, Path(folder)) for variant in variants]
            found.append(_proved_jobs.ray_data(setting, Path(folder)))
    return found


def _setting(bundle: Bundle, inputs: list[str], provider: str, *, quick: bool) -> Setting:
    entries = bundle.manifest.variants
    fitting = [v for v in bundle.passing() if entries[v].provider in ("any", provider)]
    cpus = os.cpu_count() or 1
    return Setting(
        bundle,
        [str(Path(path).absolute()) for path in inputs],
        provider,  # type: ignore[arg-type]  # typer takes text
        [v for v in fitting if entries[v].cascade is None],
        next((v for v in fitting if entries[v].cascade), None),
        QUICK_BATCH_ROWS if quick else BATCH_ROWS,
        sorted({1, min(4, cpus), min(16, cpus)}),
        1 if quick else 2,
        FEW if quick else ENOUGH,
    )


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table."""
    hidden = {"drift", "stage_seconds", "advice", "topology", "actors", "devices", "cascade", "fault"}
    columns = [name for name in dict.fromkeys(k for row in rows for k in row) if name not in hidden]
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name in ("variant", "what") else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    Console(width=160).print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{n} {name}" for name, n in value.items()) or "none"
    return "" if value is None else str(value)


if __name__ == "__main__":
    typer.run(main)
