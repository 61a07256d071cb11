"""Compares variants in the batch job: time, accuracy, and detection of a shift by a cascade.

    OMP_NUM_THREADS=1 python jobs/bench variants bundles/stamps-optimized:fp32:image \
        bundles/stamps-optimized:fp32 bundles/stamps-optimized:cascade   # five minutes a contender

A contender is bundle:variant, or bundle:variant:modalities, as `image+text`, to use only these. All run over
N held-out records in turns, in one Ray session, then over N and so many more that these take `--seconds`: the
additional time for each additional record is the slope, without start-up. Each is compared with the first
one: relative speed, and the one-sided 95 % bound of the difference in accuracy, paired and by groups of
records (caption_group); ±: the standard error of that difference; about 1.6 times it is the smallest
difference that so many records can show. Expected on the stamps: the cascade is at least 1.3 times as fast as
the picture alone and not less accurate, and 2.5 times as fast as fp32 with all. With `--permute-captions`
each record has the caption of another one instead; then the table shows after how many records the run with
the last contender, a cascade, reported wrong early answers. A table, then one JSON line. Compare ratios of
one run; those of the workers' CPU time are less affected by other load than wall time.
"""

import io
import json
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import typer
from _clustered import clustered_error
from _plots import draw_contenders
from _watched import (
    Contender,
    Ran,
    decisions,
    groups,
    is_right,
    parse_contender,
    run_once,
)
from rich.console import Console
from rich.table import Table

from mmray.errors import InputError, MmrayError
from mmray.pipeline.cluster import connected
from mmray.stats.intervals import Clusters

_SOON = 1_000  # records within which a shift should be reported
_MOST_COPIES = 64  # of N: bounds the disk


@dataclass(frozen=True)
class Case:
    """Contenders and repetitions."""

    contenders: list[Contender]
    shards: list[Path]  # of held-out records
    copies: int  # of them make N
    rounds: int
    seconds: float  # that the records beyond N take, about


class Inputs:
    """The held-out records, so many times, each number of copies in a folder of its own."""

    def __init__(self, shards: list[Path], place: Path) -> None:
        self._shards, self._place = shards, place

    def of(self, copies: int) -> Path:
        """The folder with so many copies; made if it is new."""
        folder = self._place / f"{copies}-times"
        if not folder.exists():
            folder.mkdir()
            for copy in range(copies):
                for shard in self._shards:
                    shutil.copyfile(shard, folder / f"{copy:04d}-{shard.name}")
        return folder


def more_copies(ran: Ran, copies: int, seconds: float) -> int:
    """Further copies of the records that take so many seconds, judged by a run over some copies of them.

    At least as many as that run had, and a power of two times that, so that contenders share inputs.
    """
    more, took = copies, ran.seconds["clock"]
    while more * took / copies < seconds and more < _MOST_COPIES * copies:
        more *= 2
    return more


def _tell(which: str, contender: Contender, ran: Ran) -> None:
    """A line of progress: with many contenders the table takes a quarter of an hour."""
    rows = ran.this_run["rows"]
    print(f"   {which}: {contender}, {rows:,} records in {ran.seconds['clock']:.0f} s", flush=True)


def compare(case: Case, place: Path) -> dict[str, Any]:
    """Slopes and answers of all contenders."""
    inputs = Inputs(case.shards, place)
    slopes: dict[Contender, dict[str, list[float]]] = {c: {"cpu": [], "clock": []} for c in case.contenders}
    latest: dict[Contender, Ran] = {}
    copies: dict[Contender, int] = {}
    for number in range(case.rounds):
        which = f"round {number + 1} of {case.rounds}, " if case.rounds > 1 else ""
        short = {}
        for i, c in enumerate(slopes):
            short[c] = run_once(c, inputs.of(case.copies), place / f"{i}-short-{number}")
            _tell(f"{which}start {i + 1} of {len(slopes)}", c, short[c])
        if not number:  # all rounds have the same records
            copies = {c: case.copies + more_copies(short[c], case.copies, case.seconds) for c in slopes}
        for i, c in enumerate(slopes):
            latest[c] = run_once(c, inputs.of(copies[c]), place / f"{i}-long-{number}")
            _tell(f"{which}{i + 1} of {len(slopes)}", c, latest[c])
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
                "records": latest[contender].this_run["rows"],
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
        "judged": len(judged),
        "groups": clusters.count,
        "contenders": found,
    }


def shift(case: Case, place: Path) -> dict[str, Any]:
    """When each run over records with permuted captions reports that the cascade went wrong."""
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
                permute_captions(shard, folder / f"{copy:04d}-{shard.name}", random)
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
    given = dict(zip(order, np.roll(order, 1), strict=True))  # one cycle: no record keeps its own
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
    copies: Annotated[int, typer.Option(help="The held-out records this many times over are N.")] = 2,
    rounds: Annotated[int, typer.Option(help="Of each contender; or permutations.")] = 3,
    seconds: Annotated[float, typer.Option(help="That the records beyond N take, about.")] = 15.0,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw: accuracy over speed.")] = None,
    permute_captions: Annotated[bool, typer.Option("--permute-captions", help="Watch a shift.")] = False,
) -> None:
    """Measure, and print the figures."""
    try:
        held_out = sorted(input.glob(shards))
        if not held_out:
            raise InputError(f"{input}: no {shards} there; build them: python datasets/tuxpaint.py")
        case = Case([parse_contender(text) for text in contenders], held_out, copies, rounds, seconds)
        with tempfile.TemporaryDirectory() as place, connected():
            found = (shift if permute_captions else compare)(case, Path(place))
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    if plot and not permute_captions:
        draw_contenders(found["contenders"], plot)
    print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
