"""Simulations with known truth: whether the bounds of gates and cascades hold.

    OMP_NUM_THREADS=1 python jobs/bench gates   # ten minutes on two cores, one with --quick

Draws groups of 1 to 50 records, in which errors occur record by record, for whole groups, or in between (a
correlation within groups of 0, 1 or .5), evenly or more often in large groups, and counts how often each
bound is on the right side of the truth. *New* are the bounds of `mmray.stats.intervals`; they are compared
with percentiles of a bootstrap over groups, and with the exact binomial bound with groups as trials.
Expected: each new bound holds in at least 94 % of 2,000 simulations, each choice based on one is wrong in at
most 6 %; exit code 1 otherwise. Tables, then one JSON line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any

import numpy as np
import typer
from _simulated import (
    ANY,
    HIT,
    ONE,
    SIZES,
    SLICE_LIMIT,
    SLICES,
    Case,
    bound_of_loss,
    chosen_exit,
    chosen_risk,
    wrong_slices,
)
from rich.console import Console
from rich.table import Table

LEAST = 0.94
RATES = (0.002, 0.01, 0.03, 0.1)


def case_lists() -> dict[str, tuple[Callable[..., dict[str, Any]], list[tuple[Any, ...]]]]:
    """What is simulated: the function of each part, and the arguments of its calls."""
    together = [Case(groups, sizes, 1.0) for groups in (50, 150, 500, 1500) for sizes in SIZES]
    apart = [Case(groups, sizes, within) for groups, within in ((150, 0.5), (500, 0.0)) for sizes in SIZES]
    shares = [
        (case, rate, 0.0)
        for case in (*together, *apart)
        if case.sizes != ONE or case in together
        for rate in RATES
    ]
    pairs = [
        (case, *rates)
        for case in together
        if case.groups in (50, 500)
        for rates in ((0.01, 0.01), (0.12, 0.1))
    ]
    slices = [
        (Case(1500, ONE, 1.0), SLICES),
        (Case(1500, ANY, 1.0), SLICES // 2),
    ]
    left = [Case(500, ONE, 1.0), Case(500, ANY, 1.0), Case(500, HIT, 1.0), Case(5000, HIT, 1.0)]
    answered = [Case(500, ONE, 1.0), Case(1500, ANY, 1.0), Case(15_000, HIT, 1.0)]
    return {
        "share": (bound_of_loss, shares),
        "difference": (bound_of_loss, pairs),
        "slices": (wrong_slices, slices),
        "exit": (chosen_exit, [(case, 0.03) for case in left]),
        "risk": (chosen_risk, [(case, 0.05) for case in answered]),
    }


def main(
    simulations: Annotated[int, typer.Option(help="Of each case.")] = 2000,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of them.")] = False,
) -> None:
    """Simulate, print tables and a JSON line, exit with 1 if a bound does not hold."""
    times = simulations // 10 if quick else simulations
    with ProcessPoolExecutor() as pool:
        waiting = {
            part: [(call, pool.submit(function, *call, times)) for call in calls]
            for part, (function, calls) in case_lists().items()
        }
        found = {part: [(call, done.result()) for call, done in calls] for part, calls in waiting.items()}
    console = Console(width=130)
    for table in (_bounds(found["share"] + found["difference"]), _slices(found["slices"])):
        console.print(table)
    for part in ("exit", "risk"):
        console.print(_choices(part, found[part]))
    slack = 3 * np.sqrt(LEAST * (1 - LEAST) / times) if quick else 0.0  # few simulations are not conclusive
    least = min(result["new"] for part in ("share", "difference") for _, result in found[part])
    most = max(result["new"] for part in ("slices", "exit", "risk") for _, result in found[part])
    holds = least >= LEAST - slack and most <= 1 - LEAST + slack
    print(
        json.dumps({"simulations": times, "least_coverage": least, "most_wrong": most, "holds": bool(holds)})
    )
    sys.exit(not holds)


Found = Sequence[tuple[tuple[Any, ...], dict[str, Any]]]


def _bounds(found: Found) -> Table:
    """The least coverage of all cases with the same sizes and rates; widths of those of 500 groups."""
    table = _table(
        "Bounds: least share of simulations in which they hold; mean bound, 500 groups hit as a whole",
        (
            "group sizes",
            "lost - gained",
            "cases",
            "new",
            "percentiles",
            "groups as trials",
            "bound",
            "percentiles",
        ),
    )
    for key in dict.fromkeys((call[0].sizes, *call[1:]) for call, _ in found):
        rows = [(call[0], result) for call, result in found if (call[0].sizes, *call[1:]) == key]
        ours, naive, trials = (
            [result[name] for _, result in rows] for name in ("new", "percentile", "trials")
        )
        width = next(result for case, result in rows if (case.groups, case.within) == (500, 1.0))
        sizes, lost, gained = key
        table.add_row(
            sizes,
            f"{lost:.1%}" + (f" - {gained:.1%}" if gained else ""),
            str(len(rows)),
            *(f"{min(held):.1%}" for held in (ours, naive)),
            "" if gained else f"{min(trials):.1%}",
            *(f"{width[name]:.2%}" for name in ("mean_new", "mean_percentile")),
        )
    return table


def _slices(found: Found) -> Table:
    table = _table(
        f"{SLICES} slices, limit {SLICE_LIMIT:.0%}: how often one at the limit is called good",
        ("groups", "sizes", "at the limit", "Holm", "each alone", "what was seen", "good ones found"),
    )
    for (case, bad), result in found:
        shares = (f"{result[name]:.1%}" for name in ("new", "alone", "point"))
        good = "" if result["found"] is None else f"{result['found']:.1%}"
        table.add_row(str(case.groups), case.sizes, str(bad), *shares, good)
    return table


def _choices(part: str, found: Found) -> Table:
    other, name, what = {
        "exit": ("trials", "groups as trials", "threshold of a cascade: harm above the budget"),
        "risk": ("point", "what was seen", "threshold of an answer: risk above the wanted one"),
    }[part]
    table = _table(
        f"Simulations with a {what}", ("groups", "sizes", "allowed", "new", name, "records above it")
    )
    for (case, allowed), result in found:
        shares = (f"{result[key]:.1%}" for key in ("new", other, "left"))
        table.add_row(str(case.groups), case.sizes, f"{allowed:.0%}", *shares)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if "sizes" in column else "right")
    return table


if __name__ == "__main__":
    typer.run(main)
