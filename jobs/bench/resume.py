"""Crash at 90 % of a run and resume: bytes read and time of the resume, compared with Ray Data's own.

    OMP_NUM_THREADS=1 python jobs/bench resume --input data/tuxpaint --bundle bundles/stamps   # minutes

Runs the job once undisturbed, then kills it (-9) once 90 % of the rows are in parts, removes the parts
written between that moment and the kill, and resumes it. Then the same for a plain Ray Data pipeline
(read_parquet, an actor around the same model, write_parquet) with CheckpointConfig, whose output is not
changed after the kill. Expected: mmray reads at most 12 % of the input's bytes again and takes at most 20 %
of the processing time (without start-up). Prints one JSON line at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from mmray.pipeline.ledger import Ledger
from mmray.pipeline.rundir import RunDirectory
from mmray.sources import ReadOptions, list_shards, read

CONTENDER = Path(__file__).parent / "contenders" / "ray_checkpoint.py"


def main(
    input: Annotated[Path, typer.Option(help="Directory of shards.")] = Path("data/tuxpaint"),
    bundle: Annotated[Path, typer.Option(help="Bundle directory.")] = Path("bundles/stamps"),
    copies: Annotated[int, typer.Option(help="The input this many times over, so that a run lasts.")] = 4,
) -> None:
    """Measure both, and print the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        rows = _multiply(input, place / "in", copies)
        ours = _ours(place, bundle.absolute(), rows)
        print(json.dumps(ours), flush=True)
        theirs = _theirs(place, bundle.absolute(), rows)
    print(json.dumps({"rows": rows, "mmray": ours, "ray_data_checkpoint": theirs}))


def _multiply(source: Path, target: Path, copies: int) -> int:
    """Copies of every shard under `copies` names (links would be one shard); returns how many records."""
    target.mkdir()
    for copy in range(copies):
        for shard in sorted(source.glob("*.tar")):
            shutil.copyfile(shard, target / f"{copy}-{shard.name}")
    shards = list_shards([str(source)])
    return copies * sum(int(b.num_rows) for shard in shards for b in read(shard, ReadOptions()))


def _ours(place: Path, bundle: Path, rows: int) -> dict[str, Any]:
    def command(output: Path) -> list[str]:
        options = ["--input", str(place / "in"), "--bundle", str(bundle), "--output", str(output)]
        return ["mmray", "run", *options, "--set", "part_rows=16", "--set", "block_rows=16"]

    def this_run(output: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((output / "summary.json").read_text())["this_run"]
        return found

    calm, crashed = place / "calm", place / "crashed"
    subprocess.run(command(calm), check=True, stdout=subprocess.DEVNULL)
    _kill_at(command(crashed), lambda: _parquet_rows(crashed / "parts") >= 0.9 * rows)
    _trim(crashed / "parts", round(0.9 * rows))
    done = _parquet_rows(crashed / "parts")
    shards = list_shards([str(place / "in")])
    missing = Ledger.load(RunDirectory.at(str(crashed))).missing(shards)
    again = sum(shard.size - gaps[0].start for shard, gaps in missing)
    subprocess.run(command(crashed), check=True, stdout=subprocess.DEVNULL)
    seconds = {o.name: this_run(o)["elapsed_s"] - this_run(o)["startup_s"] for o in (calm, crashed)}
    busy = {o.name: sum(this_run(o)["stage_seconds"].values()) for o in (calm, crashed)}
    return {
        "done_share": round(done / rows, 3),
        "bytes_share": round(again / sum(shard.size for shard in shards), 3),  # at most: to each shard's end
        "full_s": round(seconds["calm"], 2),
        "resume_s": round(seconds["crashed"], 2),
        "time_share": round(seconds["crashed"] / seconds["calm"], 3),
        "busy_share": round(busy["crashed"] / busy["calm"], 3),  # of the workers, without waiting
        "rows_again": this_run(crashed)["rows"],
    }


def _trim(parts: Path, rows: int) -> None:
    """Delete the latest parts, as long as so many rows remain: as if the kill had happened earlier."""
    remaining = _parquet_rows(parts)
    for part in sorted(parts.glob("*.parquet"), key=lambda part: -part.stat().st_mtime_ns):
        held = int(pq.read_metadata(part).num_rows)
        if remaining - held < rows:
            return
        part.unlink()
        remaining -= held


def _theirs(place: Path, bundle: Path, rows: int) -> dict[str, Any]:
    (place / "records").mkdir()
    for number, shard in enumerate(list_shards([str(place / "in")])):
        for block, records in enumerate(read(shard, ReadOptions())):
            ids = [
                f"{s}/{r}" for s, r in zip(*(records[c].to_pylist() for c in ("shard", "row")), strict=True)
            ]
            pq.write_table(
                records.append_column("id", [ids]), place / f"records/{number:04d}-{block:04d}.parquet"
            )

    def command(name: str) -> list[str]:
        return [sys.executable, str(CONTENDER), str(place / "records"), str(place / name), str(bundle)]

    start = time.monotonic()
    subprocess.run(command("theirs-calm"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    full = time.monotonic() - start
    output = place / "theirs-crashed"
    account = place / f"{output.name}-read.txt"
    killed = _kill_at(command(output.name), lambda: _parquet_rows(output) >= 0.9 * rows)
    done = _parquet_rows(output)
    account.unlink(missing_ok=True)
    start = time.monotonic()
    again = subprocess.run(command(output.name), capture_output=True, text=True)
    resume = time.monotonic() - start
    size = sum(file.stat().st_size for file in (place / "records").iterdir())
    return {
        "done_share": round(done / rows, 3),
        "bytes_share": round(sum(map(int, account.read_text().split())) / size, 3),
        "full_s": round(full, 2),  # with start-up, which it does not report
        "resume_s": round(resume, 2),
        "killed_in_time": killed,
        "rows_after": _parquet_rows(output),
        "failed": again.stderr.strip().splitlines()[-1][:300] if again.returncode else None,
    }


def _kill_at(command: list[str], reached: Callable[[], bool]) -> bool:
    """Start a command and kill it, with its children, once the condition holds; returns whether it did."""
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not reached():
        time.sleep(0.05)
    killed = process.poll() is None
    # Also the workers, as if the machine died: they would continue writing for seconds after their driver.
    for pid in [process.pid, *_descendants(process.pid)] if killed else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return killed


def _descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these started (Linux)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            after_name = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:  # grows during the iteration
        found += children.get(child, [])
    return found


def _parquet_rows(directory: Path) -> int:
    rows = 0
    for file in directory.glob("[!.]*.parquet"):
        with suppress(pa.ArrowInvalid):  # Ray Data writes in place: a file may be torn
            rows += int(pq.read_metadata(file).num_rows)
    return rows


if __name__ == "__main__":
    typer.run(main)
