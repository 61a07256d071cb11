"""`mmray run --set variant=fp32 --set provider=cpu`, with the times of its steps.

    python jobs/bench/contenders/mmray_run.py INPUT OUTPUT BUNDLE

Writes a run directory, whose parts have no `predicted_at`; the first prediction is the meter's. The JSON line
also has the times when the input was `surveyed` and, with the cluster ready, the run was `planned`.
"""

import json
import sys
from time import time

from shared import CORES

from mmray.cli.run_display import RunDisplay
from mmray.config import load_config
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import Plan
from mmray.pipeline.run import Watcher, run
from mmray.pipeline.snapshot import Snapshot
from mmray.pipeline.survey import Survey


class Times:
    """Records the times of a run's steps, and passes them on to the display."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.times: dict[str, float] = {}

    def surveyed(self, found: Survey, ledger: Ledger) -> None:
        self.times["surveyed"] = time()
        self._watcher.surveyed(found, ledger)

    def planned(self, plan: Plan) -> None:
        self.times["planned"] = time()
        self._watcher.planned(plan)

    def progress(self, snapshot: Snapshot) -> None:
        if snapshot.first:
            self.times["first"] = snapshot.first
        self._watcher.progress(snapshot)


if __name__ == "__main__":
    folder, output, bundle = sys.argv[1:]
    values = {"input": (folder,), "output": output, "bundle": bundle, "variant": "fp32", "provider": "cpu"}
    here = {"actors": CORES}  # Ray counts the machine's CPUs, not those that this process may use
    with RunDisplay(output) as display:
        times = Times(display.watcher)
        result = run(load_config(None, values | here), Watcher(times.surveyed, times.planned, times.progress))
    ended = time()
    this_run = {name: result.summary["this_run"][name] for name in ("actors", "stage_seconds")}
    rows = result.summary["predicted"]
    print(json.dumps({"first": ended, **times.times, "end": ended, "rows": rows, **this_run}))
