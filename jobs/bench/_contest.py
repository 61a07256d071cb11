"""One contender of `make bench`: its command in separate processes, their time and memory, and its answers.

Processes are found by an environment variable, which every child inherits: also Ray's daemons, which leave
their process group and parent. Linux only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mmray.errors import InputError, MmrayError
from mmray.sources import ReadOptions, list_shards, read

FOLDER = Path(__file__).parent / "contenders"
#: Script of each contender, ours first: the others are compared with it.
SCRIPTS: Mapping[str, str] = {
    "mmray": "mmray_run.py",
    "limit": "limit.py",
    "ray_data": "ray_data.py",
    "daft": "daft_udf.py",
    "dataloader": "dataloader.py",
}
OURS = "mmray"
_MARK = "MMRAY_BENCH_RUN"
_LONGEST_S = 900.0  # of one run
_SAMPLE_S = 0.5
_SCORES_APART = 1e-3  # batches differ, so sums are rounded differently


class ContestError(MmrayError):
    """A contender that failed, or whose answers differ from ours."""

    exit_code = 1


@dataclass(frozen=True)
class Input:
    """The same records as tars and, for contenders that read them faster, as Parquet files of raw bytes."""

    tars: Path
    parquet: Path

    def of(self, name: str) -> Path:
        return self.parquet if name == "daft" else self.tars


@dataclass(frozen=True)
class Ran:
    """A finished run of a contender."""

    seconds: float  # from the command to the last prediction on disk
    startup_s: float  # from the command to the first prediction
    rows: int
    output: Path
    said: Mapping[str, Any]  # its JSON line, and `command`, the Unix time of the command
    peak_mb: float | None  # of all its processes together, where that was sampled

    @property
    def predicting_s(self) -> float:
        """From the first prediction to the last on disk: start-up differs by seconds from run to run."""
        return self.seconds - self.startup_s


def choose_shards(folder: Path, records: int | None) -> tuple[list[Path], int]:
    """The first shards with so many records, None: all; and their number of records.

    Raises:
        InputError: there are no tars.
    """
    chosen, held = [], 0
    for path in sorted(folder.glob("*.tar")):
        if records is not None and held >= records:
            break
        chosen.append(path)
        held += sum(len(b) for s in list_shards([str(path)]) for b in read(s, ReadOptions(payload=False)))
    if not chosen:
        raise InputError(f"{folder}: no tars there; build them: python datasets/tuxpaint.py")
    return chosen, held


def make_input(shards: Sequence[Path], place: Path, copies: int) -> Input:
    """The shards `copies` times under other names, as links, and a Parquet file for each.

    Args:
        shards: tars.
        place: directory to make; neither of the two kinds is below the other, so that no reader sees both.
        copies: of each shard.
    """
    found = Input(place / "tars", place / "parquet")
    for folder in (found.tars, found.parquet):
        folder.mkdir(parents=True)
    for shard in shards:
        converted = found.parquet / f"0-{shard.stem}.parquet"
        _to_parquet(shard, converted)
        for copy in range(copies):
            shutil.copyfile(shard, found.tars / f"{copy}-{shard.name}")
            if copy:
                shutil.copyfile(converted, found.parquet / f"{copy}-{shard.stem}.parquet")
    return found


def _to_parquet(shard: Path, target: Path) -> None:
    (listed,) = list_shards([str(shard)])
    records = pa.concat_tables(read(listed, ReadOptions()))
    pq.write_table(records.select(["key", "image", "text", "audio"]), target)


def run_contender(name: str, given: Input, output: Path, bundle: Path, *, sampled: bool = False) -> Ran:
    """Run a contender to its end.

    Args:
        name: one of SCRIPTS.
        given: its input.
        output: its output; must not exist.
        bundle: directory of the bundle.
        sampled: whether its memory is sampled, which costs it some time.

    Raises:
        ContestError: it failed, with the end of its output.
    """
    mark = f"{_MARK}={uuid4().hex}"
    key, _, value = mark.partition("=")
    # Processes that a contender starts must find shared.py, too.
    environment = {**os.environ, key: value, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER)}
    arguments = [str(given.of(name)), str(output), str(bundle.absolute())]
    command = [sys.executable, str(FOLDER / SCRIPTS[name]), *arguments]
    begun = time()
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with _sampling(mark if sampled else None) as peaks:
            said, complaint = process.communicate(timeout=_LONGEST_S)
    except subprocess.TimeoutExpired as e:
        raise ContestError(f"{name}: not done after {_LONGEST_S:.0f} s") from e
    finally:
        _end(mark)
    if process.returncode:
        raise ContestError(f"{name}: exit code {process.returncode}: {complaint.strip()[-2000:]}")
    line: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return Ran(
        seconds=line["end"] - begun,
        startup_s=line["first"] - begun,
        rows=line["rows"],
        output=output,
        said={**line, "command": begun},
        peak_mb=max(peaks) if peaks else None,
    )


def slope_ms(short: Ran, long: Ran) -> float:
    """Milliseconds for each additional record."""
    return 1e3 * (long.predicting_s - short.predicting_s) / (long.rows - short.rows)


@contextmanager
def _sampling(mark: str | None) -> Iterator[list[float]]:
    """Sample the memory of all processes of a run twice a second while the body runs; MB, one each time."""
    peaks: list[float] = []
    done = threading.Event()

    def sample() -> None:
        while mark and not done.wait(_SAMPLE_S):
            peaks.append(sum(_pss_mb(pid) for pid in _processes(mark)))

    thread = threading.Thread(target=sample, name="memory", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def _processes(mark: str) -> Iterator[int]:
    """Processes whose environment has the mark."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if mark.encode() in environment.read_bytes().split(b"\0"):
                yield int(environment.parent.name)


def _pss_mb(pid: int) -> float:
    """Proportional set size: shared memory is divided among processes, so that a sum counts it once."""
    with suppress(OSError):  # ended meanwhile
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _end(mark: str) -> None:
    """End the remaining processes of a run, so that the next one has the machine to itself."""
    for pid in _processes(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def answers(name: str, output: Path) -> pa.Table:
    """Predictions of a contender: columns `shard` (no folder, no suffix), `key`, `label`, `score`, sorted."""
    place, path = (output / "parts", "shard") if name == OURS else (output, "path")
    rows = ds.dataset(place, format="parquet").to_table([path, "key", "label", "score"])
    # A shard's id ends with its size.
    stems = [Path(text.partition("@")[0]).stem for text in rows[path].to_pylist()]
    columns = {"shard": stems, **{column: rows[column] for column in ("key", "label", "score")}}
    return pa.table(columns).sort_by([("shard", "ascending"), ("key", "ascending")])


def check_answers(name: str, found: pa.Table, ours: pa.Table) -> None:
    """Refuse a contender that is faster because it is wrong.

    Raises:
        ContestError: other rows than ours, other labels, or scores that are off by more than 0.001.
    """
    if found.num_rows != ours.num_rows:
        raise ContestError(f"{name}: {found.num_rows} predictions, {OURS} has {ours.num_rows}")
    for column in ("shard", "key", "label"):
        differ = sum(a != b for a, b in zip(found[column].to_pylist(), ours[column].to_pylist(), strict=True))
        if differ:
            raise ContestError(f"{name}: {differ} of {found.num_rows} rows have another {column} than {OURS}")
    apart = np.asarray(pc.abs(pc.subtract(found["score"].cast(pa.float64()), ours["score"])))
    if not apart.max(initial=0.0) <= _SCORES_APART:  # also true for NaN
        raise ContestError(f"{name}: scores are off by up to {apart.max():.2g}")
