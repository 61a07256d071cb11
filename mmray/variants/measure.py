"""Time and memory of a graph, each graph in its own process, one thread.

In a shared process, peak memory and a warm allocator would come from earlier graphs. All graphs are timed in
turns and the best time counts, so that other load on the machine does not decide between them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from mmray.batching import Feeds
from mmray.engine import Engine
from mmray.errors import EngineError

_LEAST_RUNS, _LEAST_S = 3, 0.5  # runs of each batch in each process


@dataclass(frozen=True)
class Cost:
    """Cost of a graph on this machine's CPU."""

    seconds: dict[str, float]  # the best run of each batch
    peak_bytes: int  # largest resident memory of a process that loads it and runs the batches


def measure(graphs: Mapping[str, Path], batches: Mapping[str, Feeds], *, rounds: int) -> dict[str, Cost]:
    """Time and weigh graphs in turns.

    Args:
        graphs: ONNX files by name.
        batches: what to run, by name.
        rounds: processes of each graph, at least one.

    Raises:
        EngineError: a graph does not run.
    """
    found: dict[str, list[Cost]] = {name: [] for name in graphs}
    with tempfile.TemporaryDirectory() as temporary:
        for batch, feeds in batches.items():
            np.savez(Path(temporary) / f"{batch}.npz", **feeds)  # type: ignore[arg-type]  # as in bundle
        for _ in range(rounds):
            for name, graph in graphs.items():
                found[name].append(_in_own_process(graph, [Path(temporary) / f"{b}.npz" for b in batches]))
    return {
        name: Cost(
            {batch: min(cost.seconds[batch] for cost in costs) for batch in batches},
            max(cost.peak_bytes for cost in costs),
        )
        for name, costs in found.items()
    }


def _in_own_process(graph: Path, batches: list[Path]) -> Cost:
    command = [sys.executable, "-c", f"from {__name__} import main; main()", str(graph), *map(str, batches)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip() or f"exit code {done.returncode}"
        raise EngineError(f"{graph}: does not run in its own process: {reason}")
    return Cost(**json.loads(done.stdout))


def _measure_here(graph: Path, batches: list[Path]) -> Cost:
    engine = Engine(graph, provider="cpu", threads=1)
    seconds = {}
    for batch in batches:
        with np.load(batch, allow_pickle=False) as arrays:
            feeds = dict(arrays)
        seconds[batch.stem] = _best_time(engine, feeds)
    return Cost(seconds, _peak_bytes())


def _best_time(engine: Engine, feeds: Feeds) -> float:
    engine(feeds)  # warm-up: the first run allocates
    times: list[float] = []
    while len(times) < _LEAST_RUNS or sum(times) < _LEAST_S:
        start = perf_counter()
        engine(feeds)
        times.append(perf_counter() - start)
    return min(times)


def _peak_bytes() -> int:
    """Peak resident memory of this process.

    On Linux, ru_maxrss is inherited from the parent process, so the figure comes from /proc.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main() -> None:
    """Entry point of such a process; arguments: a graph, and files of batches."""
    try:
        cost = _measure_here(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
    except Exception as e:  # the parent process reports the error and needs one line
        sys.exit(" ".join(str(e).split())[:300])
    sys.stdout.write(json.dumps(asdict(cost)))
