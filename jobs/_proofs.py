"""The measurements of `prove_gpu.py`, one function each."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from mmray.batching import blank
from mmray.bundle import Bundle
from mmray.engine import Bound, Engine, Provider
from mmray.evaluation import LabelledTensors, Outputs, run_outputs
from mmray.golden import output_difference
from mmray.loading import open_engine
from mmray.shapes import Ladder, job_ladder
from mmray.variants.gate import Thresholds, compare

_RUNS = 10


@dataclass(frozen=True)
class Setting:
    """What is measured, and time limits."""

    bundle: Bundle
    inputs: list[str]
    provider: Provider
    variants: list[str]  # that passed, without cascades
    cascade: str | None
    batch_rows: Sequence[int]
    processes: Sequence[int]
    rounds: int
    thresholds: Thresholds  # of decisions

    @property
    def ladder(self) -> Ladder:
        return job_ladder(self.bundle.spec, self.batch_rows[-1])


def placement(setting: Setting, variant: str) -> dict[str, Any]:
    """How many of a graph's nodes run on the device, and which do not."""
    engine = open_engine(setting.bundle, variant, provider=setting.provider, threads=1, record_placement=True)
    placed = engine.placement()
    elsewhere = [op for provider, ops in placed.items() if provider != setting.provider for op in ops]
    return {
        "variant": variant,
        "on_device": len(placed.get(setting.provider, [])),
        "elsewhere": len(elsewhere),
        "operators": dict(Counter(elsewhere).most_common()),
    }


def decisions(setting: Setting, variant: str, records: LabelledTensors, parent: Outputs) -> dict[str, Any]:
    """Golden outputs, and decisions with every subset of the modalities, compared with fp32 on the CPU."""
    engine = open_engine(setting.bundle, variant, provider=setting.provider, threads=1, ladder=setting.ladder)
    inputs, expected = setting.bundle.golden(variant)
    decisive = setting.bundle.decisive
    difference = output_difference(engine(inputs)[decisive], expected[decisive])
    outputs = run_outputs(engine, records, batch_rows=setting.batch_rows[-1])
    verdict = compare(parent, outputs, setting.thresholds)
    fault = verdict.reason
    if difference > setting.bundle.manifest.variants[variant].golden_tolerance:
        fault = f"golden outputs are off by {difference:.2g}"
    return {
        "variant": variant,
        "golden_off_by": float(difference),
        "agrees": verdict.overall.agreement,
        "fault": fault,
    }


def rates(setting: Setting, variant: str, nhwc: bool) -> Iterator[dict[str, Any]]:
    """Rows a second by the rows of a batch: only computing, and with the copies in and out."""
    for rows in setting.batch_rows:
        ladder = job_ladder(setting.bundle.spec, rows)
        engine = open_engine(
            setting.bundle, variant, provider=setting.provider, threads=1, ladder=ladder, nhwc=nhwc
        )
        bound = engine.bound(blank(setting.bundle.spec, ladder.typical))
        bound.send()
        start = perf_counter()
        bound.compute()
        first_s = perf_counter() - start
        alone_s = _seconds(bound.compute)
        copied_s = _seconds(lambda b=bound: outputs_of(b))  # type: ignore[misc]  # bound at once
        yield {
            "variant": variant,
            "nhwc": nhwc,
            "rows": rows,
            "first_s": round(first_s, 3),
            "rows_per_s": round(rows / copied_s, 1),
            "rows_per_s_on_device": round(rows / alone_s, 1),
        }


def alternating(setting: Setting, variant: str) -> dict[str, Any]:
    """Milliseconds a batch: one shape, two alternating shapes in one session, and with a session for each."""
    spec, typical = setting.bundle.spec, setting.ladder.typical
    other = typical._replace(images=max(1, typical.images - 1))

    def load() -> Engine:
        return open_engine(
            setting.bundle, variant, provider=setting.provider, threads=1, ladder=setting.ladder
        )

    shared, apart = load(), load()
    first_session = shared._session
    pairs = {
        "one session": [
            Bound(first_session, _inputs(shared, blank(spec, s)), _device(shared)) for s in (typical, other)
        ],
        "a session each": [apart.bound(blank(spec, shape)) for shape in (typical, other)],
    }
    found: dict[str, Any] = {"variant": variant}
    for name, bounds in pairs.items():
        for bound in bounds:
            bound.send()
            bound.compute()
        turns = itertools.cycle(bounds)
        found[f"{name}, ms"] = round(1e3 * _seconds(lambda t=turns: next(t).compute(), 4), 2)  # type: ignore[misc]
    bound = pairs["a session each"][0]
    bound.compute()
    found["same shape, ms"] = round(1e3 * _seconds(bound.compute), 2)
    return found


def outputs_of(bound: Bound) -> dict[str, Any]:
    bound.send()
    bound.compute()
    return dict(bound.fetch())


def _inputs(engine: Engine, feeds: dict[str, Any]) -> dict[str, Any]:
    return {name: feeds[name] for name in engine.inputs}


def _device(engine: Engine) -> str:
    return "cuda" if engine.provider == "cuda" else "cpu"


def _seconds(act: Callable[[], object], runs: int = _RUNS) -> float:
    """Median of some runs."""
    taken = []
    for _ in range(runs):
        start = perf_counter()
        act()
        taken.append(perf_counter() - start)
    return median(taken)


def describe_machine() -> dict[str, Any]:
    """The card, and the CPUs."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        card = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        card = "none"
    return {"card": card, "cpus": os.cpu_count()}
