"""How an abstaining model handles records that belong to none of its classes.

    OMP_NUM_THREADS=1 python jobs/bench unknown --bundle bundles/stamps-optimized --input data/tuxpaint
    # seconds

Known are the records of the test split whose label the bundle knows; unknown are those with any other label,
of every split, because it was trained on none of them, and all of `--unknown`. A threshold bounds the share
of wrong *labels* for records like the known ones. It guarantees nothing for the unknown: this shows how many
of them still get a label. Expected on the stamps at a risk of .1: three quarters of the unknown abstain, one
quarter still gets a label (docs/abstaining.md). A table and one JSON line.
"""

import json
from typing import Annotated

import typer
from _unknown import answer, auroc, is_known, report, thresholds_of

from mmray.bundle import FP32, Bundle


def main(
    bundle: Annotated[str, typer.Option(help="Bundle directory, made by `mmray optimize`.")],
    input: Annotated[list[str], typer.Option(help="Shards with `label` and `split` in the JSON members.")],
    unknown: Annotated[
        list[str] | None, typer.Option(help="Shards with records of none of the classes.")
    ] = None,
    variant: Annotated[str, typer.Option(help="Of the bundle.")] = FP32,
) -> None:
    """Answer both kinds of records; print the shares with a label at each threshold."""
    opened = Bundle.open(bundle)
    rows = answer(opened, variant, input)
    known = [row for row in rows if is_known(row, opened) and row.split == "test"]
    others = [row for row in rows if not is_known(row, opened)]
    others += answer(opened, variant, unknown) if unknown else []
    levels = thresholds_of(opened, variant)
    found = {
        "variant": variant,
        "known": len(known),
        "unknown": len(others),
        "auroc": auroc([row.score for row in known], [row.score for row in others]),
        "auroc_wrong": auroc(
            [row.score for row in known if row.right], [row.score for row in known if not row.right]
        ),
        "thresholds": [level.seen_on(known, others) for level in levels],
    }
    report(found)
    print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
