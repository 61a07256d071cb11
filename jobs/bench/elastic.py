"""Rows a second of one run, while nodes of its cluster start, die, and get shutdown notices.

    python jobs/bench elastic --input data/tuxpaint --bundle bundles/stamps --plot elastic.png   # 4 min

A head without CPUs and nodes of one logical CPU each, all on this machine. Workers wait in the model for
--row-s seconds a record, so nodes hardly share its cores, and rows a second show how many are at work.
Everything else is real: raylets that are killed, Ray Data, readers, parts. Expected: new nodes at work within
20 s, a clean audit, no row done twice except those that a node had open when it was killed. One JSON line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from _plots import draw_course

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.nodes import Nodes, done, waiting  # type: ignore[import-not-found]

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory

#: Seconds after the first row, and what happens then.
EVENTS = [(25, "add"), (25, "add"), (75, "kill"), (105, "add"), (140, "warn"), (155, "kill"), (155, "add")]
BIN_S = 5


def main(
    shards: Annotated[str, typer.Option("--input", help="Shards.")] = "data/tuxpaint",
    bundle: Annotated[str, typer.Option(help="A bundle.")] = "bundles/stamps",
    row_s: Annotated[float, typer.Option(help="Seconds that a record takes.")] = 0.6,
    plot: Annotated[Path | None, typer.Option(help="PNG of rows a second over time.")] = None,
) -> None:
    """Run, print the rows of each node, exit with 1 if the audit is not clean."""
    folder = Path(tempfile.mkdtemp(prefix="mmray-elastic-"))
    log, output = folder / "rows", folder / "out"
    nodes = Nodes(1, head_cpus=0, environment=waiting(log, row_s))
    command = [sys.executable, "-m", "mmray", "run", "--input", shards, "--bundle", bundle]
    command += ["--output", str(output), "--set", "block_rows=2", "--set", "part_rows=40"]
    environment = {**waiting(log, row_s), "RAY_ADDRESS": nodes.address}
    run = subprocess.Popen([*command, "--set", "report=false"], env=environment)
    happened: list[tuple[float, str, str]] = []
    while run.poll() is None:
        time.sleep(0.2)
        began = done(log)[0].at if done(log) else time.time()
        if len(happened) < len(EVENTS) and time.time() - began > EVENTS[len(happened)][0]:
            what = EVENTS[len(happened)][1]
            happened.append((round(time.time() - began, 1), what, nodes.tell(what)))
    nodes.close()
    verdict, course = audit(RunDirectory.at(str(output)), recount=True), done(log)
    by_node: dict[str, Counter[int]] = {}
    for at, node, _, rows in course:
        by_node.setdefault(node, Counter())[int((at - course[0].at) // BIN_S)] += rows
    first = {node: round(min(d.at for d in course if d.node == node) - course[0].at, 1) for node in by_node}
    found = {
        "bin_s": BIN_S,
        "events": [(at, what, node[:6]) for at, what, node in happened],
        "rows": {node[:6]: dict(bins) for node, bins in by_node.items()},
        "waited_s": {
            n[:6]: round(first[n] - at, 1) for at, what, n in happened if what == "add" and n in first
        },
        "twice": sum(d.rows for d in course) - verdict.total,
        "exit": run.returncode,
        "audit": verdict.ok,
    }
    print(json.dumps(found))
    if plot:
        draw_course(found, plot)
    sys.exit(not (run.returncode == 0 and verdict.ok))


if __name__ == "__main__":
    typer.run(main)
