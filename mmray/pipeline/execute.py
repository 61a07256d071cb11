"""Units of work → Ray, in either topology: a pool of actors, or Ray Data."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic, perf_counter
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmray.bundle import Bundle
from mmray.errors import Interrupted, MmrayError, RunError
from mmray.pipeline.advice import advise
from mmray.pipeline.fused import FusedWorker, News, RetryWorker, Unreadable
from mmray.pipeline.job import Job
from mmray.pipeline.meter import Meter, Snapshot
from mmray.pipeline.plan import Plan, Unit
from mmray.pipeline.pool import Actor, Pool, Stream
from mmray.pipeline.survey import read_options
from mmray.race import Choice, choose
from mmray.sources import Shard, read

_POLL_S = 0.5
_DIED = "the worker that processed it died, most often for want of memory (Ray's logs say more)"
_ASIDE = "aside"  # what an actor is told while it works
_TRIED_ROWS = 64
_START_S = 900.0  # machines may have to be started before the first worker can say anything


class RunningMeter:
    """The meter of a run, and a watchdog over it.

    Args:
        sink: the Meter, or a Ray actor handle of one.
        read: asks it what was counted.
        progress: told that, twice a second, from a thread of its own.
        stall_s: seconds without any news from any worker that end the run.
    """

    def __init__(
        self,
        sink: Any,  # noqa: ANN401  (Ray gives a handle no type)
        read: Callable[[], Snapshot],
        progress: Callable[[Snapshot], None],
        stall_s: float,
    ) -> None:
        self.sink = sink
        self.stalled: str | None = None  # why the watchdog ended the run
        self._read = read
        self._latest = Snapshot()
        self._progress = progress
        self._stall_s = stall_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def read(self) -> Snapshot:
        """What was counted so far; the latest that is known, where the meter does not answer."""
        with suppress(ray.exceptions.RayError):  # a lost meter costs figures, never the run
            self._latest = self._read()
        return self._latest

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        """Twice a second: tell the count, and interrupt the main thread where nothing moves any more."""
        messages, since = -1, monotonic()
        while not self._done.wait(_POLL_S):
            snapshot = self.read()
            self._progress(snapshot)
            if snapshot.messages != messages:
                messages, since = snapshot.messages, monotonic()
            elif monotonic() - since > (self._stall_s if messages else max(self._stall_s, _START_S)):
                doing = ", ".join(f"{n} in {stage}" for stage, n in snapshot.doing.items())
                self.stalled = (
                    f"no progress for {monotonic() - since:.0f} s (workers: {doing or 'none has started'})"
                )
                # As Ctrl-C would: only a real signal wakes a main thread that waits on a lock.
                os.kill(os.getpid(), signal.SIGINT)
                return


@contextmanager
def metered(
    progress: Callable[[Snapshot], None], plan: Plan, *, pooled: bool = False
) -> Iterator[RunningMeter]:
    """Count and watch while the body runs.

    Args:
        progress: told what was counted, twice a second, from a thread of its own.
        plan: `stall_s` seconds without any news from any worker interrupt the body; a cascade's early answers
            are watched.
        pooled: whether the workers are a pool's, whose news come to this process, whatever the topology is.
    """
    disagreement = plan.cascade.disagreement if plan.cascade else None
    sink: Any
    if pooled or plan.topology == "fused":
        sink = Meter(disagreement)
        read = sink.read
    else:
        # On the driver's node, which outlives the others; it needs no CPU: the workers may hold them all.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        remote: Any = ray.remote  # its type does not know this strategy
        actor = remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Meter)
        sink = actor.remote(disagreement)

        def read() -> Snapshot:
            return cast(Snapshot, ray.get(sink.read.remote(), timeout=10))

    meter = RunningMeter(sink, read, progress, plan.survey.config.stall_s)
    try:
        yield meter
    finally:
        meter.stop()


def settled(plan: Plan, earlier: Mapping[str, Any] | None) -> Plan:
    """The plan with one variant for all parts: the config's, or that of the run which this one continues.

    Else it is the fastest on one of the machines that will run it.

    Args:
        plan: as it was made.
        earlier: plan.json of the run that is continued.
    """
    if plan.variant != "auto":
        return plan
    if earlier is not None and "variant" in earlier:
        return replace(plan, variant=earlier["variant"])
    return replace(plan, variant=_raced(plan).variant)


def balanced(plan: Plan) -> Plan:
    """The plan with what its CPUs prepare and its devices take, as tried on one of each."""
    if not plan.accelerated:
        return plan
    taken = _raced(plan).rows_per_s
    shard = max(plan.survey.shards, key=lambda shard: shard.size)
    remote: Any = ray.remote
    try_one = remote(num_cpus=1)(_seconds_to_prepare)
    task_s: float = ray.get(try_one.remote(_job(plan), shard))
    device_s = 1 / taken if taken else 0.0  # a cascade's depends on how many records it answers early
    return replace(plan, advice=advise(task_s, device_s, plan.task_cpus, plan.actors))


def _raced(plan: Plan) -> Choice:
    """The variant to run, and its rate, by a race on a machine that will run it."""
    race = ray.remote(num_cpus=1, num_gpus=1 if plan.accelerated else 0)(_race)
    choice: Choice = ray.get(race.remote(_job(plan)))
    return choice


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
    """Seconds of a CPU to read and preprocess a record, by the first ones of a shard; 0 of an empty one."""
    options = replace(read_options(job.config), block_rows=_TRIED_ROWS)
    preprocess = job.open_preprocessor()
    start = perf_counter()
    records = next(iter(read(shard, options)), None)
    if records is None or not records.num_rows:
        return 0.0
    preprocess(records, job.later())
    return (perf_counter() - start) / int(records.num_rows)


def execute(plan: Plan, units: list[Unit], meter: RunningMeter) -> None:
    """Process the units to their end.

    Raises:
        RunError: Ray gave up, or the watchdog did; parts that are written stay.
    """
    job = _job(plan)
    with _named_failures(meter):
        if plan.topology == "split":
            from mmray.pipeline.split import run_split  # Ray Data takes .4 s, and pandas' memory

            run_split(units, job, plan, meter.sink)
        else:
            for unit in _run_pool(FusedWorker, "run", units, plan, meter, job):
                for work in unit:
                    meter.sink.fail(work.shard.name, _DIED)


def execute_retry(plan: Plan, parts: Sequence[str], shards: Sequence[Shard], meter: RunningMeter) -> None:
    """Process the rejects of these parts anew.

    Args:
        plan: of the retry.
        parts: their file names.
        shards: all of the run that is retried.
        meter: one that is `pooled`.

    Raises:
        RunError: as `execute`.
    """
    with _named_failures(meter):
        by_id = {shard.id: shard for shard in shards}
        lost = _run_pool(RetryWorker, "retry", parts, plan, meter, _job(plan), by_id)
        if lost:
            raise RunError(
                f"{len(lost)} parts were not retried, all others are done; {lost[0]}: {_DIED}; run the same "
                "command again"
            )


def _job(plan: Plan) -> Job:
    # The provider is settled here: a worker that has no GPU of its own must not take one that it sees.
    provider = plan.survey.config.provider
    if provider == "auto":
        provider = "cuda" if plan.accelerated else "cpu"
    config = plan.survey.config.model_copy(update={"provider": provider, "variant": plan.variant})
    return Job(config, plan.part_rows, threads=1, ladder=plan.ladder)


def _run_pool(
    worker: type, method: str, work: Sequence[Any], plan: Plan, meter: RunningMeter, *arguments: object
) -> list[Any]:
    """One actor a CPU (or GPU), each piece of work a call of that method; returns those whose actor died."""
    remote: Any = ray.remote
    heed = plan.cascade is not None and plan.survey.config.on_shift == "stop"
    # With a group, Ray moves work from the main thread to another one, and wakes the main thread a hundred
    # times a second.
    aside = {"concurrency_groups": {_ASIDE: 1}} if heed else {}
    actor = remote(num_cpus=1, num_gpus=1 if plan.accelerated else 0, **aside)(worker)

    def call(member: Actor, piece: object) -> Stream:
        return getattr(member, method).options(num_returns="streaming").remote(piece)

    def heard(member: Actor, news: News | None) -> None:
        counts: Meter = meter.sink
        if isinstance(news, Unreadable):
            counts.fail(*news)
        elif isinstance(news, dict):
            counts.add(news)
            if heed and counts.shift():
                member.close_exits.options(concurrency_group=_ASIDE).remote()
        else:
            counts.enter(str(member), news)

    size = min(plan.actors, len(work))
    return Pool(size, lambda: actor.remote(*arguments), call, heard).run(work)


@contextmanager
def _named_failures(meter: RunningMeter) -> Iterator[None]:
    """Turn what ends a run early into a RunError that says why, and how to go on."""
    remedy = "run the same command again to resume"
    try:
        yield
    except Interrupted as e:
        if meter.stalled:
            raise RunError(f"{meter.stalled}; {remedy}") from e
        raise
    except RunError:
        raise
    except Exception as e:  # Ray's many error types; named for the user, who can resume
        raise RunError(f"the run broke off: {_root_cause(e)}; {remedy}") from e


def _root_cause(failure: BaseException) -> str:
    """The innermost error, in one line."""
    from ray.data.exceptions import SystemException

    cause = getattr(failure, "cause", None) or failure.__cause__
    if isinstance(cause, BaseException) and not isinstance(cause, SystemException):  # Ray's marker, no cause
        return _root_cause(cause)
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()] or [""]
    if isinstance(failure, MmrayError):
        return lines[0]
    if isinstance(failure, ray.exceptions.RayError):  # a trace, the error, and Ray's hints after it
        named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
        return named[-1] if named else lines[0]
    return f"{type(failure).__name__}: {lines[0]}"
