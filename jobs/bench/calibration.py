"""Memory and time of calibration for static int8, for any number of records.

    OMP_NUM_THREADS=1 python jobs/bench calibration --rows 5000   # four minutes

Reads the shards repeatedly until there are enough records, preprocesses them like a run, and collects the
moments of all inputs, then the ranges of all activations. Expected on the stamps: about the same peak for 500
records and for 5,000. One JSON line.
"""

import json
import resource
from collections.abc import Iterator
from time import perf_counter
from typing import Annotated

import onnx
import typer

from mmray.batching import Feeds
from mmray.bundle import FP32, Bundle
from mmray.evaluation import Records
from mmray.variants.quantize import MOMENT_ROWS, collect_moments, collect_ranges


def main(
    input: Annotated[list[str], typer.Option(help="Shards.")] = ["data/tuxpaint"],  # noqa: B006  (never altered)
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
    rows: Annotated[int, typer.Option(help="Records.")] = 5000,
) -> None:
    """Collect both, print time and memory."""
    opened = Bundle.open(bundle)
    model, start = onnx.load(opened.graph(FP32)), perf_counter()
    collect_moments(model, _feeds(input, opened, rows, batch_rows=MOMENT_ROWS))
    ranges = collect_ranges(model, _feeds(input, opened, rows, batch_rows=16))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    took = {"rows": rows, "activations": len(ranges), "seconds": round(perf_counter() - start, 1)}
    print(json.dumps(took | {"peak_mb": round(peak_mb)}))


def _feeds(inputs: list[str], bundle: Bundle, rows: int, batch_rows: int) -> Iterator[Feeds]:
    records = Records(inputs, bundle, {"train": rows, "tune": 1, "test": 1})
    left = rows
    while left > 0:
        before = left
        for feeds in records.feeds("train", batch_rows):
            yield feeds
            left -= len(feeds["present"])
        if left == before:
            return


if __name__ == "__main__":
    typer.run(main)
