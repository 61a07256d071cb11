"""Has a stage become slower? `make bench-check` times each beside the bare library and asks the baseline.

    OMP_NUM_THREADS=1 python jobs/bench_check.py
    OMP_NUM_THREADS=1 python jobs/bench_check.py --update   # after a loss that was meant, or a gain

A stage's ratio is the library's time over ours (`jobs/_stages.py`), never seconds. `jobs/baseline.json` has
three of each, by the name of the records. Other work on the machine only lowers a ratio, so what seems lost
is measured again, and the best of three counts. Expected: a table, and exit code 1 where a stage lost more
than noise. Half a minute. The tests do the same with a small model and synthetic records, and a wider margin.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from _stages import STAGES, stage_costs
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle
from mmray.errors import MmrayError

BASELINE = Path(__file__).parent / "baseline.json"
ROUNDS = 3
MARGIN = 0.15  # share of a ratio that is noise, at least

Ratios = Mapping[str, float]


def floors(baseline: Sequence[Ratios], margin: float = MARGIN) -> dict[str, float]:
    """What each stage's ratio must not fall below.

    Args:
        baseline: ratios by stage, of several rounds.
        margin: share of the worst round that is noise; or twice the rounds' spread, where that is more.
    """
    found = {}
    for stage in baseline[0]:
        values = [ratios[stage] for ratios in baseline]
        found[stage] = min(values) - max(margin * min(values), 2 * (max(values) - min(values)))
    return found


def best_ratios(measure: Callable[[], Ratios], least: Ratios, rounds: int = ROUNDS) -> dict[str, float]:
    """The best ratio of each stage, measured until none is below its floor, at most `rounds` times."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        best = {stage: max(ratio, best.get(stage, 0.0)) for stage, ratio in measure().items()}
        if all(best[stage] >= least[stage] for stage in best):
            break
    return best


def main(
    input: Annotated[str, typer.Option(help="Shards.")] = "data/tuxpaint",
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
    name: Annotated[str, typer.Option(help="Of these records in the baseline.")] = "stamps",
    update: Annotated[bool, typer.Option("--update", help="Write the baseline.")] = False,
) -> None:
    """Measure, compare, and fail where a stage became slower."""
    known: dict[str, list[Ratios]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    try:
        opened = Bundle.open(bundle)

        def measure() -> Ratios:
            return stage_costs([input], opened, least_rows=100, repeats=3).ratios

        if update:
            rounds = [{s: round(r, 4) for s, r in measure().items()} for _ in range(ROUNDS)]
            BASELINE.write_text(json.dumps({**known, name: rounds}, indent=1) + "\n")
            print(f"{BASELINE.name}: {name} written")
            return
        if name not in known:
            print(f"error: {BASELINE}: has no {name!r}; --update writes it")
            raise typer.Exit(2)
        least = floors(known[name])
        found = best_ratios(measure, least)
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    lost = [stage for stage in STAGES if found[stage] < least[stage]]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("stage", "baseline", "floor", "now", ""):
        table.add_column(column, justify="left" if column in ("stage", "") else "right")
    for stage in STAGES:
        usual = min(ratios[stage] for ratios in known[name])
        numbers = (f"{value:.3f}" for value in (usual, least[stage], found[stage]))
        table.add_row(stage, *numbers, "lost" if stage in lost else "")
    Console().print(table)
    print(json.dumps({"ratio": {stage: round(found[stage], 4) for stage in STAGES}, "lost": lost}))
    if lost:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
