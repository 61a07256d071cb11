"""Add a reference for drift (docs/drift.md) to a bundle that has none.

    python jobs/add_reference.py --bundle bundles/emoji --input data/emoji --output bundles/emoji-referring

Runs each variant that passed its gate over the tune split, and counts. Expected: one line with the number of
records and sketches; the new bundle gives the same answers as the old one. `mmray optimize`, `mmray train`
and jobs/build_bundle.py do this themselves.
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
    bundle: Annotated[str, typer.Option(help="The old bundle.")],
    shards: Annotated[list[str], typer.Option("--input", help="Shards with the tune split.")],
    output: Annotated[Path, typer.Option(help="The new bundle.")],
) -> None:
    """Write the bundle, print its counts; exit code 1 if the tune split is too small."""
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
