"""Write a bundle with a reference of drift (docs/drift.md), for one that was made without.

    python jobs/add_reference.py --bundle bundles/emoji --input data/emoji --output bundles/emoji-referring

Runs each variant that passed its gate over the tune split, and counts. Expected: one line with the number of
records and sketches; the new bundle answers as the old one does. `mmray optimize`, `mmray train` and
jobs/build_bundle.py need no such step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmray.bundle import Bundle, extend_bundle
from mmray.drift.reference import LEAST_RECORDS
from mmray.evaluation import reference_from


def main(
    bundle: Annotated[str, typer.Option(help="To start from.")],
    shards: Annotated[list[str], typer.Option("--input", help="Shards with the tune split.")],
    output: Annotated[Path, typer.Option(help="The new bundle.")],
) -> None:
    """Write the bundle, print what it has; exit code 1 where the tune split is too small."""
    parent = Bundle.open(bundle)
    made = extend_bundle(
        output,
        parent,
        {},
        scorecard=parent.scorecard,
        origin={"reference": " ".join(shards)},
        describe=lambda made: reference_from(made, shards),
    )
    if made.reference is None:
        sys.exit(f"{' '.join(shards)}: fewer than {LEAST_RECORDS} usable records of tune; {output} has none")
    for name, found in made.reference.variants.items():
        print(f"{name}: {found.records} records in {len(found.sketches)} sketches")


if __name__ == "__main__":
    typer.run(main)
