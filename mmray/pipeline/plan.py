"""Plans how the work is cut and distributed over the machines: topology, actors, units, parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmray import __version__
from mmray.bundle import Bundle, Cascade
from mmray.cascade import runs_in_stages
from mmray.confidence import least_score
from mmray.config import RunConfig
from mmray.coverage import Missing
from mmray.drift import VariantReference
from mmray.errors import ConfigError
from mmray.pipeline.advice import Advice
from mmray.pipeline.memory import allowance
from mmray.pipeline.survey import Survey, read_options
from mmray.shapes import BATCHES, Ladder, job_ladder
from mmray.sources import Shard
from mmray.sources.index import index_of

Topology = Literal["fused", "split"]

_PART_S = 60.0  # a part is about this much work of one actor
_PART_ROWS = (1_000, 100_000)
_MODEL_MS = 20.0  # assumed time of one record if the scorecard has no measured one
_PREPROCESS_MS = 8.0
_DEVICE_PART_ROWS = 10_000  # with devices: about a minute of one CPU that prepares for them
# For an actor with a device: packing alone takes .13 ms a row (docs/gpu.md).
_FEEDING_CPUS = 2
_ROUND = 0.5  # share of the remaining rows for the next round of units, one for each worker
_TABLES_EACH = 64  # minimum tables for each device of a run before tables become larger
_MOST_TOGETHER = 4  # tables that are merged into one
# Smaller units gain nothing: shares of a worker's whole work, and of a part.
_LEAST_SHARE = 1 / 32
_LEAST_PART = 1 / 16


@dataclass(frozen=True)
class Machines:
    """Resources of the cluster."""

    cpus: int
    gpus: int
    nodes: int = 1
    memory: int = 0  # bytes for workers


@dataclass(frozen=True)
class Work:
    """Rows of one shard to process."""

    shard: Shard
    wanted: tuple[Missing, ...]
    size: int  # approximate bytes to read
    suspect: bool = False  # whether workers died at these rows: the next one reports each step reliably


Unit = tuple[Work, ...]  # what one task processes


@dataclass(frozen=True)
class Plan:
    """A survey, and how it will be run."""

    survey: Survey
    machines: Machines
    topology: Topology
    accelerated: bool  # whether each actor holds a GPU
    actors: int
    part_rows: int
    variant: str  # "auto" until a race on these machines has chosen one
    ladder: Ladder | None  # sizes of batches on devices; None: actors run on CPUs, which take any
    advice: Advice | None = None  # measured rates of CPUs and devices, if any
    lease: str | None = None  # of the run directory (see `mmray.pipeline.lease`)

    @property
    def cascade(self) -> Cascade | None:
        """Stages of the variant, if it has several."""
        return self.survey.bundle.manifest.variants[self.variant].cascade

    @property
    def reference(self) -> VariantReference | None:
        """Reference for drift; None: the bundle has none, or the run leaves modalities out."""
        bundle, chosen = self.survey.bundle, self.survey.config.modalities
        whole = chosen is None or set(bundle.spec.modalities) <= set(chosen)
        return bundle.reference.variants.get(self.variant) if bundle.reference and whole else None

    @property
    def steps(self) -> int:
        """How many actors a record may pass: with late decoding in a cascade, one for each stage."""
        config, bundle = self.survey.config, self.survey.bundle
        in_steps = self.topology == "split" and not config.verify_all and config.align is None
        if not in_steps or self.cascade is None or not runs_in_stages(bundle, self.variant):
            return 1
        return len(self.cascade.stages)

    @property
    def batches_together(self) -> int:
        """Batches in one table: each table costs the driver about 10 ms, independent of its size.

        So there are as many as leave each device enough tables to share the work evenly. Stages of a cascade
        get tables that are cut together.
        """
        if self.ladder is None or self.steps > 1:
            return BATCHES
        tables = self.survey.expected_rows / self.ladder.rows[-1] / BATCHES / self.actors / _TABLES_EACH
        return BATCHES * max(1, min(_MOST_TOGETHER, int(tables)))

    @property
    def least_score(self) -> float | None:
        """Score below which a record gets no label; None: no threshold, or the variant is not chosen yet.

        Raises:
            ConfigError: the variant does not support the requested risk.
        """
        return least_score(self.survey.bundle, self.variant, self.survey.config.abstain)

    @property
    def actor_cpus(self) -> int:
        """CPUs reserved for an actor: one for an actor on a CPU, two for one that feeds a device.

        At least one CPU is left for the tasks. None are reserved on a cluster that grows, where tasks may
        take them before the actor's node exists.
        """
        if not self.accelerated:
            return 1
        if self.survey.config.autoscaling:
            return 0
        return min(_FEEDING_CPUS, max(0, self.machines.cpus - 1) // self.actors)

    @property
    def memory_bytes(self) -> int:
        """Memory limit of a worker on a CPU."""
        graph_bytes = 0 if self.variant == "auto" else self.survey.bundle.graph(self.variant).stat().st_size
        return allowance(self.machines.memory, self.machines.cpus, graph_bytes)

    @property
    def task_cpus(self) -> int:
        """CPUs for the tasks of the split topology: those not reserved for actors."""
        return max(1, self.machines.cpus - self.actors * self.actor_cpus)

    def to_json(self) -> dict[str, Any]:
        """Content of plan.json."""
        return {
            "mmray": __version__,
            "identity": self.survey.identity(),
            "config": self.survey.config.model_dump(mode="json"),
            "variant": self.variant,
            "least_score": self.least_score,
            "topology": self.topology,
            "actors": self.actors,
            "part_rows": self.part_rows,
            "ladder": self.ladder.to_json() if self.ladder else None,
            "notes": self.survey.notes,
            "shards": [shard.to_list() for shard in self.survey.shards],
        }

    def units(self, missing: Iterable[tuple[Shard, Sequence[Missing]]]) -> list[Unit]:
        """Cut the missing rows into units of work of similar size, largest first.

        A unit is about `part_rows` records, so that parts are few. Units become smaller towards the end of a
        run, so that all workers finish together: factoring, after Hummel, Schonberg and Flynn, "Factoring: a
        method for scheduling parallel loops" (CACM 35:8, 1992). A shard is split only if an index gives the
        positions of its records.

        Raises:
            InputError: an index is unusable.
        """
        whole = [Work(shard, tuple(gaps), shard.size - gaps[0].start) for shard, gaps in missing]
        left = total = sum(work.size for work in whole)
        part_bytes = self.part_rows * self.survey.census.record_bytes
        workers = self.actors if self.topology == "fused" else self.task_cpus  # that read
        least = min(total / workers * _LEAST_SHARE, part_bytes * _LEAST_PART)

        def target() -> float:
            return min(max(left / workers * _ROUND, least), part_bytes)

        units: list[list[Work]] = []
        room = 0.0
        for work in sorted(whole, key=lambda work: -work.size):
            for piece in self._pieces(work, target):
                if not units or piece.size > room:
                    units.append([])
                    room = target()
                units[-1].append(piece)
                room -= piece.size
                left -= piece.size
        return sorted((tuple(unit) for unit in units), key=lambda unit: -sum(work.size for work in unit))

    def alone(self, missing: Iterable[tuple[Shard, Sequence[Missing]]]) -> list[Unit]:
        """Each gap as a separate unit."""
        return [(Work(shard, (gap,), 0, suspect=True),) for shard, gaps in missing for gap in gaps]

    def _pieces(self, work: Work, target: Callable[[], float]) -> Iterator[Work]:
        """The work, or pieces of about the target size if it is larger and can be split.

        The target is computed again for each piece.
        """
        index = None
        if work.size > target():
            index = index_of(work.shard, read_options(self.survey.config))
        if index is None:
            yield work
            return
        row_bytes = work.shard.size / index.rows
        for gap in work.wanted:
            for piece in index.cut(gap, lambda: round(target() / row_bytes)):
                last = index.rows - 1 if piece.last is None else piece.last
                yield Work(work.shard, (piece,), round((last - piece.first + 1) * row_bytes))


def make_plan(survey: Survey, machines: Machines) -> Plan:
    """Decide how to run on these machines.

    Raises:
        ConfigError: the machines are too small for the config.
    """
    config = survey.config
    accelerated = config.provider in ("cuda", "tensorrt") or (config.provider == "auto" and machines.gpus > 0)
    topology: Topology = "split" if accelerated else "fused"
    if config.topology != "auto":
        topology = config.topology
    if accelerated and topology == "fused":
        raise ConfigError("topology: fused runs only on CPUs; set topology=split, or provider=cpu")
    if config.canary and topology == "split":
        raise ConfigError(
            "canary: works only with topology=fused on CPUs; set that, or run "
            "both bundles and compare the runs with `mmray report ONE OTHER`"
        )
    return Plan(
        survey=survey,
        machines=machines,
        topology=topology,
        accelerated=accelerated,
        actors=_actors(config, topology, accelerated, machines),
        part_rows=config.part_rows or (_DEVICE_PART_ROWS if accelerated else _part_rows(survey.bundle)),
        variant=config.variant,
        ladder=job_ladder(survey.bundle.spec, config.batch_rows) if accelerated else None,
    )


def _actors(config: RunConfig, topology: Topology, accelerated: bool, machines: Machines) -> int:
    """Number of actors: as configured, or as many as fit.

    Without GPUs an actor takes a CPU; in the split topology one CPU must be left for reading and writing, or
    the run would wait forever.
    """
    if accelerated and not machines.gpus and not config.autoscaling:
        raise ConfigError(
            f"provider: {config.provider} needs a GPU, and this cluster has none; set provider=auto or "
            "provider=cpu, add a machine with a GPU, or set autoscaling=true on a cluster that grows"
        )
    room = machines.gpus if accelerated else machines.cpus - (topology == "split")
    actors = config.actors or max(1, room)
    if actors > room and not config.autoscaling:
        raise ConfigError(
            f"actors: {actors} do not fit: {machines.cpus} CPUs and {machines.gpus} GPUs have room for "
            f"{max(0, room)} in the {topology} topology; set a smaller `actors`, add machines, or set "
            "autoscaling=true on a cluster that grows"
        )
    return actors


def _part_rows(bundle: Bundle) -> int:
    """Rows for about a minute of one actor's work, by the slowest subset of modalities that was measured."""
    fp32: dict[str, Any] = bundle.scorecard.get("variants", {}).get("fp32", {})
    model_ms: float = max(fp32.get("ms_per_record", {"assumed": _MODEL_MS}).values())
    low, high = _PART_ROWS
    return min(high, max(low, round(_PART_S * 1e3 / (model_ms + _PREPROCESS_MS))))
