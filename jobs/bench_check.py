"""Has the job, or a stage of it, become slower? `make bench-check` asks the baseline.

    OMP_NUM_THREADS=1 python jobs/bench_check.py
    OMP_NUM_THREADS=1 python jobs/bench_check.py --update   # after a loss that was meant, or a gain

A stage's ratio is the bare library's time over ours (`jobs/_stages.py`); the job's is its throughput over
that of plain processes of the same functions (`jobs/contenders/limit.py`), each on a core of its own. Never
seconds. `jobs/baseline.json` has three of each, by the name of the records. Other work on the machine lowers
ratios, so what seems lost is measured again, and the best of three counts. Expected: a table, and exit code 1
where more was lost than noise. Three minutes. The tests do the same with the stages of a small model and
synthetic records, and a wider margin.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Annotated

import typer
from _contest import OURS, choose_shards, make_input
from _side_by_side import paired_ratios
from _stages import stage_costs
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle
from mmray.errors import MmrayError

BASELINE = Path(__file__).parent / "baseline.json"
ROUNDS = 3
MARGIN = 0.15  # share of a ratio that is noise, at least
JOB = "job"

Ratios = Mapping[str, float]


def job_ratio(folder: Path, bundle: Path) -> float:
    """Throughput of the job over that of plain processes that call the same functions."""
    shards, _ = choose_shards(folder, None)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        inputs = make_input(shards, place / "1N", 1), make_input(shards, place / "2N", 2)
        return geometric_mean(paired_ratios((OURS, "limit"), inputs, bundle, place))


def floors(baseline: Sequence[Ratios], margin: float = MARGIN) -> dict[str, float]:
    """What each ratio must not fall below.

    Args:
        baseline: ratios by stage, or the job's, of several rounds.
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
    input: Annotated[Path, typer.Option(help="Directory of tars.")] = Path("data/tuxpaint"),
    bundle: Annotated[Path, typer.Option(help="Bundle directory.")] = Path("bundles/stamps"),
    name: Annotated[str, typer.Option(help="Of these records in the baseline.")] = "stamps",
    update: Annotated[bool, typer.Option("--update", help="Write the baseline.")] = False,
) -> None:
    """Measure, compare, and fail where something became slower."""
    known: dict[str, list[Ratios]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    try:
        opened = Bundle.open(bundle)

        def measure() -> Ratios:
            stages = stage_costs([str(input)], opened, least_rows=100, repeats=3).ratios
            return {**stages, JOB: job_ratio(input, bundle)}

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
    lost = [stage for stage in found if found[stage] < least[stage]]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("stage", "baseline", "floor", "now", ""):
        table.add_column(column, justify="left" if column in ("stage", "") else "right")
    for stage in found:
        usual = min(ratios[stage] for ratios in known[name])
        numbers = (f"{value:.3f}" for value in (usual, least[stage], found[stage]))
        table.add_row(stage, *numbers, "lost" if stage in lost else "")
    Console().print(table)
    print(json.dumps({"ratio": {stage: round(found[stage], 4) for stage in found}, "lost": lost}))
    if lost:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
