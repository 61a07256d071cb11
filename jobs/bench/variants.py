"""Variants beside each other in the batch job: time, accuracy, and of a cascade the watch over it.

    OMP_NUM_THREADS=1 python jobs/bench variants bundles/stamps-optimized:fp32:image \
        bundles/stamps-optimized:fp32 bundles/stamps-optimized:cascade   # five minutes a contender

A contender is bundle:variant, or bundle:variant:modalities, as `image+text`, for a model that is given no
others. All run over N and over 2N held-out records in turns, in one Ray session. What the second N add is the
slope, so start-up drops out. Each is compared with the first one: how many times as fast, and the one-sided
95 % bound of how much more often right, paired and by groups of records (caption_group); ±: the standard
error of that difference, of which about 1.6 times is the least that so many records can show.
Expected on the stamps: the cascade is at least 1.3 times as fast as the picture alone and not less accurate,
and 2.5 times as fast as fp32 with all. With `--permute-captions` each record has the caption of another one
instead; then the table tells after how many records the run with the last contender, a cascade, said that
early answers went wrong. A table, then one JSON line. Compare ratios of one run; those of the workers' CPU
time suffer less from other work on the machine than the clock's.
"""

import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import typer
from _clustered import clustered_error
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.errors import InputError, MmrayError
from mmray.evaluation.intervals import Clusters
from mmray.pipeline.cluster import connected
from mmray.pipeline.meter import Snapshot
from mmray.pipeline.run import Watcher, run
from mmray.schema import MODALITIES, Modality

Address = tuple[str, int]  # shard and row

_SOON = 1_000  # records within which a shift had better be told
_WORKER = "(ray::MapWorker"  # how Ray names the processes that do all of the work in a fused topology
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ran:
    """A run that is over."""

    output: str
    this_run: dict[str, Any]
    told_at: int | None  # records that were done when a shift was first told
    cpu_s: float  # of the workers

    @property
    def seconds(self) -> dict[str, float]:
        """Of the processors; and of the clock, from the first predictions to the end."""
        return {"cpu": self.cpu_s, "clock": self.this_run["elapsed_s"] - self.this_run["startup_s"]}


@dataclass(frozen=True)
class Contender:
    """A variant of a bundle, and what it may look at."""

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


@dataclass(frozen=True)
class Case:
    """What is run, and how often."""

    contenders: list[Contender]
    shards: list[Path]  # of held-out records
    copies: int  # of them make N
    rounds: int


def parse_contender(text: str) -> Contender:
    """From bundle:variant or bundle:variant:image+text.

    Raises:
        InputError: it is neither, or names a modality that does not exist.
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
    earlier, latest = set(cpu_seconds()), dict[int, float]()  # workers of the run before may still be ending

    def watch(snapshot: Snapshot) -> None:
        latest.update(cpu_seconds())  # a process that has ended keeps what it was last seen with
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
    if summary.get("cascade", {}).get("shift"):
        told.append(summary["rows"])  # between the last look and the end
    used = sum(seconds for pid, seconds in latest.items() if pid not in earlier)
    return Ran(str(output), summary, told[0] if told else None, used)


def cpu_seconds() -> dict[int, float]:
    """What each worker of this machine's Ray session has had of the processors so far, by process (Linux)."""
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


def compare(case: Case, place: Path) -> dict[str, Any]:
    """Slopes and answers of all contenders."""
    for size, copies in (("1N", case.copies), ("2N", 2 * case.copies)):
        (place / size).mkdir()
        for copy in range(copies):
            for shard in case.shards:
                shutil.copyfile(shard, place / size / f"{copy:03d}-{shard.name}")
    slopes: dict[Contender, dict[str, list[float]]] = {c: {"cpu": [], "clock": []} for c in case.contenders}
    latest: dict[Contender, Ran] = {}
    for number in range(case.rounds):
        short, latest = (
            {c: run_once(c, place / size, place / f"{i}-{size}-{number}") for i, c in enumerate(slopes)}
            for size in ("1N", "2N")
        )
        for contender, slope in slopes.items():
            more = latest[contender].this_run["rows"] - short[contender].this_run["rows"]
            for kind, seconds in slope.items():
                longer = latest[contender].seconds[kind] - short[contender].seconds[kind]
                seconds.append(1e3 * longer / more)
    first = next(iter(slopes))
    answers = {contender: decisions(ran, contender.bundle) for contender, ran in latest.items()}
    judged = {address: group for rows in answers.values() for address, group in groups(rows).items()}
    clusters = Clusters(np.array(list(judged.values()), np.str_))
    columns = (
        "contender",
        "MB",
        "CPU ms a record",
        "rows/s",
        "times as fast",
        "accuracy",
        "95 %",
        "more right",
        "±",
        "at least",
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name == "contender" else "right")
    found = []
    for contender, slope in slopes.items():
        ms = {kind: mean(values) for kind, values in slope.items()}
        ratio = {kind: mean(slopes[first][kind]) / ms[kind] for kind in ms}
        right = is_right(answers[contender], judged)
        gain = right.astype(np.float64) - is_right(answers[first], judged)
        bound = clusters.lower(gain, 0.95)
        error = clustered_error(gain, list(judged.values()))
        low, high = clusters.lower(right, 0.975), clusters.upper(right, 0.975)
        table.add_row(
            str(contender),
            f"{contender.megabytes:.0f}",
            f"{ms['cpu']:.1f}",
            f"{1e3 / ms['clock']:.0f}",
            f"{ratio['cpu']:.2f}",
            f"{right.mean():.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{gain.mean():+.3f}",
            f"{error:.3f}",
            f"{bound:+.3f}",
        )
        found.append(
            {
                "contender": str(contender),
                "megabytes": round(contender.megabytes, 1),
                "slopes_ms": {kind: [round(value, 2) for value in values] for kind, values in slope.items()},
                "ratio_to_first": {kind: round(value, 3) for kind, value in ratio.items()},
                "accuracy": round(float(right.mean()), 4),
                "interval": [round(low, 4), round(high, 4)],
                "accuracy_gain": round(float(gain.mean()), 4),
                "accuracy_gain_standard_error": round(error, 4),
                "accuracy_gain_at_least": round(bound, 4),
                "cascade": latest[contender].this_run.get("cascade"),
            }
        )
    Console(width=140).print(table)
    return {
        "records": latest[first].this_run["rows"],
        "judged": len(judged),
        "groups": clusters.count,
        "contenders": found,
    }


