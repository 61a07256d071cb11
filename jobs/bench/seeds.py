"""Compares two ways to train the same model, each with several seeds, by accuracy on held-out records.

    python jobs/bench seeds --input data/emoji --one student,student-1 --other logits,logits-1
    # a run of the job for each bundle

Each bundle runs once in the batch job. The gain of a record is the mean over the seeds; its interval is
paired and by groups of records (caption_group), for the seeds that were run. The gains of single seeds show
the effect of another seed. Expected of features in addition to logits: no significant gain. A table, then one
JSON line.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from _watched import Contender, decisions, groups, is_right, run_once
from rich.console import Console
from rich.table import Table

from mmray.errors import InputError, MmrayError
from mmray.pipeline.cluster import connected
from mmray.stats.intervals import Clusters


def main(
    one: Annotated[str, typer.Option(help="Bundles of one way, a seed each, with commas between.")],
    other: Annotated[str, typer.Option(help="Bundles of the other way, with the same seeds.")],
    input: Annotated[Path, typer.Option(help="Directory with the records.")] = Path("data/emoji"),
    shards: Annotated[str, typer.Option(help="Names of the shards that are held out.")] = "test-*.tar",
    variant: Annotated[str, typer.Option(help="Of each bundle.")] = "fp32",
) -> None:
    """Measure, and print the figures."""
    try:
        ours, theirs = one.split(","), other.split(",")
        if len(ours) != len(theirs):
            raise InputError(f"--one has {len(ours)} bundles, --other {len(theirs)}: give one of each a seed")
        pairs = list(zip(ours, theirs, strict=True))
        held_out = sorted(input.glob(shards))
        if not held_out:
            raise InputError(f"{input}: no {shards} there; check --input and --shards")
        answers: list[list[pa.Table]] = []
        with tempfile.TemporaryDirectory() as place, connected():
            folder = Path(place) / "records"
            folder.mkdir()
            for shard in held_out:
                shutil.copyfile(shard, folder / f"0000-{shard.name}")
            for number, pair in enumerate(pairs):
                runs = [
                    run_once(Contender(bundle, variant, None), folder, Path(place) / f"{number}-{i}")
                    for i, bundle in enumerate(pair)
                ]
                answers.append([decisions(ran, bundle) for ran, bundle in zip(runs, pair, strict=True)])
        judged = {at: group for pair in answers for rows in pair for at, group in groups(rows).items()}
        found = np.array([[is_right(rows, judged) for rows in pair] for pair in answers], np.float64)
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    gains = found[:, 0] - found[:, 1]  # [seeds, records]
    low, high = Clusters(np.array(list(judged.values()), np.str_)).interval(gains.mean(axis=0), 0.95)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("seed", "one", "other", "gain"):
        table.add_column(name, justify="right")
    for number, (first, second) in enumerate(found.mean(axis=2)):
        table.add_row(str(number), f"{first:.3f}", f"{second:.3f}", f"{first - second:+.3f}")
    Console().print(table)
    print(f"mean gain {gains.mean():+.3f} ({low:+.3f} to {high:+.3f}, n {len(judged)})")
    print(
        json.dumps(
            {
                "one": found[:, 0].mean(axis=1).round(4).tolist(),
                "other": found[:, 1].mean(axis=1).round(4).tolist(),
                "gain": round(float(gains.mean()), 4),
                "interval": [round(low, 4), round(high, 4)],
                "records": len(judged),
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
