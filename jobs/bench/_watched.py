"""A run of the job with one variant: its results, and the CPU time of its workers."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.errors import InputError
from mmray.pipeline.run import Watcher, run
from mmray.pipeline.snapshot import Snapshot
from mmray.schema import MODALITIES, Modality

Address = tuple[str, int]  # shard and row
_WORKER = "(ray::MapWorker"  # Ray's name of the processes that do all of the work in a fused topology
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ran:
    """A finished run."""

    output: str
    this_run: dict[str, Any]
    told_at: int | None  # records that were done when a shift was first reported
    cpu_s: float  # of the workers

    @property
    def seconds(self) -> dict[str, float]:
        """CPU time; and wall time from the first predictions to the end."""
        return {"cpu": self.cpu_s, "clock": self.this_run["elapsed_s"] - self.this_run["startup_s"]}


@dataclass(frozen=True)
class Contender:
    """A variant of a bundle, and the modalities that it may look at."""

    bundle: str
    variant: str
    modalities: tuple[Modality, ...] | None  # None: all

    @property
    def megabytes(self) -> float:
        """Of the variant's graphs."""
        bundle = Bundle.open(self.bundle)
        cascade = bundle.entry(self.variant).cascade
        graphs = [stage.file for stage in cascade.stages] if cascade else [bundle.entry(self.variant).file]
        return sum(file.stat().st_size for graph in graphs for file in bundle.graph_files(graph)) / 1e6

    def __str__(self) -> str:
        looks_at = f" {'+'.join(self.modalities)} alone" if self.modalities else ""
        return f"{Path(self.bundle).name} {self.variant}{looks_at}"


def parse_contender(text: str) -> Contender:
    """From bundle:variant or bundle:variant:image+text.

    Raises:
        InputError: it has another form, or names an unknown modality.
    """
    bundle, _, rest = text.partition(":")
    variant, _, looks_at = rest.partition(":")
    named = looks_at.split("+") if looks_at else []
    if not bundle or not variant or set(named) - set(MODALITIES):
        raise InputError(f"{text}: give bundle:variant or bundle:variant:image+text")
    return Contender(bundle, variant, tuple(m for m in MODALITIES if m in named) or None)


def run_once(contender: Contender, folder: Path, output: Path) -> Ran:
    """One run of the job."""
    told = []
    earlier, latest = (
        set(cpu_seconds()),
        dict[int, float](),
    )  # workers of the previous run may still be ending

    def watch(snapshot: Snapshot) -> None:
        latest.update(cpu_seconds())  # a process that has ended keeps its last value
        if snapshot.shift:
            told.append(snapshot.rows)

    def nobody(*_: object) -> None: ...

    config = RunConfig(
        input=(str(folder),),
        bundle=contender.bundle,
        output=str(output),
        variant=contender.variant,
        modalities=contender.modalities,
        carry=("label", "caption_group"),
        topology="fused",
    )
    summary = run(config, Watcher(nobody, nobody, watch)).summary["this_run"]
    latest.update(cpu_seconds())  # since the last look
    if summary.get("cascade", {}).get("shift"):
        told.append(summary["rows"])  # between the last look and the end
    used = sum(seconds for pid, seconds in latest.items() if pid not in earlier)
    return Ran(str(output), summary, told[0] if told else None, used)


def cpu_seconds() -> dict[int, float]:
    """CPU time of each worker of this machine's Ray session so far, by process (Linux)."""
    seconds: dict[int, float] = {}
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            name, _, after_name = stat.read_text().rpartition(")")
            pid, fields = int(stat.parent.name), after_name.split()
            parents[pid] = int(fields[1])
            if _WORKER in name:
                seconds[pid] = sum(map(int, fields[11:13])) / _TICKS
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {pid: used for pid, used in seconds.items() if pid in ours}


def decisions(ran: Ran, bundle: str) -> pa.Table:
    """Answers of a run to the records whose label the bundle knows, each once, in order."""
    known = pc.field("meta_label").isin(Bundle.open(bundle).labels) & pc.starts_with(
        pc.field("shard"), "0000-"
    )
    columns = ["shard", "row", "label", "meta_label", "meta_caption_group"]
    rows = ds.dataset(f"{ran.output}/parts").to_table(columns, filter=known)
    return rows.sort_by([("shard", "ascending"), ("row", "ascending")])


def is_right(rows: pa.Table, judged: Iterable[Address]) -> npt.NDArray[np.bool_]:
    """For each record, whether its label was found; not for a reject, for example without any modality."""
    right = pc.fill_null(pc.equal(rows["label"], rows["meta_label"]), False).to_pylist()
    found = dict(zip(addresses(rows), right, strict=True))
    return np.array([found.get(address, False) for address in judged], np.bool_)


def groups(rows: pa.Table) -> dict[Address, str]:
    """Group of each record; one without is a group by itself."""
    named = rows["meta_caption_group"].to_pylist()
    return {at: n or f"{at[0]}#{at[1]}" for n, at in zip(named, addresses(rows), strict=True)}


def addresses(rows: pa.Table) -> list[Address]:
    """Shard and row of each record."""
    return list(zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True))