def decisions(ran: Ran, bundle: str) -> pa.Table:
    """What a run answered to the records whose label the bundle knows, each once, in their order."""
    known = pc.field("meta_label").isin(Bundle.open(bundle).labels) & pc.starts_with(
        pc.field("shard"), "000-"
    )
    columns = ["shard", "row", "label", "meta_label", "meta_caption_group"]
    rows = ds.dataset(f"{ran.output}/parts").to_table(columns, filter=known)
    return rows.sort_by([("shard", "ascending"), ("row", "ascending")])


def is_right(rows: pa.Table, judged: Iterable[Address]) -> npt.NDArray[np.bool_]:
    """Of each record whether its label was found; a reject has none, as one that has nothing to look at."""
    right = pc.fill_null(pc.equal(rows["label"], rows["meta_label"]), False).to_pylist()
    found = dict(zip(addresses(rows), right, strict=True))
    return np.array([found.get(address, False) for address in judged], np.bool_)


def groups(rows: pa.Table) -> dict[Address, str]:
    """Group of each record; one without is a group of its own."""
    named = rows["meta_caption_group"].to_pylist()
    return {at: n or f"{at[0]}#{at[1]}" for n, at in zip(named, addresses(rows), strict=True)}


def addresses(rows: pa.Table) -> list[Address]:
    """Shard and row of each record."""
    return list(zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True))


def shift(case: Case, place: Path) -> dict[str, Any]:
    """When each run over records with the captions of others says that the cascade went wrong."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("permutation", "told after", "compared", "differ"):
        table.add_column(name, justify="right")
    found = []
    for number in range(case.rounds):
        folder = place / f"permuted-{number}"
        folder.mkdir()
        for copy in range(case.copies):
            random = np.random.default_rng([number, copy])
            for shard in case.shards:
                permute_captions(shard, folder / f"{copy:03d}-{shard.name}", random)
        ran = run_once(case.contenders[-1], folder, place / f"shift-{number}")
        cascade = ran.this_run["cascade"]
        differ = cascade["shadowed"] - cascade["agreed"]
        table.add_row(str(number), str(ran.told_at), str(cascade["shadowed"]), str(differ))
        found.append({"told_at": ran.told_at, "rows": ran.this_run["rows"], **cascade})
    Console(width=140).print(table)
    in_time = [each["told_at"] is not None and each["told_at"] <= _SOON for each in found]
    return {"in_time": sum(in_time), "of": len(in_time), "runs": found}


def permute_captions(source: Path, target: Path, random: np.random.Generator) -> None:
    """Copy a shard; the text of each record that has one becomes that of another record."""
    with tarfile.open(source) as old:
        members = [(member, _content(old, member)) for member in old if member.isfile()]
    texts = [i for i, (member, _) in enumerate(members) if member.name.endswith(".txt")]
    order = random.permutation(texts)
    given = dict(zip(order, np.roll(order, 1), strict=True))  # one round trip: nobody keeps its own
    with tarfile.open(target, "w") as new:
        for i, (member, content) in enumerate(members):
            data = members[given[i]][1] if i in given else content
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def main(
    contenders: Annotated[
        list[str], typer.Argument(help="bundle:variant or bundle:variant:image+text, each.")
    ],
    input: Annotated[Path, typer.Option(help="Directory with the records.")] = Path("data/tuxpaint"),
    shards: Annotated[str, typer.Option(help="Names of the shards that are held out.")] = "test-*.tar",
    copies: Annotated[int, typer.Option(help="The held-out records this many times over are N.")] = 6,
    rounds: Annotated[int, typer.Option(help="Of each contender; or permutations.")] = 3,
    permute_captions: Annotated[bool, typer.Option("--permute-captions", help="Watch a shift.")] = False,
) -> None:
    """Measure, and print the figures."""
    try:
        held_out = sorted(input.glob(shards))
        if not held_out:
            raise InputError(f"{input}: no {shards} there; build them: python datasets/tuxpaint.py")
        case = Case([parse_contender(text) for text in contenders], held_out, copies, rounds)
        with tempfile.TemporaryDirectory() as place, connected():
            found = (shift if permute_captions else compare)(case, Path(place))
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
