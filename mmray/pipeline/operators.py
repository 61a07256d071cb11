"""Every run is one Ray Data pipeline over units of work. These are its operators.

CPU nodes      work → read, preprocess, infer and write
devices        work → read and preprocess → infer → write
and a cascade  work → read and preprocess what comes first → infer → (decode what is open → infer)… → write
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from mmray.pipeline.fused import FusedWorker, RetryWorker
from mmray.pipeline.infer import CALLS, InferWorker
from mmray.pipeline.job import Job
from mmray.pipeline.liveness import MeterHandle
from mmray.pipeline.plan import Plan, Unit
from mmray.pipeline.split import PartSink, decode_open, prepare
from mmray.pipeline.travel import BLOCK_BYTES
from mmray.sources import Shard

# Tables queued at an actor, including current ones: Ray schedules more ten times a second.
_AHEAD = CALLS + 2
_CPU_AHEAD = CALLS + 6  # they are small if no batch has to be filled
# Tables whose open rows are decoded together, so that they fill batches again.
_DECODED_TOGETHER = 2

_ACTORS_S = 900  # until all actors are there
_FAILED_STARTS = 3  # consecutive actors that may die before they are ready

# Ray does not retry a task whose worker died: the next pass processes the rows that are missing on disk, so a
# record that kills its worker cannot do so forever.
_ONCE: dict[str, Any] = {"max_retries": 0}
_ACTOR_ONCE: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 0}


def run_units(units: Sequence[Unit], job: Job, plan: Plan, meter: MeterHandle) -> None:
    """Run units of work through the operators of the plan, to their end."""
    with _settings(plan):
        if plan.topology == "fused":
            _in_actors(units, FusedWorker, plan, job, meter).materialize()
            return
        rows = _in_tasks(_work(units), prepare, plan, job=job, meter=meter, batches=plan.batches_together)
        rows = _infer(rows, 1, job, plan, meter)
        for stage in range(2, plan.steps + 1):
            together = partial(decode_open, stage=stage)
            rows = _in_tasks(rows, together, plan, _DECODED_TOGETHER, job=job, meter=meter)
            rows = _infer(rows, stage, job, plan, meter)
        # If a write needed a CPU, it would wait until a whole unit is read.
        rows.write_datasink(PartSink(job, meter), ray_remote_args={"num_cpus": 0, **_ONCE})


def run_retry(
    parts: Sequence[str], job: Job, plan: Plan, meter: MeterHandle, shards: Mapping[str, Shard]
) -> None:
    """Process the rejects of parts again, on any machines: they are few."""
    with _settings(plan):
        _in_actors(parts, RetryWorker, plan, job, meter, shards).materialize()


def _work(pieces: Sequence[Any]) -> Dataset:
    """Units of work, each its own block."""
    return ray.data.from_items(
        [{"work": pickle.dumps(piece)} for piece in pieces], override_num_blocks=len(pieces)
    )


def _in_actors(pieces: Sequence[Any], worker: type, plan: Plan, *arguments: object) -> Dataset:
    """Actors that each take the next unit when they finish one; more if the cluster grows."""
    return _work(pieces).map_batches(
        worker,
        fn_constructor_args=arguments,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=1 if plan.accelerated else 0,
        compute=_pool(plan, len(pieces), may_grow=True, max_tasks_in_flight_per_actor=1),
        **_ACTOR_ONCE,
    )


def _in_tasks(
    work: Dataset, function: Callable[..., Iterator[pa.Table]], plan: Plan, rows: int = 1, **arguments: object
) -> Dataset:
    """Tasks with one CPU each; limited so that actors without devices also get their CPUs."""
    return work.map_batches(
        function,
        fn_kwargs=arguments,
        batch_size=rows,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(None if plan.accelerated else plan.task_cpus),
        num_cpus=1,
        **_ONCE,
    )


def _infer(rows: Dataset, stage: int, job: Job, plan: Plan, meter: MeterHandle) -> Dataset:
    """An actor for each device; those of a cascade's stages share the devices."""
    # Ray must not fuse these with the preparing tasks, which would idle the device: it fuses only equal
    # resources.
    share = 1 / plan.steps
    resources: dict[str, Any]
    if plan.accelerated:
        resources = {"num_cpus": share * plan.actor_cpus, "num_gpus": share}
    else:  # a CPU held by them could be the last one for tasks after a node has died
        resources = {"num_cpus": 0.0, "memory": plan.survey.bundle.graph(plan.variant).stat().st_size}
    return rows.map_batches(
        InferWorker,
        fn_constructor_args=(job, meter, stage if plan.steps > 1 else None),
        batch_size=1,  # rows, thus tables; Ray requires a number if there are GPUs
        batch_format="pyarrow",
        compute=_pool(
            plan,
            plan.actors,
            may_grow=plan.accelerated
            and plan.steps == 1,  # else actors would take resources that others need
            max_concurrent_calls_per_actor=CALLS,
            enable_true_multi_threading=True,
            max_tasks_in_flight_per_actor=_AHEAD if job.ladder else _CPU_AHEAD,
        ),
        **resources,
        **_ACTOR_ONCE,
    )


def _pool(plan: Plan, useful: int, *, may_grow: bool, **calls: Any) -> ActorPoolStrategy:  # noqa: ANN401
    """As many actors as the plan says; more or fewer if the cluster grows or loses a node.

    Actors that do not fit at first are requested from a cluster that grows on demand.

    Args:
        plan: of the actors.
        useful: more actors than this would have nothing to do.
        may_grow: whether there may be more than the plan says, if the config sets no number.
        calls: Ray's own options for calling them.
    """
    most = None if may_grow and plan.survey.config.actors is None else plan.actors
    return ActorPoolStrategy(min_size=1, max_size=most, initial_size=min(plan.actors, useful), **calls)


@contextmanager
def _settings(plan: Plan) -> Iterator[None]:
    """Ray Data's settings: a row of ours is a block; no progress bars and logs that break our display."""
    context = DataContext.get_current().copy()
    if plan.accelerated and plan.actor_cpus and plan.machines.nodes > 1:
        # Tasks that took an actor's CPUs on the node of its device would wait for it forever.
        context.wait_for_min_actors_s = _ACTORS_S
    context.target_max_block_size = BLOCK_BYTES
    context.max_errored_blocks = -1  # of workers that died; ours report their exceptions (see liveness)
    context.max_consecutive_actor_init_deaths = _FAILED_STARTS
    scaling = context.autoscaling_config
    # Not only if all are busy: actors on a node that will shut down get no more work, but remain.
    scaling.actor_pool_util_upscaling_threshold = 0.5
    scaling.actor_pool_util_downscaling_threshold = -1  # never: an idle one has already loaded its model
    context.execution_no_progress_timeout_s = -1  # a unit may take hours; our watchdog counts rows
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its log files in the session directory remain
    with DataContext.current(context), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about bounded retries: Ray 2.60 has no other way yet
        yield
