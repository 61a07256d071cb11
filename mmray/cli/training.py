"""`mmray train`: a recipe becomes a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from mmray.cli.display import console, print_line
from mmray.errors import UsageError


def train_recipe(
    recipe_file: Path,
    output: Path,
    work: Path | None,
    downloads: Path,
    workers: int,
    assignments: Sequence[str],
) -> None:
    """Train, write the bundle, show how good it is.

    Raises:
        UsageError: the recipe, the shards or the place is not fit, or a package is not installed.
    """
    try:
        from mmray.training.recipe import load_recipe
        from mmray.training.run import Places, train_bundle
    except ModuleNotFoundError as e:
        raise UsageError(f"training needs the package {e.name}: pip install 'mmray[train]'") from e
    recipe = load_recipe(recipe_file, assignments)
    places = Places(work or Path("runs/train") / output.name, Path("data/prepared"), downloads)
    bundle = train_bundle(recipe, output, places, workers=workers, say=print_line)
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
    print_line(f"curves: {places.work / 'curves.png'}")
