"""The batch job with a cascade beside the same bundle without: time, answers, and the watch over them.

    OMP_NUM_THREADS=1 python jobs/bench_cascade.py --bundle bundles/stamps-optimized

Both variants run over N and over 2N held-out records in turns, in one Ray session. What the second N add
is the slope, so start-up drops out. Expected on the stamps: the cascade is at least 1.6 times as fast, and as
often right. `--permute-captions` instead gives each record the caption of another one: within 1,000 records
the run must say that early answers went wrong. A table, then one JSON line. Compare ratios of one run; those
of CPU time, which is that of the workers, suffer less from other work on the machine than the clock's.
About ten minutes on 2 cores.
"""

import io
import json
import os
import shutil
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import typer
from rich.console import Console
from rich.table import Table

from mmray.bundle import FP32, Bundle
from mmray.config import RunConfig
from mmray.errors import InputError, MmrayError
from mmray.pipeline.cluster import connected
from mmray.pipeline.meter import Snapshot
from mmray.pipeline.run import Watcher, run

_SOON = 1_000  # records within which a shift must be told
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
class Case:
    """What is run, and how often."""

    bundle: str
    cascade: str  # name of the variant
    shards: list[Path]  # of held-out records
    copies: int  # of them make N
    rounds: int


def run_once(bundle: str, variant: str, folder: Path, output: Path) -> Ran:
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
        bundle=bundle,
        output=str(output),
        variant=variant,
        carry=("label",),
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
    """Slopes and answers of both variants."""
    for size, copies in (("1N", case.copies), ("2N", 2 * case.copies)):
        (place / size).mkdir()
        for copy in range(copies):
            for shard in case.shards:
                shutil.copyfile(shard, place / size / f"{copy:03d}-{shard.name}")
    variants = (FP32, case.cascade)
    slopes: dict[str, dict[str, list[float]]] = {v: {"cpu": [], "clock": []} for v in variants}
    latest: dict[str, Ran] = {}
    for number in range(case.rounds):
        short, latest = (
            {v: run_once(case.bundle, v, place / size, place / f"{v}-{size}-{number}") for v in variants}
            for size in ("1N", "2N")
        )
        for variant, slope in slopes.items():
            more = latest[variant].this_run["rows"] - short[variant].this_run["rows"]
            for kind, seconds in slope.items():
                seconds.append(1e3 * (latest[variant].seconds[kind] - short[variant].seconds[kind]) / more)
    found = {variant: decisions(ran, case.bundle) for variant, ran in latest.items()}
    right = {v: float(np.mean(pc.equal(rows["label"], rows["meta_label"]))) for v, rows in found.items()}
    same = float(np.mean(pc.equal(found[FP32]["label"], found[case.cascade]["label"])))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("variant", "CPU ms a record", "ms a record", "accuracy"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for variant, slope in slopes.items():
        times = (f"{mean(values):.1f}" for values in slope.values())
        table.add_row(variant, *times, f"{right[variant]:.3f}")
    Console().print(table)
    ms = {v: {kind: mean(values) for kind, values in slope.items()} for v, slope in slopes.items()}
    return {
        "records": latest[FP32].this_run["rows"],
        "ratio": {kind: round(ms[FP32][kind] / ms[case.cascade][kind], 3) for kind in ms[FP32]},
        "slopes_ms": {
            v: {kind: [round(value, 2) for value in values] for kind, values in slope.items()}
            for v, slope in slopes.items()
        },
        "accuracy": {variant: round(value, 4) for variant, value in right.items()},
        "agreement": round(same, 4),
        "cascade": latest[case.cascade].this_run["cascade"],
    }


def decisions(ran: Ran, bundle: str) -> pa.Table:
    """What a run answered to the records whose label the bundle knows, in their order."""
    known = pc.field("meta_label").isin(Bundle.open(bundle).labels)
    rows = ds.dataset(f"{ran.output}/parts").to_table(["shard", "row", "label", "meta_label"], filter=known)
    return rows.sort_by([("shard", "ascending"), ("row", "ascending")])


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
        ran = run_once(case.bundle, case.cascade, folder, place / f"shift-{number}")
        cascade = ran.this_run["cascade"]
        differ = cascade["shadowed"] - cascade["agreed"]
        table.add_row(str(number), str(ran.told_at), str(cascade["shadowed"]), str(differ))
        found.append({"told_at": ran.told_at, "rows": ran.this_run["rows"], **cascade})
    Console().print(table)
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
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps-optimized",
    cascade: Annotated[str, typer.Option(help="Name of the variant.")] = "cascade",
    input: Annotated[Path, typer.Option(help="Directory with test-*.tar: held-out records.")] = Path(
        "data/tuxpaint"
    ),
    copies: Annotated[int, typer.Option(help="The held-out records this many times over are N.")] = 6,
    rounds: Annotated[int, typer.Option(help="Of each variant; or permutations.")] = 3,
    permute_captions: Annotated[bool, typer.Option("--permute-captions", help="Watch a shift.")] = False,
) -> None:
    """Measure one of both, and print the figures."""
    try:
        shards = sorted(input.glob("test-*.tar"))
        if not shards:
            raise InputError(f"{input}: no test-*.tar there; build them: python datasets/tuxpaint.py")
        case = Case(bundle, cascade, shards, copies, rounds)
        with tempfile.TemporaryDirectory() as place, connected():
            found = (shift if permute_captions else compare)(case, Path(place))
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
