"""Drift detection on another artist's records: how soon, how many false alarms, at what cost.

    OMP_NUM_THREADS=1 python jobs/bench drift --bundle bundles/emoji --input data/emoji   # seven minutes

Runs one variant over the tune and the test split once, without Ray. Then, 200 times each:

- *no shift*: a reference and 500 other records, both drawn from the tune split, no caption group in both;
- *a day*: a reference and 12,800 records, each drawn independently from those of the tune split;
- *another artist*: the same reference, and records of the test split, until an alarm.

Expected on the emoji set: at a level of 1 % a false alarm in one draw of a hundred at most, at 20 % in fewer
than 20 %; the unseen artist detected within 500 records each time; the cost less than 2 % of the inference.
Exit code 1 otherwise. Tables, then one JSON line.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Annotated, Any

import numpy as np
import typer
from _drift import KINDS, SHOWN, Study, cost, only, run_split, watched
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle
from mmray.drift import Reference
from mmray.drift.reference import main_directions
from mmray.evaluation import Records
from mmray.predictor import Predictor

DAY = 12_800  # records
LOOSE = 0.2  # a level at which false alarms occur, to test the bound
MOST_FALSE, MOST_COST = 0.01, 0.02
_ALL = 10**6


def main(
    bundle: Annotated[str, typer.Option(help="Whose records are run.")] = "bundles/emoji",
    shards: Annotated[str, typer.Option("--input", help="Shards of a tune and a test split.")] = "data/emoji",
    variant: Annotated[str, typer.Option(help="Of the bundle.")] = "fp32",
    draws: Annotated[int, typer.Option(help="Of references and of records.")] = 200,
) -> None:
    """Run the study, print tables and a JSON line, exit with 1 if the results are not as expected."""
    opened = Bundle.open(bundle)
    predict = Predictor(opened, variant=variant, provider="cpu")
    records = Records([shards], opened, {"train": 1, "tune": _ALL, "test": _ALL})
    loaded = records.load("tune")
    study = Study(opened, run_split(predict, loaded), run_split(predict, records.load("test")))
    false, tests, by = Counter[str](), Counter[str](), Counter[str]()
    told: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for _ in range(draws):
        layout, counted, shown = study.drawn()
        reference, tune, test = study.reference(layout, counted)
        day = study.choose(len(study.tune.groups), DAY)
        fresh, same, _ = study.reference(layout, study.choose(len(study.tune.groups), len(counted)))
        for name, compared, values, rows in (("500", reference, tune, shown), ("a day", fresh, same, day)):
            loose = watched(compared, values, rows, LOOSE)
            tests[name] += loose.tests
            false[f"{name}, level {LOOSE:g}"] += loose.alarm is not None
            # A stricter watch raises no alarm if this one does not.
            false[name] += bool(loose.alarm) and watched(compared, values, rows).alarm is not None
        others = study.choose(len(study.test.groups), len(study.test.groups))
        for kind, numbers in told.items():
            if alarm := watched(only(reference, kind), test, others).alarm:
                numbers.append(alarm.after)
                by[alarm.sketch] += kind == "all"
    detected = {
        kind: {"told": len(n), "median": int(np.median(n or [0])), "most": max(n, default=0)}
        for kind, n in told.items()
    }
    directions = main_directions(study.tune.features[layout])
    whole = Reference(features=opened.manifest.features, directions=directions, variants={variant: reference})
    costs = cost(predict, loaded, whole, variant)
    show(false, detected, draws)
    found = {"draws": draws, "false_alarms": false, "tests": tests, "detected": detected, "by": by}
    print(json.dumps(found | costs))
    soon = detected["all"]["told"] == draws and detected["all"]["most"] <= SHOWN
    rare = max(false["500"], false["a day"]) <= MOST_FALSE * draws
    sys.exit(0 if soon and rare and costs["share"] < MOST_COST else 1)


def show(false: Counter[str], detected: dict[str, dict[str, Any]], draws: int) -> None:
    """Print tables."""
    console = Console()
    table = Table("without a shift", "false alarms", "of", title="False alarms")
    for name, number in sorted(false.items()):
        table.add_row(name, str(number), str(draws))
    console.print(table)
    table = Table("watched", "told", "of", "median records", "most", title="The artist that was never seen")
    for kind, row in detected.items():
        table.add_row(kind, str(row["told"]), str(draws), str(row["median"]), str(row["most"]))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
