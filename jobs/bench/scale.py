"""Costs against the size of a data set: listing, plan, ledger, driver, meter, memory of the head.

    python jobs/bench scale [--quick] [--only ledger --only plan …]   # an hour or more, quick: minutes

Each size is measured in a separate process. Expected: for each ceiling a table whose costs grow no faster
than the size, and one JSON line at the end; exit code 1 if that, or a bound of docs/scale.md, does not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Annotated

import typer

_SLACK = 1.25  # of a line: times drift on machines with other load


@dataclass(frozen=True)
class Ceiling:
    """Something that grows."""

    measure: str  # "module:function", given a size
    what: str  # sizes are of
    sizes: Sequence[int]
    quick: Sequence[int]
    costs: Sequence[str]  # figures that may grow with the size, and no faster


MANY, QUICK = (25_000, 50_000, 100_000), (500, 1_000, 2_000)
ROWS, FEW_ROWS = (100_000, 200_000, 400_000), (10_000, 20_000)
CEILINGS = {
    "store": Ceiling("listing:of_store", "shards", MANY, QUICK, ("cpu_s", "calls")),
    "disk": Ceiling("listing:of_disk", "shards", MANY, QUICK, ("cpu_s", "peak_mb")),
    "plan": Ceiling("planning:of_shards", "shards", MANY, QUICK, ("units_cpu_s", "peak_mb")),
    "ledger": Ceiling("ledger:of_parts", "parts", MANY, QUICK, ("cpu_s", "again_cpu_s", "load_mb")),
    "fused": Ceiling("driver:fused", "rows", ROWS, FEW_ROWS, ("driver_s", "messages")),
    "split": Ceiling("driver:split", "rows", ROWS, FEW_ROWS, ("driver_s", "messages")),
    "wide": Ceiling("driver:wide", "rows", ROWS, FEW_ROWS, ("driver_s", "messages")),
}

Figures = dict[str, float]


def measured(name: str, size: int) -> Figures:
    """Cost of a size, in a new process, so that its peak memory is only that."""
    command = [sys.executable, __file__, "--measured", name, "--size", str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def bent(ceiling: Ceiling, found: dict[int, Figures]) -> list[str]:
    """Costs that grew faster than the size, in words."""
    return [
        f"{cost}: {found[large][cost]:.4g} for {large:,} {ceiling.what}, "
        f"{found[small][cost]:.4g} for {small:,}"
        for cost in ceiling.costs
        for small, large in pairwise(found)
        if found[large][cost] > _SLACK * large / small * found[small][cost]
    ]


def show(ceiling: Ceiling, found: dict[int, Figures]) -> None:
    """A table: a line for each size."""
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    print("  ".join([f"{ceiling.what:>10s}", *(f"{name:>12s}" for name in names)]))
    for size, figures in found.items():
        print("  ".join([f"{size:10,d}", *(f"{figures.get(name, 0):12.4g}" for name in names)]), flush=True)


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(CEILINGS)}; default: all.")] = None,
    quick: Annotated[bool, typer.Option(help="Small sizes: a functional test, in two minutes.")] = False,
    measured_name: Annotated[str | None, typer.Option("--measured", hidden=True)] = None,
    size: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Measure, print, judge."""
    if measured_name:
        module, _, name = CEILINGS[measured_name].measure.partition(":")
        measure: Callable[[int], Figures] = getattr(import_module(f"_scale.{module}"), name)
        print(json.dumps({name: round(number, 4) for name, number in measure(size).items()}))
        return
    figures, faults = {}, []
    for name in only or CEILINGS:
        ceiling = CEILINGS[name]
        print(f"\n{name}", flush=True)
        found = {size: measured(name, size) for size in (ceiling.quick if quick else ceiling.sizes)}
        show(ceiling, found)
        faults += [f"{name}: {fault}" for fault in bent(ceiling, found)] if not quick else []
        figures[name] = found
    print(json.dumps({**figures, "faults": faults}))
    if faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
