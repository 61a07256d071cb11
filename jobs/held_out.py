"""Compare runs on the held-out records: those whose JSON member has split = test.

    python jobs/held_out.py --bundle bundles/stamps --run all=runs/demo --run image=runs/demo-image

The runs must carry label and split (`carry: [label, split]`); only records whose label the bundle knows
are used. Expected on the stamps: all modalities ahead of the image alone by several points.
"""

from math import sqrt
from typing import Annotated

import pyarrow.compute as pc
import pyarrow.dataset as ds
import typer
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle


def main(
    bundle: Annotated[str, typer.Option(help="Bundle directory.")],
    run: Annotated[list[str], typer.Option(help="NAME=RUN_DIRECTORY; may be repeated.")],
) -> None:
    """Print the accuracy of each run on the held-out records."""
    labels = Bundle.open(bundle).labels
    held_out = (pc.field("meta_split") == "test") & pc.field("meta_label").isin(labels)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("run", "records", "accuracy", "± std. error"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for item in run:
        name, _, directory = item.partition("=")
        rows = ds.dataset(f"{directory}/parts").to_table(["label", "meta_label"], filter=held_out)
        right = pc.mean(pc.equal(rows["label"], rows["meta_label"])).as_py() or 0.0
        error = sqrt(right * (1 - right) / max(1, rows.num_rows))
        table.add_row(name, str(rows.num_rows), f"{right:.3f}", f"{error:.3f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
