"""Compares two models by accuracy on held-out records: each trained with several seeds, or on several folds.

    python jobs/bench seeds --input data/emoji --one student,student-1 --other logits,logits-1
    python jobs/bench seeds --input data/emoji,data/emoji-apple --one student,student-apple \
        --other late,late-apple   # a run of the job for each bundle

Each bundle runs once in the batch job, in fp32 and with all modalities, or as bundle:variant:image+text. One
input for all: the gain of a record is the mean over the seeds. An input for each pair: the records of all
folds are taken together. The interval is paired and by groups of records (caption_group), a group of several
folds being one. The gains of single seeds or folds show the effect of another one. Expected of features in
addition to logits: no significant gain. A table, then one JSON line.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from _clustered import clustered_error
from _watched import Contender, decisions, groups, is_right, parse_contender, run_once
from rich.console import Console
from rich.table import Table

from mmray.bundle import FP32
from mmray.errors import InputError, MmrayError
from mmray.pipeline.cluster import connected
from mmray.stats.intervals import Clusters


def main(
    one: Annotated[str, typer.Option(help="Bundles of one model, with commas between.")],
    other: Annotated[str, typer.Option(help="Bundles of the other, with the same seeds or folds.")],
    input: Annotated[
        str, typer.Option(help="Directory with the records, or one for each pair.")
    ] = "data/emoji",
    shards: Annotated[str, typer.Option(help="Names of the shards that are held out.")] = "test-*.tar",
) -> None:
    """Measure, and print the figures."""
    try:
        ours, theirs, inputs = (text.split(",") for text in (one, other, input))
        if len(ours) != len(theirs):
            raise InputError(f"--one has {len(ours)} bundles, --other {len(theirs)}: give as many of each")
        if len(inputs) not in (1, len(ours)):
            raise InputError(
                f"--input has {len(inputs)} directories: give one, or one for each bundle of --one"
            )
        held_out = [_held_out(Path(folder), shards) for folder in inputs]
        pairs = [(contender(a), contender(b)) for a, b in zip(ours, theirs, strict=True)]
        found: list[npt.NDArray[np.float64]] = []  # [2, records of the pair]
        named: list[list[str]] = []
        with tempfile.TemporaryDirectory() as place, connected():
            for number, pair in enumerate(pairs):
                folder = Path(place) / f"{number}"
                folder.mkdir()
                for shard in held_out[number % len(inputs)]:
                    shutil.copyfile(shard, folder / f"0000-{shard.name}")
                runs = [run_once(each, folder, Path(place) / f"{number}-{i}") for i, each in enumerate(pair)]
                answers = [decisions(ran, c.bundle) for ran, c in zip(runs, pair, strict=True)]
                judged = {at: group for rows in answers for at, group in groups(rows).items()}
                found.append(np.array([is_right(rows, judged) for rows in answers], np.float64))
                named.append(list(judged.values()))
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    gain, of = pooled([right[0] - right[1] for right in found], named, is_folds=len(inputs) > 1)
    low, high = Clusters(np.array(of, np.str_)).interval(gain, 0.95)
    error = clustered_error(gain, of)
    means = np.array([right.mean(axis=1) for right in found])
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("pair", "n", "one", "other", "gain"):
        table.add_column(name, justify="right")
    for number, (first, second) in enumerate(means):
        row = (f"{first:.3f}", f"{second:.3f}", f"{first - second:+.3f}")
        table.add_row(str(number), str(len(named[number])), *row)
    Console().print(table)
    print(f"mean gain {gain.mean():+.3f} ± {error:.3f} ({low:+.3f} to {high:+.3f}, n {len(gain)})")
    print(
        json.dumps(
            {
                "one": means[:, 0].round(4).tolist(),
                "other": means[:, 1].round(4).tolist(),
                "gain": round(float(gain.mean()), 4),
                "standard_error": round(error, 4),
                "interval": [round(low, 4), round(high, 4)],
                "records": len(gain),
            }
        )
    )


def contender(text: str) -> Contender:
    """From bundle, then fp32 with all modalities, or bundle:variant, or bundle:variant:image+text."""
    return parse_contender(text) if ":" in text else Contender(text, FP32, None)


def pooled(
    gains: list[npt.NDArray[np.float64]], named: list[list[str]], *, is_folds: bool
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Gain and group of each record: over all folds, or each the mean of the seeds.

    Raises:
        InputError: the bundles of several seeds do not know the labels of the same records.
    """
    if is_folds:
        return np.concatenate(gains), [group for groups_of in named for group in groups_of]
    if any(groups_of != named[0] for groups_of in named):
        raise InputError("the bundles know different labels; give each pair its own --input")
    return np.mean(gains, axis=0), named[0]


def _held_out(folder: Path, shards: str) -> list[Path]:
    """The held-out shards of a folder.

    Raises:
        InputError: there are none.
    """
    if not (found := sorted(folder.glob(shards))):
        raise InputError(f"{folder}: no {shards} there; check --input and --shards")
    return found


if __name__ == "__main__":
    typer.run(main)
