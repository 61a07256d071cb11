"""Units of work → Ray Data, in either topology."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.data import ActorPoolStrategy

from mmray.errors import RunError
from mmray.pipeline.meter import Meter, Snapshot
from mmray.pipeline.plan import Plan, Unit
from mmray.pipeline.stages import (
    FusedWorker,
    InferWorker,
    Job,
    PartSink,
    ShardSource,
    preprocess_block,
    units_to_tables,
)

_POLL_S = 0.5


@dataclass(frozen=True)
class RunningMeter:
    """The meter of a run, as an actor that all workers report to."""

    handle: Any

    def read(self) -> Snapshot:
        """What was counted so far."""
        return cast(Snapshot, ray.get(self.handle.read.remote(), timeout=10))


@contextmanager
def metered(progress: Callable[[Snapshot], None]) -> Iterator[RunningMeter]:
    """Start a meter, and tell `progress` twice a second what it counted."""
    # It needs no CPU of its own: on a small machine the workers hold them all.
    meter = RunningMeter(cast(Any, ray.remote(num_cpus=0)(Meter)).remote())
    done = threading.Event()

    def poll() -> None:
        while not done.wait(_POLL_S):
            try:
                progress(meter.read())
            except ray.exceptions.RayError:  # a busy or lost meter costs the display, never the run
                continue

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        done.set()
        thread.join()


def execute(plan: Plan, units: list[Unit], meter: RunningMeter) -> None:
    """Process the units to their end.

    Raises:
        RunError: Ray gave up; parts that are written stay.
    """
    # The provider is settled here: a worker that has no GPU of its own must not take one that it sees.
    config = plan.survey.config.model_copy(update={"provider": "cuda" if plan.accelerated else "cpu"})
    job = Job(config, plan.part_rows, threads=1)
    run = _execute_fused if plan.topology == "fused" else _execute_split
    try:
        run(plan, units, job, meter)
    except Exception as e:  # Ray's many error types; named for the user, who can resume
        raise RunError(f"the run broke off: {_root_cause(e)}; run the same command again to resume") from e


def _execute_fused(plan: Plan, units: list[Unit], job: Job, meter: RunningMeter) -> None:
    parts = ray.data.from_arrow(units_to_tables(units)).map_batches(
        FusedWorker,
        fn_constructor_args=(job, meter.handle),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        # One unit at a time: they are large, and a queue at one actor would leave others idle at the end.
        compute=ActorPoolStrategy(size=min(plan.actors, len(units)), max_tasks_in_flight_per_actor=1),
    )
    for _ in parts.iter_batches(batch_size=None, batch_format="pyarrow"):
        pass


def _execute_split(plan: Plan, units: list[Unit], job: Job, meter: RunningMeter) -> None:
    # Unequal resources keep Ray from fusing the reading into the actors, which would idle the device.
    bundle = plan.survey.bundle
    model_bytes = bundle.graph(bundle.choose(job.config.variant)).stat().st_size
    actor: dict[str, float] = {"num_gpus": 1} if plan.accelerated else {"num_cpus": 1, "memory": model_bytes}
    (
        ray.data.read_datasource(ShardSource(units, job), override_num_blocks=len(units))
        .map_batches(preprocess_block, fn_args=(job, meter.handle), batch_size=None, batch_format="pyarrow")
        .map_batches(
            InferWorker,
            fn_constructor_args=(job, meter.handle),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=plan.actors),
            **actor,
        )
        .write_datasink(PartSink(job, meter.handle))
    )


def _root_cause(failure: BaseException) -> str:
    """The innermost error, in one line."""
    cause = getattr(failure, "cause", None) or failure.__cause__
    if isinstance(cause, BaseException):
        return _root_cause(cause)
    lines = [line for line in str(failure).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(failure).__name__
