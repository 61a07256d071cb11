"""`mmray train`: makes a bundle from a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mmray.bundle import Bundle
from mmray.cli.display import console, print_line
from mmray.cli.outgoing import check_file
from mmray.errors import UsageError

if TYPE_CHECKING:
    from mmray.training.profile import TrainingProfile

_PROFILED = 20  # batches
_SHOWN = 10  # operators


@dataclass(frozen=True)
class Asked:
    """The options of `mmray train`."""

    output: Path  # of the bundle
    work: Path | None  # checkpoints and curves; None: runs/train/NAME
    downloads: Path
    workers: int
    trace: Path | None  # file of a profile; if set, only that is made
    assignments: Sequence[str]


def train_recipe(recipe_file: Path, asked: Asked) -> None:
    """Train, write the bundle and show its quality; or profile some batches.

    Raises:
        UsageError: the recipe, the shards or the output is unusable, or a package is not installed.
    """
    try:
        from mmray.training.profile import profile_training
        from mmray.training.recipe import load_recipe
        from mmray.training.run import Places, Training, train_bundle
    except ModuleNotFoundError as e:
        raise UsageError(f"training needs the package {e.name}: pip install 'mmray[train]'") from e
    recipe = load_recipe(recipe_file, asked.assignments)
    work = asked.work or Path("runs/train") / asked.output.name
    places = Places(work, Path("data/prepared"), asked.downloads)
    if asked.trace:
        check_file("--profile", asked.trace)
        _print_profile(profile_training(Training(recipe, places, print_line), _PROFILED, asked.trace))
        print_line(f"wrote {asked.trace}: open it at ui.perfetto.dev, or in chrome://tracing")
        return
    bundle = train_bundle(recipe, asked.output, places, workers=asked.workers, say=print_line)
    _print_scores(bundle)
    print_line(f"curves: {places.work / 'curves.png'}")


def _print_scores(bundle: Bundle) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("given", "tune", "test", "95 %", "n"):
        table.add_column(name, justify="left" if name == "given" else "right")
    tune, test = bundle.scorecard["tune"], bundle.scorecard["test"]
    for subset, score in test.items():
        interval = f"{score['low']:.3f} to {score['high']:.3f}"
        table.add_row(
            subset,
            f"{tune[subset]['accuracy']:.3f}",
            f"{score['accuracy']:.3f}",
            interval,
            str(score["records"]),
        )
    console.print(table)


def _print_profile(found: TrainingProfile) -> None:
    each = found.seconds / found.batches
    print_line(f"{found.batches} batches, {each:.2f} s each; what each step takes by itself:")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("operator", "calls a batch", "ms a batch", "share", "without it, at most"):
        table.add_column(name, justify="left" if name == "operator" else "right")
    for operator in found.operators[:_SHOWN]:
        share = min(operator.seconds / found.seconds, 0.99)
        table.add_row(
            operator.name,
            f"{operator.calls / found.batches:.0f}",
            f"{1e3 * operator.seconds / found.batches:.1f}",
            f"{share:.0%}",
            f"{1 / (1 - share):.2f} times as fast",
        )
    console.print(table)
