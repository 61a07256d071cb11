"""How much memory and time calibration for static int8 takes, for however many records.

    OMP_NUM_THREADS=1 python jobs/bench_calibration.py --rows 5000

Reads the shards in turns until there were so many records, preprocesses them as a run does, and collects the
ranges of all activations. Expected on the stamps: a peak below 1 GB, about the same for 500 records and for
5,000. One JSON line; 5,000 records take ten minutes.
"""

import json
import resource
from collections.abc import Iterator
from time import perf_counter
from typing import Annotated

import onnx
import typer

from mmray.batching import Feeds, batches, pack
from mmray.bundle import FP32, Bundle
from mmray.optimize.calibrate import collect_ranges
from mmray.optimize.outputs import usable_tensors


def main(
    input: Annotated[list[str], typer.Option(help="Shards.")] = ["data/tuxpaint"],  # noqa: B006  (never altered)
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
    rows: Annotated[int, typer.Option(help="Records.")] = 5000,
    batch_rows: Annotated[int, typer.Option(help="Records of one inference.")] = 16,
) -> None:
    """Collect ranges, print what that took."""
    opened = Bundle.open(bundle)
    start = perf_counter()
    ranges = collect_ranges(onnx.load(opened.graph(FP32)), _feeds(input, opened, rows, batch_rows))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    took = {"rows": rows, "activations": len(ranges), "seconds": round(perf_counter() - start, 1)}
    print(json.dumps(took | {"peak_mb": round(peak_mb)}))


def _feeds(inputs: list[str], bundle: Bundle, rows: int, batch_rows: int) -> Iterator[Feeds]:
    while rows:
        left = rows
        for tensors in usable_tensors(inputs, bundle, rows=rows, without="test"):
            for batch in batches(tensors, batch_rows):
                yield pack(tensors.take(batch), bundle.spec)
                rows -= len(batch)
        if rows == left:
            return


if __name__ == "__main__":
    typer.run(main)
