"""Build a bundle from labelled shards: frozen pretrained encoders and a head trained on them.

Result: `bundles/stamps`, about 120 MB, and a table of its accuracy for every subset of the modalities
(stamps: about .92 from all three). The weights (130 MB) are downloaded once into `data/downloads`. Takes
about a minute on two cores; an existing bundle of the same shards and options is kept.

    python jobs/build_bundle.py --input data/tuxpaint --output bundles/stamps
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmray.bundle import Bundle
from mmray.cli.display import scorecard_table
from mmray.errors import MmrayError
from mmray.importing import Recipe, choose_modalities, find_built
from mmray.models.pretrained import PRETRAINED_ENCODERS
from mmray.schema import MODALITIES
from mmray.sources import list_shards


def main(
    input: Annotated[list[str], typer.Option(help="Shards: directory, file or pattern; repeat for more.")],
    output: Annotated[Path, typer.Option(help="Directory of the bundle.")],
    modalities: Annotated[str, typer.Option(help="Modalities of the model.")] = ",".join(MODALITIES),
    downloads: Annotated[Path, typer.Option(help="Directory of downloaded weights.")] = Path(
        "data/downloads"
    ),
) -> None:
    """Build a bundle from labelled shards."""
    try:
        recipe = Recipe(modalities=choose_modalities(modalities.replace(",", " ").split()))
        bundle = find_built(output, recipe.origin(list_shards(input), PRETRAINED_ENCODERS))
        if bundle:
            print(f"{output}: already built from these shards; delete it to build it again")
        else:
            bundle = build(input, output, recipe, downloads)
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    Console().print(scorecard_table(bundle.scorecard))


def build(inputs: list[str], output: Path, recipe: Recipe, downloads: Path) -> Bundle:
    """Import torch, which takes seconds, only if a bundle must be built."""
    from mmray.importing import build_bundle
    from mmray.models.encoders import pretrained_encoders

    return build_bundle(inputs, output, pretrained_encoders(downloads), recipe=recipe, say=print)


if __name__ == "__main__":
    typer.run(main)
