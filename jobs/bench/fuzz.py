"""Feed damaged shards to reader, preprocessing and model: each must end as predictions or rejects.

    OMP_NUM_THREADS=1 python jobs/bench fuzz --cases 10000 --seed 0   # 35 s on two idle cores

Expected: exit code 0 and one JSON line last, with `"findings": 0`. A finding is an
exception, a dead worker, a case of over 5 s of CPU time or of over 30 s, one whose resident memory grows by
over 256 MB (Linux's peak, reset before each case), or rows that do not add up or are not found again by their
offset. Its shard goes to --findings, and the exit code is 1. `--replay DIR` runs saved shards instead. The
address space of a worker is limited, too, so that no case affects the machine; a reject that mentions memory
is a finding as well.
"""

import json
import multiprocessing
import os
import queue
import resource
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer

# This is a test that is too long for the suite, made from the tests' parts.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.checker import Case, Checker, memory_mb  # type: ignore[import-not-found]
from support.mutations import damaged_shard_bytes  # type: ignore[import-not-found]

CASE_S = 30.0
ADDRESS_BYTES = 6 << 30  # above what a worker starts with: libwebp reserves 2 GiB for a canvas, untouched


def serve(connection: Connection, place: str) -> None:
    """Body of a worker process: shards in, cases out."""
    check = Checker(place)
    limit = int(memory_mb("VmSize") * 1e6) + ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libmpg123 prints many lines about bad frames
    connection.send(None)
    with suppress(EOFError):  # the parent is done
        while True:
            connection.send(check(connection.recv()))


class Worker:
    """A worker process, restarted if a case kills it or takes too long."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, self._place), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()

    def __call__(self, tar: bytes) -> Case:
        """Run one shard."""
        self._connection.send(tar)
        try:
            if self._connection.poll(CASE_S):
                return self._connection.recv()
            fault = f"no answer within {CASE_S:g} s"
            self._process.kill()
            self._process.join()
        except EOFError:
            self._process.join()
            fault = f"the worker died with exit code {self._process.exitcode}"
        self._start()
        return Case(fault, Counter())


def main(
    cases: Annotated[int, typer.Option(help="Number of damaged shards.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same damage.")] = 0,
    workers: Annotated[int, typer.Option(help="Number of processes.")] = 2,
    findings: Annotated[Path, typer.Option(help="Directory of shards with findings.")] = Path("runs/fuzz"),
    replay: Annotated[Path | None, typer.Option(help="Run the .tar files of this folder instead.")] = None,
) -> None:
    """Run the cases; exit code 1 if there is a finding."""
    saved = sorted(replay.glob("*.tar")) if replay else []
    if replay and not saved:
        raise typer.BadParameter(f"{replay} has no .tar files; give a folder of saved findings")
    free: queue.Queue[Worker] = queue.Queue()

    def run(number: int) -> tuple[str, bytes, Case]:
        if replay:
            name, tar = saved[number].stem, saved[number].read_bytes()
        else:
            name, tar = f"seed{seed}-{number:06d}", damaged_shard_bytes(seed, number)[1]
        worker = free.get()
        case = worker(tar)
        free.put(worker)
        return name, tar, case

    start, kinds, slowest, peak_mb, found = time.monotonic(), Counter[str](), 0.0, 0.0, 0
    with tempfile.TemporaryDirectory(prefix="mmray-fuzz-") as place, ThreadPoolExecutor(workers) as pool:
        for worker in pool.map(lambda _: Worker(place), range(workers)):
            free.put(worker)
        for done, (name, tar, case) in enumerate(pool.map(run, range(len(saved) if replay else cases)), 1):
            kinds += case.kinds
            slowest, peak_mb = max(slowest, case.ms), max(peak_mb, case.peak_mb)
            if case.fault:
                found += 1
                findings.mkdir(parents=True, exist_ok=True)
                (findings / f"{name}.tar").write_bytes(tar)
                print(f"finding: {findings / name}.tar: {case.fault}", flush=True)
            if done % 1000 == 0:
                print(f"{done:,} cases in {time.monotonic() - start:.0f} s, {found} findings", flush=True)
    result: dict[str, Any] = {"cases": done, "seed": seed, "elapsed_s": round(time.monotonic() - start, 1)}
    result |= {"predicted": kinds.pop("predicted", 0), "rejects": dict(kinds.most_common())}
    result |= {"slowest_ms": round(slowest, 1), "peak_rss_mb": round(peak_mb), "findings": found}
    print(json.dumps(result))
    raise typer.Exit(min(found, 1))


if __name__ == "__main__":
    typer.run(main)
