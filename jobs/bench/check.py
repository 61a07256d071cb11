"""Check whether the job, or a stage of it, has become slower than the baseline: `make bench-check`.

    OMP_NUM_THREADS=1 python jobs/bench check   # three minutes
    OMP_NUM_THREADS=1 python jobs/bench check --history runs/speed.jsonl   # adds a line, draws all of them
    OMP_NUM_THREADS=1 python jobs/bench check --update   # after an intended loss: 45 minutes

A stage's ratio is the bare library's time over ours (`jobs/bench/_stages.py`); the job's is its throughput
over that of plain processes of the same functions (`jobs/bench/contenders/limit.py`), each on a core of its
own. Seconds are not compared. `jobs/bench/baseline.json` has twenty rounds of each, by the name of the
records. Other work on the machine may have disturbed a tenth of them, so the third lowest is the floor. An
apparent loss is measured again, and counts if three rounds are all below the floor. An unchanged ratio fails
in one of 177 checks: of the C(23, 3) = 1,771 places that three of 23 exchangeable rounds can take, 10 are
below the third lowest of the others. A loss larger than the distance from the highest round to the floor is
reliably found (column `finds`).
Expected: a table, and exit code 1 after a loss. The tests do the same with stages of a small model and
synthetic records, with tolerances for a busy machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean, median
from typing import Annotated, Any

import typer
from _contest import OURS, choose_shards, make_input
from _plots import draw_history
from _side_by_side import paired_ratios
from _stages import stage_costs
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle
from mmray.errors import MmrayError

BASELINE = Path(__file__).parent / "baseline.json"
EVIDENCE = 20  # rounds of a baseline
DISTURBED = 0.1  # share of them that other work on the machine may have slowed down
ROUNDS = 3  # until an apparent loss counts
JOB = "job"

Ratios = Mapping[str, float]


def job_ratio(folder: Path, bundle: Path) -> float:
    """Throughput of the job over that of plain processes that call the same functions."""
    shards, _ = choose_shards(folder, None)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        inputs = make_input(shards, place / "1N", 1), make_input(shards, place / "2N", 2)
        return geometric_mean(paired_ratios((OURS, "limit"), inputs, bundle, place))


def floors(baseline: Sequence[Ratios], room: float = 0.0) -> dict[str, float]:
    """The floor of each ratio: its lowest of some rounds, without those that may have been disturbed.

    Args:
        baseline: ratios by stage, or the job's, of each round.
        room: tolerated share of a loss.
    """
    place = int(DISTURBED * len(baseline))
    return {stage: (1 - room) * sorted(ratios[stage] for ratios in baseline)[place] for stage in baseline[0]}


def found_for_sure(baseline: Sequence[Ratios]) -> dict[str, float]:
    """By which share a stage must become slower to be below its floor in every round."""
    highest = {stage: max(ratios[stage] for ratios in baseline) for stage in baseline[0]}
    return {stage: highest[stage] / least - 1 for stage, least in floors(baseline).items()}


def best_ratios(measure: Callable[[], Ratios], least: Ratios, rounds: int = ROUNDS) -> dict[str, float]:
    """The best ratio of each stage, measured until none is below its floor, at most `rounds` times."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        best = {stage: max(ratio, best.get(stage, 0.0)) for stage, ratio in measure().items()}
        if all(best[stage] >= least[stage] for stage in best):
            break
    return best


def main(
    input: Annotated[Path, typer.Option(help="Directory of tars.")] = Path("data/tuxpaint"),
    bundle: Annotated[Path, typer.Option(help="Bundle directory.")] = Path("bundles/stamps"),
    name: Annotated[str, typer.Option(help="Of these records in the baseline.")] = "stamps",
    update: Annotated[bool, typer.Option("--update", help="Write the baseline.")] = False,
    history: Annotated[
        Path | None, typer.Option(help="A line is added to this file, and all of them drawn beside it.")
    ] = None,
) -> None:
    """Measure, compare, and fail if something became slower."""
    known: dict[str, list[Ratios]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    try:
        opened = Bundle.open(bundle)

        def measure() -> Ratios:
            stages = stage_costs([str(input)], opened, least_rows=100, repeats=3).ratios
            return {**stages, JOB: job_ratio(input, bundle)}

        if update:
            rounds = [{s: round(r, 4) for s, r in measure().items()} for _ in range(EVIDENCE)]
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
    lost = [stage for stage in found if found[stage] < least[stage]]
    print_ratios(known[name], found, lost)
    result = {"ratio": {stage: round(found[stage], 4) for stage in found}, "lost": lost}
    if history:
        remember(history, {"when": datetime.now(UTC).isoformat(timespec="seconds"), **result})
    print(json.dumps(result))
    if lost:
        raise typer.Exit(1)


def print_ratios(baseline: Sequence[Ratios], found: Ratios, lost: Sequence[str]) -> None:
    """A row for each stage."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("stage", "usual", "floor", "finds", "now", ""):
        table.add_column(column, justify="left" if column in ("stage", "") else "right")
    least, sure = floors(baseline), found_for_sure(baseline)
    for stage, ratio in found.items():
        usual = median(ratios[stage] for ratios in baseline)
        numbers = (f"{usual:.3f}", f"{least[stage]:.3f}", f"{sure[stage]:.0%} slower", f"{ratio:.3f}")
        table.add_row(stage, *numbers, "lost" if stage in lost else "")
    Console().print(table)


def remember(history: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to a file of results, and draw all of them into a PNG beside it."""
    history.parent.mkdir(parents=True, exist_ok=True)
    with history.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    entries = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
    draw_history(entries, history.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
