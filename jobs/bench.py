"""Time each stage of the path on one core: read, decode, model, write. `make bench` runs it.

    OMP_NUM_THREADS=1 python jobs/bench.py --input data/tuxpaint --bundle bundles/stamps

Expected: a table of milliseconds a record, then one JSON line. Compare ratios of one run, not times of two.
"""

import json
import tempfile
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle
from mmray.pipeline.meter import STAGES, drain, measured, timed
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import PartBuffer
from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, list_shards, read


def main(
    input: Annotated[str, typer.Option(help="Shards.")] = "data/tuxpaint",
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
) -> None:
    """Run all records through the stages in this process, twice; the second pass counts."""
    opened = Bundle.open(bundle)
    preprocess, predict = open_preprocessor(opened), Predictor(opened)
    shards = list_shards([input])
    for _ in range(2):
        seconds, total, rows = Counter[str](), Counter[str](), 0
        with tempfile.TemporaryDirectory() as place:
            out = RunDirectory.at(place)
            out.begin({})
            buffer = PartBuffer(out, predict.columns, part_rows=1_000, part_seconds=60.0)
            for shard in shards:
                for records in timed(read(shard, ReadOptions()), seconds, "read"):
                    outcomes = predict(preprocess(records))
                    with measured(seconds, "write"):
                        buffer.add(outcomes)
                    rows += records.num_rows
                    total.update(drain(seconds, preprocess.seconds, predict.seconds))
            with measured(total, "write"):
                buffer.close()
    milliseconds = {stage: round(1e3 * total[stage] / rows, 3) for stage in STAGES}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("stage", "ms a record", "share"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, ms in milliseconds.items():
        table.add_row(stage, f"{ms:.2f}", f"{ms / sum(milliseconds.values()):.0%}")
    Console().print(table)
    print(
        json.dumps(
            {"records": rows, "record_ms": milliseconds, "rows_per_s": 1e3 / sum(milliseconds.values())}
        )
    )


if __name__ == "__main__":
    typer.run(main)
