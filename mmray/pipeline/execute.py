"""Runs the pipeline: choices before it, and the errors that end it."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import pyarrow as pa
import ray

from mmray.bundle import Bundle
from mmray.coverage import Missing
from mmray.errors import Interrupted, RunError, one_line
from mmray.page.table import number
from mmray.pipeline.advice import advise
from mmray.pipeline.isolate import names
from mmray.pipeline.job import Job
from mmray.pipeline.plan import Plan, Unit
from mmray.pipeline.survey import read_options
from mmray.pipeline.watchdog import RESUME, RunningMeter
from mmray.race import Choice, choose
from mmray.sources import ReadOptions, Shard, read

_TRIED_ROWS = 64


def with_variant(plan: Plan, earlier: Mapping[str, Any] | None) -> Plan:
    """The plan with one variant for all parts: the config's, or that of the run that is resumed.

    Otherwise the fastest one, as measured on one of the machines that will run it.

    Args:
        plan: the plan so far.
        earlier: plan.json of the run that is resumed.
    """
    if plan.variant != "auto":
        return plan
    if earlier is not None and "variant" in earlier:
        return replace(plan, variant=earlier["variant"])
    return replace(plan, variant=_raced(plan).variant)


def balanced(plan: Plan) -> Plan:
    """The plan with the rates of its CPUs and devices, as measured on one of each."""
    if not plan.accelerated:
        return plan
    taken = _raced(plan).rows_per_s
    shard = max(plan.survey.shards, key=lambda shard: shard.size)
    remote: Any = ray.remote
    try_one = remote(num_cpus=1)(_seconds_to_prepare)
    task_s: float = _got(try_one.remote(_job(plan), shard))
    device_s = 1 / taken if taken else 0.0  # a cascade's depends on how many records it answers early
    return replace(plan, advice=advise(task_s, device_s, plan.task_cpus, plan.actors))


def _raced(plan: Plan) -> Choice:
    """The variant to run, and its rate, by a race on a machine that will run it."""
    race = ray.remote(num_cpus=1, num_gpus=1 if plan.accelerated else 0)(_race)
    choice: Choice = _got(race.remote(_job(plan)))
    return choice


def _got(answer: Any) -> Any:  # noqa: ANN401  (the result of any task)
    """Result of a task that runs before the pipeline.

    Raises:
        RunError: it failed; Ray's own error would contain a traceback.
    """
    try:
        return ray.get(answer)
    except ray.exceptions.RayError as e:
        raise RunError(f"{_root_cause(e)}; then run the same command again") from e


def _race(job: Job) -> Choice:
    config = job.config
    return choose(
        Bundle.open(config.bundle),
        config.variant,
        provider=config.provider,
        threads=job.threads,
        ladder=job.ladder,
    )


def _seconds_to_prepare(job: Job, shard: Shard) -> float:
    """CPU seconds to read and preprocess a record, from the first ones of a shard; 0 for an empty shard."""
    options = replace(read_options(job.config), block_rows=_TRIED_ROWS)
    preprocess = job.open_preprocessor()
    start = perf_counter()
    records = next(iter(read(shard, options)), None)
    if records is None or not records.num_rows:
        return 0.0
    preprocess(records, job.later())
    return (perf_counter() - start) / int(records.num_rows)


def execute(plan: Plan, units: Sequence[Unit], meter: RunningMeter) -> None:
    """Process the units; units whose worker died stay missing.

    Raises:
        RunError: Ray, a worker or the watchdog ended the run; parts already written are kept.
    """
    from mmray.pipeline.operators import run_units  # Ray Data takes .4 s, and pandas' memory

    meter.begin(units)
    with _named_failures(meter):
        run_units(units, _job(plan), plan, meter.handle)


def execute_retry(plan: Plan, parts: Sequence[str], shards: Sequence[Shard], meter: RunningMeter) -> None:
    """Process the rejects of these parts again.

    Args:
        plan: of the retry.
        parts: their file names.
        shards: all shards of the run that is retried.
        meter: counts.

    Raises:
        RunError: as `execute`, or a worker died.
    """
    from mmray.pipeline.operators import run_retry

    with _named_failures(meter):
        run_retry(parts, _job(plan), plan, meter.handle, {shard.id: shard for shard in shards})
        if lost := meter.take_lost():
            raise RunError(
                f"{number(len(lost), 'part')} not retried, all others are done: the worker {names(lost)}; "
                "run the same command again"
            )


def locate(plan: Plan, shard: Shard, wanted: Missing) -> pa.Table:
    """Addresses of a shard's rows: ``row``, ``key``, ``offset``, ``length`` and ``end``, without payload.

    Raises:
        RunError: they cannot be read.
    """
    remote: Any = ray.remote
    read_once = remote(num_cpus=1, max_retries=0)(_addresses)
    try:
        table: pa.Table = ray.get(read_once.remote(shard, read_options(plan.survey.config), wanted))
    except Exception as e:  # a separate process reads them: if it dies, the error names the shard
        raise RunError(
            f"{shard.name}: workers die at its rows from {wanted.first} on, and their addresses cannot be "
            f"read: {_root_cause(e)}; fix that shard, and run the same command again"
        ) from e
    return table


def _addresses(shard: Shard, options: ReadOptions, wanted: Missing) -> pa.Table:
    blocks = read(shard, replace(options, payload=False), [wanted])
    return pa.concat_tables([block.select(["row", "key", "offset", "length", "end"]) for block in blocks])


def _job(plan: Plan) -> Job:
    # The provider is chosen here: a worker without its own GPU must not use one that it sees.
    provider = plan.survey.config.provider
    if provider == "auto":
        provider = "cuda" if plan.accelerated else "cpu"
    config = plan.survey.config.model_copy(update={"provider": provider, "variant": plan.variant})
    return Job(
        config,
        plan.survey.bundle.digest,
        plan.part_rows,
        threads=1,
        ladder=plan.ladder,
        memory_bytes=plan.memory_bytes,
        lease=plan.lease,
    )


@contextmanager
def _named_failures(meter: RunningMeter) -> Iterator[None]:
    """Turn errors that end a run early into a RunError that says why, and how to resume."""
    try:
        yield
        meter.check()
    except Interrupted as e:
        if meter.reason:
            raise RunError(f"{meter.reason}; {RESUME}") from e
        raise
    except RunError:
        raise
    except Exception as e:  # Ray's many error types; reported to the user, who can resume
        raise RunError(f"the run was interrupted: {_root_cause(e)}; {RESUME}") from e
    finally:
        gc.collect()  # Ray Data's actors keep their CPUs as long as a reference cycle holds them


def _root_cause(failure: BaseException) -> str:
    """The innermost error, in one line."""
    from ray.data.exceptions import SystemException

    cause = getattr(failure, "cause", None) or failure.__cause__
    if isinstance(cause, BaseException) and not isinstance(cause, SystemException):  # Ray's marker, no cause
        return _root_cause(cause)
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()] or [""]
    if isinstance(failure, ray.exceptions.RayError):  # a trace, the error, and Ray's hints after it
        named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
        return named[-1] if named else lines[0]
    return one_line(failure)
