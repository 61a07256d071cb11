"""mmray against alternatives, and against the limit of the machine. `make bench` runs it.

    OMP_NUM_THREADS=1 python jobs/bench throughput --input data/tuxpaint --bundle bundles/stamps   # 20 min

Every contender (`jobs/bench/contenders/`) predicts N records, then 2N, in a separate process; the
additional time of the second N is the slope, without start-up. Rounds are interleaved, and a contender with
other answers than mmray's aborts the benchmark. A first run of each fills the page cache and measures memory;
its time does not count. Expected: a table, then one JSON line with mmray's throughput over each contender's,
the median of the rounds' ratios. Compare ratios of one run on a quiet machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from _contest import (
    OURS,
    SCRIPTS,
    Input,
    Ran,
    answers,
    check_answers,
    choose_shards,
    make_input,
    run_contender,
    slope_ms,
)
from _stages import stage_costs
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle
from mmray.errors import InputError, MmrayError

_STAGE_ROWS = 100  # at least; shards are taken whole
_LONGER = 10  # times the records, to see whether memory grows


def contest(
    names: Sequence[str], inputs: tuple[Input, Input], bundle: Path, place: Path, rounds: int
) -> tuple[dict[str, list[tuple[Ran, Ran]]], dict[str, Ran]]:
    """Runs over N and 2N of each contender, one pair a round; and the first run of each, with its memory."""
    once, twice = inputs
    first = {name: run_contender(name, once, place / f"{name}-0", bundle, sampled=True) for name in names}
    pairs: dict[str, list[tuple[Ran, Ran]]] = {name: [] for name in names}
    for number in range(1, rounds + 1):
        turn = number % len(names)  # no contender always runs first
        for name in [*names[turn:], *names[:turn]]:
            short, long = (
                run_contender(name, given, place / f"{name}-{number}-{size}", bundle)
                for size, given in (("1N", once), ("2N", twice))
            )
            pairs[name].append((short, long))
        ours = answers(OURS, pairs[OURS][-1][1].output)
        for name in names:
            check_answers(name, answers(name, pairs[name][-1][1].output), ours)
    return pairs, first


def startup(ran: Ran) -> dict[str, float]:
    """mmray's seconds from the command to the first prediction, by step."""
    marks = [ran.said[name] for name in ("command", "surveyed", "planned", "first")]
    names = ("imports_and_survey", "ray", "workers_and_first_block")
    return {name: round(b - a, 2) for name, a, b in zip(names, marks, marks[1:], strict=False)}


def print_contest(
    slopes: Mapping[str, list[float]], starts: Mapping[str, float], first: Mapping[str, Ran]
) -> None:
    """One row a contender."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("contender", "ms a record", "from", "to", "mmray is faster by", "start-up s", "peak MB"):
        table.add_column(name, justify="left" if name == "contender" else "right")
    for name, slope in slopes.items():
        ratio = median(b / a for a, b in zip(slopes[OURS], slope, strict=True))
        times = (f"{value:.1f}" for value in (median(slope), min(slope), max(slope)))
        table.add_row(name, *times, f"{ratio:.2f}", f"{starts[name]:.1f}", f"{first[name].peak_mb or 0:.0f}")
    Console().print(table)


def main(
    input: Annotated[Path, typer.Option(help="Directory of tars.")] = Path("data/tuxpaint"),
    bundle: Annotated[Path, typer.Option(help="Bundle directory.")] = Path("bundles/stamps"),
    only: Annotated[str, typer.Option(help="Contenders, by comma; mmray always runs.")] = ",".join(SCRIPTS),
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    records: Annotated[int | None, typer.Option(help="Minimum of records; whole shards are used.")] = None,
    copies: Annotated[int, typer.Option(min=1, help="N is this many times those records.")] = 2,
    memory: Annotated[bool, typer.Option("--memory", help="Also mmray's memory at 10 N records.")] = False,
) -> None:
    """Run the contest, and print the results."""
    names = [name for name in SCRIPTS if name == OURS or name in only.split(",")]
    try:
        if unknown := set(only.split(",")) - set(SCRIPTS):
            raise InputError(f"--only {', '.join(sorted(unknown))}: known are {', '.join(SCRIPTS)}")
        shards, held = choose_shards(input, records)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            inputs = make_input(shards, place / "1N", copies), make_input(shards, place / "2N", 2 * copies)
            pairs, first = contest(names, inputs, bundle, place, rounds)
            growth = _growth(shards, bundle, place, first[OURS], copies) if memory else {}
        costs = stage_costs(list(map(str, shards)), Bundle.open(bundle), least_rows=_STAGE_ROWS, repeats=2)
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    slopes = {name: [slope_ms(a, b) for a, b in found] for name, found in pairs.items()}
    starts = {name: median(ran.startup_s for pair in found for ran in pair) for name, found in pairs.items()}
    print_contest(slopes, starts, first)
    ratios = {
        name: [theirs / ours for ours, theirs in zip(slopes[OURS], slope, strict=True)]
        for name, slope in slopes.items()
        if name != OURS
    }
    found: dict[str, Any] = {
        "ratio": {name: round(median(values), 3) for name, values in ratios.items()},
        "ratios": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
        "slope_ms": {name: [round(value, 2) for value in slope] for name, slope in slopes.items()},
        "startup_s": round(starts[OURS], 2),
        "startup": startup(pairs[OURS][-1][0]),
        "startups_s": {name: round(seconds, 2) for name, seconds in starts.items()},
        "peak_rss_mb": {name: round(ran.peak_mb or 0) for name, ran in first.items()},
        "stages": {stage: round(ms, 4) for stage, ms in costs.ours.items()},
        "records": held * copies,
        **growth,
    }
    print(json.dumps(found))


def _growth(shards: list[Path], bundle: Path, place: Path, short: Ran, copies: int) -> dict[str, float]:
    """Peak memory of mmray at ten times the records over that at one."""
    given = make_input(shards, place / "10N", _LONGER * copies)
    long = run_contender(OURS, given, place / "long", bundle, sampled=True)
    return {"memory_growth": round((long.peak_mb or 0) / (short.peak_mb or 1), 3)}


if __name__ == "__main__":
    typer.run(main)
