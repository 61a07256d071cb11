"""How long a resume takes to learn what is done, at scale: 100,000 parts over 1,000,000 shards.

    python jobs/bench ledger   # minutes

Makes the parts in a temporary folder (1 GB): one is written by the run's own sink, the others are its bytes
with other shard ids. Loads their ledger in a process of its own, asks it what is missing of as many shards,
half of them new, and deletes the folder. Expected on two cores: load_s below 60 and load_rss_mb (the peak)
below 1,000 in the JSON line that comes last; exit code 1 where it is more.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

# What the tests are made of: outcomes without a model, and memory (getrusage's would be the parent's, too).
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.checker import memory_mb  # type: ignore[import-not-found]
from support.outcomes import begin, rows_of, shard, write  # type: ignore[import-not-found]

from mmray.pipeline.ledger import Ledger
from mmray.pipeline.rundir import RunDirectory
from mmray.sources import Shard

SHARD_ROWS = 100
LOAD_S, LOAD_RSS_MB = 60.0, 1_000.0


def nth(number: int) -> Shard:
    """A shard whose id is always of the same length, so that one part can be made of another."""
    made: Shard = shard(f"train/{number // 1000:05d}/shard-{number:08d}.tar", SHARD_ROWS)
    return made


def make(folder: Path, parts: int, shards_a_part: int) -> int:
    """Fill a run directory with parts that each cover whole shards; returns the bytes of one."""
    out = begin(folder)
    first = [nth(number) for number in range(shards_a_part)]
    name = write(out, [pair for one in first for pair in rows_of(one)]).name
    template = (folder / "parts" / name).read_bytes()
    for part in range(1, parts):
        data = template
        for i, one in enumerate(first):
            data = data.replace(one.id.encode(), nth(part * shards_a_part + i).id.encode())
        (folder / "parts" / f"{part:08d}-{name}").write_bytes(data)
        (folder / "rejects" / f"{part:08d}-{name}").touch()  # the ledger looks at their names only
    return len(template)


def measure(folder: Path, shards: int) -> None:
    """Load, and print what it took; in a fresh process, so that its peak memory is that of the load."""
    import_rss_mb, start = memory_mb("VmHWM"), time.perf_counter()
    ledger = Ledger.load(RunDirectory.at(str(folder)))
    load_s, load_rss_mb = time.perf_counter() - start, memory_mb("VmHWM")
    wanted = [nth(number) for number in range(shards // 2, shards // 2 + shards)]
    start = time.perf_counter()
    missing = ledger.missing(wanted)
    result = {
        "parts": len(ledger.parts),
        "shards": len(ledger.coverage),
        "rows": ledger.predicted + ledger.rejects.total(),
        "load_s": round(load_s, 2),
        "missing": len(missing),
        "missing_s": round(time.perf_counter() - start, 2),
        "import_rss_mb": round(import_rss_mb),
        "load_rss_mb": round(load_rss_mb),
        "missing_rss_mb": round(memory_mb("VmHWM")),  # with the list of shards itself
    }
    print(json.dumps(result))


def main(
    parts: Annotated[int, typer.Option(help="Number of parts.")] = 100_000,
    shards: Annotated[int, typer.Option(help="Number of shards that they cover.")] = 1_000_000,
    place: Annotated[str | None, typer.Option(help="Where to make the temporary folder.")] = None,
    measured: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Make the parts, measure, delete them."""
    if measured:
        return measure(measured, shards)
    with tempfile.TemporaryDirectory(prefix="mmray-ledger-", dir=place) as folder:
        start = time.perf_counter()
        part_bytes = make(Path(folder) / "run", parts, shards // parts)
        print(
            f"{parts:,} parts of {part_bytes:,} bytes made in {time.perf_counter() - start:.0f} s", flush=True
        )
        command = [sys.executable, __file__, "--shards", str(shards), "--measured", str(Path(folder) / "run")]
        line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(line)
    print(line, end="")
    if result["parts"] != parts or result["load_s"] > LOAD_S or result["load_rss_mb"] > LOAD_RSS_MB:
        raise typer.Exit(1)
    return None


if __name__ == "__main__":
    typer.run(main)
