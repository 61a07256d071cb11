"""Cost of a run for its driver and the rest of the head: real Ray, plan, operators, sink and ledger.

The first rows of a plan of a billion are run, because each unit costs the same.

Readers and devices are simulated and take almost no time. This machine also does the workers' part, so its
rate is not the driver's; CPU time by rows is measured.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # on a machine with other load

import ray
from _scale.process import NONE, head, use_of
from _scale.simulated import ROW_BYTES, SimulatedJob, shard_of

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
from support.bundles import SPEC, make_bundle  # type: ignore[import-not-found]

from mmray.config import RunConfig
from mmray.pipeline import watchdog
from mmray.pipeline.audit import audit
from mmray.pipeline.census import Census
from mmray.pipeline.cluster import connected
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.metrics import ExportingMeter
from mmray.pipeline.operators import run_units
from mmray.pipeline.plan import make_plan
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.survey import Survey

SHARD_ROWS = PART_ROWS = 10_000
PLANNED_ROWS = 1_000_000_000  # of which the first are run
BLOCK_ROWS = 1_000  # so that the workers take little of this machine
TASK_CPUS = 2


class CountingMeter(ExportingMeter):
    """Counts the messages of workers, too."""

    def messages(self) -> float:
        """Number of messages."""
        return float(self._counts["messages"])


def _counted(name: str) -> Callable[..., Any]:
    def method(self: CountingMeter, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401  (whatever it takes)
        self._counts["messages"] += not self.__dict__.get("_inside")
        self.__dict__["_inside"], before = True, self.__dict__.get("_inside")
        try:
            return getattr(super(CountingMeter, self), name)(*arguments, **named)
        finally:
            self.__dict__["_inside"] = before

    return method


for _name in ("add", "enter", "tell", "leave", "give_up", "fail", "shift", "break_off"):
    if hasattr(ExportingMeter, _name):
        setattr(CountingMeter, _name, _counted(_name))
CountingMeter.__name__ = CountingMeter.__qualname__ = "ExportingMeter"


def fused(rows: int) -> dict[str, float]:
    """A run on two CPUs."""
    return _run(rows, devices=0)


def split(rows: int) -> dict[str, float]:
    """A run with two devices."""
    return _run(rows, devices=2)


def wide(rows: int) -> dict[str, float]:
    """A run with sixteen devices."""
    return _run(rows, devices=16)


def _run(rows: int, devices: int) -> dict[str, float]:
    ray.init(
        num_cpus=TASK_CPUS + 2 * devices,
        num_gpus=devices,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="mmray-driver-") as place:
            return _measured(_survey(place), rows)
    finally:
        ray.shutdown()


def _survey(place: str) -> Survey:
    bundle = make_bundle(Path(place) / "bundle", spec=SPEC)
    config = RunConfig.model_validate(
        {
            **{"input": ["/nowhere"], "bundle": str(bundle.path), "output": f"{place}/out"},
            **{"variant": "fp32", "part_rows": PART_ROWS, "block_rows": BLOCK_ROWS},
        }
    )
    shards = tuple(shard_of(number, SHARD_ROWS) for number in range(PLANNED_ROWS // SHARD_ROWS))
    return Survey(config, bundle, shards, Census(10, float(ROW_BYTES), {"text": 10}))


def _measured(survey: Survey, rows: int) -> dict[str, float]:
    with connected() as machines:
        plan = make_plan(survey, machines)
        out = RunDirectory.at(survey.config.output)
        out.begin(plan.to_json())
        units = plan.units(Ledger().missing(survey.shards))[: rows // SHARD_ROWS]
        on_cpu = survey.config.model_copy(update={"provider": "cpu"})
        job = SimulatedJob(on_cpu, survey.bundle.digest, plan.part_rows, 1, plan.ladder)
        watchdog.ExportingMeter = CountingMeter  # type: ignore[attr-defined]
        with watchdog.metered(lambda _: None, plan) as meter:
            ray.get(meter.handle.messages.remote())  # so that it has started
            before, start = head(), time.perf_counter()
            run_units(units, job, plan, meter.handle)
            took, after = time.perf_counter() - start, head()
            messages: float = ray.get(meter.handle.messages.remote())
            counted = meter.read()
        ledger = Ledger.load(out)
        assert ledger.rows == rows
        assert not ledger.missing([work.shard for unit in units for work in unit])
        start = use_of().cpu_s
        assert audit(out).predicted == rows
        audit_s = use_of().cpu_s - start
    used = Counter({name: use.cpu_s - before.get(name, NONE).cpu_s for name, use in after.items()})
    return {
        **{"seconds": took, "rows_per_s": counted.rows_per_s, "messages": messages, "audit_s": audit_s},
        **{f"{name}_s": cpu_s for name, cpu_s in used.items()},
        **{f"{name}_mb": use.rss_mb for name, use in after.items()},
    }
