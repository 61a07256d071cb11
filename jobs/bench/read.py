"""Speed and memory of reading records, without decoding.

    OMP_NUM_THREADS=1 python jobs/bench read --input data/tuxpaint   # minutes

Converts the tars to LMDBs in a temporary folder, then reads them in rounds, each reader once a round, in this
process and with the files in the page cache; the best round counts. A shard is opened when it is read, as in
a run; lines with "mapped" opened and read it before, and "one shard" has all records. Large members of LMDBs
are read as views of their files, of which only the first page is touched: mapping the other pages is a cost
of their use. In lines with "copied", they are read into new columns.

`cursor` is lmdb's own loop, which copies each value and drops it, so that the copy never leaves the
processor's cache; `cursor, Arrow` makes a column of the values of 64 records. Ray Data reads the tars,
multiplied by hard links, on one CPU of its own cluster; the time for half as many links is subtracted. Then
each kind is read as one shard of all records, and of ten times as many, by new processes.

Expected in the JSON line that comes last: `members / ray` above 2, `members, one shard / cursor, one shard`
above .4, `msgpack, one shard / cursor, one shard` above .25 and `growth_mb` below 50.
"""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import lmdb
import pyarrow as pa
import typer
import webdataset
from rich.console import Console
from rich.table import Table

from mmray.sources import ReadOptions, Shard, environment, list_shards, read
from mmray.sources.convert import convert
from mmray.sources.layouts import LayoutName
from mmray.sources.raw import Record, read_raw
from mmray.sources.writers import open_lmdb, open_tar

LAYOUTS: tuple[LayoutName, ...] = ("members", "msgpack")
BLOCK_ENTRIES = 256  # of 64 records with four members
LINKS = 6  # times that Ray reads the tars, in the larger of its two runs


def read_shards(shards: list[Shard], *, views: bool = True) -> None:
    """Our reader."""
    for shard in shards:
        for _ in read(shard, ReadOptions(views=views)):
            pass


def read_mapped(shards: list[Shard]) -> float:
    """Seconds of our reader, with open and mapped environments."""
    opened = [environment.opened(shard.url) for shard in shards]
    read_shards(shards)
    seconds = timed(read_shards, shards)
    del opened
    return seconds


def drop(opened: lmdb.Environment) -> None:
    """The loop of lmdb's documentation: each value is copied, and dropped."""
    size = 0
    with opened.begin() as transaction:
        for _, value in transaction.cursor():
            size += len(value)


def gather(opened: lmdb.Environment) -> None:
    """The same, but the values of a block of records become an Arrow column."""
    values, column = [], None
    with opened.begin() as transaction:
        for _, value in transaction.cursor():
            values.append(value)
            if len(values) == BLOCK_ENTRIES:
                column, values = pa.array(values, pa.binary()), []
    del column


def walk_cursors(loop: Callable[[lmdb.Environment], None], paths: list[str]) -> None:
    """Open each environment, and run the loop over it."""
    for path in paths:
        with lmdb.open(path, subdir=False, readonly=True, lock=False) as opened:
            loop(opened)


def run_all(loop: Callable[[lmdb.Environment], None], environments: list[lmdb.Environment]) -> None:
    """Run the loop over each."""
    for opened in environments:
        loop(opened)


def walk_mapped(loop: Callable[[lmdb.Environment], None], paths: list[str]) -> float:
    """Seconds of the loop, with open and mapped environments."""
    with ExitStack() as stack:
        opened = [
            stack.enter_context(lmdb.open(path, subdir=False, readonly=True, lock=False)) for path in paths
        ]
        run_all(loop, opened)
        return timed(run_all, loop, opened)


def read_package(tars: list[Shard]) -> None:
    """The webdataset package."""
    for _ in webdataset.WebDataset([tar.url for tar in tars], shardshuffle=False, empty_check=False):
        pass


def read_ray(folder: Path, tars: list[Shard]) -> float:
    """Seconds of Ray Data for the tars, without start-up."""
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    paths = []
    for link in range(LINKS):
        (folder / f"links-{link}").mkdir()
        for tar in tars:
            path = folder / f"links-{link}" / Path(tar.url).name
            os.link(tar.url, path)
            paths.append(str(path))
    half = paths[: len(paths) // 2]

    def consume(paths: list[str]) -> None:
        dataset = ray.data.read_webdataset(paths, decoder=None)
        for _ in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            pass

    consume(half)  # starts the workers
    best = min(timed(consume, paths) - timed(consume, half) for _ in range(2))
    ray.shutdown()
    return best / (LINKS // 2)


def timed(call: Callable[..., object], *arguments: object, **options: object) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call(*arguments, **options)
    return time.perf_counter() - start


def race(
    tars: list[Shard], lmdbs: dict[LayoutName, list[Shard]], whole: list[Shard], rounds: int
) -> dict[str, float]:
    """The best seconds of each reader; `whole` is one shard of each layout."""
    members, msgpack = lmdbs["members"], lmdbs["msgpack"]
    paths = [shard.url for shard in members]
    readers: dict[str, Callable[[], float]] = {
        "cursor": partial(timed, walk_cursors, drop, paths),
        "cursor, Arrow": partial(timed, walk_cursors, gather, paths),
        "members": partial(timed, read_shards, members),
        "members, copied": partial(timed, read_shards, members, views=False),
        "msgpack": partial(timed, read_shards, msgpack),
        "msgpack, copied": partial(timed, read_shards, msgpack, views=False),
        "cursor, one shard": partial(timed, walk_cursors, drop, [whole[0].url]),
        "members, one shard": partial(timed, read_shards, whole[:1]),
        "msgpack, one shard": partial(timed, read_shards, whole[1:]),
        "members, copied, one shard": partial(timed, read_shards, whole[:1], views=False),
        "msgpack, copied, one shard": partial(timed, read_shards, whole[1:], views=False),
        "tar": partial(timed, read_shards, tars),
        "webdataset": partial(timed, read_package, tars),
        "cursor, mapped": partial(walk_mapped, drop, paths),
        "cursor, Arrow, mapped": partial(walk_mapped, gather, paths),
        "members, mapped": partial(read_mapped, members),
        "msgpack, mapped": partial(read_mapped, msgpack),
    }
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, run in readers.items():
            seconds[name].append(run())
    return {name: min(times) for name, times in seconds.items()}


def multiply(tars: list[Shard], times: int) -> Iterator[Record]:
    """The records of all tars, several times under other keys."""
    for number in range(times):
        for tar in tars:
            for record in read_raw(tar):
                assert isinstance(record, Record), record
                yield Record(b"%d/%b" % (number, record.key), record.members)


def make_large(folder: Path, tars: list[Shard], times: int) -> list[Path]:
    """One shard of each kind with that many times the records."""
    paths = [folder / f"members-{times}.lmdb", folder / f"msgpack-{times}.lmdb", folder / f"tar-{times}.tar"]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(open_lmdb(paths[0], "members", 1 << 28)),
            stack.enter_context(open_lmdb(paths[1], "msgpack", 1 << 28)),
            stack.enter_context(open_tar(paths[2])),
        ]
        for record in multiply(tars, times):
            for write in writers:
                write(record)
    return paths


def measure(path: str) -> None:
    """Read one shard, and print the memory that it took: private, and all."""
    (shard,) = list_shards([path])
    start, own = memory_mb("RssAnon"), 0.0
    for _ in read(shard, ReadOptions(views=True)):
        own = max(own, memory_mb("RssAnon"))
    print(json.dumps({"own_mb": round(own - start, 1), "peak_mb": round(memory_mb("VmHWM"), 1)}))


def memory_mb(field: str) -> float:
    """A field of this process's memory. RssAnon excludes mapped files, which the system can reclaim."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def measured(path: Path) -> dict[str, float]:
    """As `measure`, in a separate process."""
    command = [sys.executable, __file__, "--measured", str(path)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


def main(
    input: Annotated[str, typer.Option(help="Tars that fit into the page cache.")] = "data/tuxpaint",
    rounds: Annotated[int, typer.Option(help="Times that each reader reads.")] = 7,
    place: Annotated[str | None, typer.Option(help="Where to make the temporary folder.")] = None,
    measured_path: Annotated[str | None, typer.Option("--measured", hidden=True)] = None,
) -> None:
    """Convert, read in turns, print a table and one JSON line."""
    if measured_path:
        return measure(measured_path)
    tars = list_shards([input])
    with tempfile.TemporaryDirectory(prefix="mmray-read-", dir=place) as name:
        folder = Path(name)
        done = {layout: list(convert([input], str(folder / layout), "lmdb", layout, 1)) for layout in LAYOUTS}
        lmdbs = {layout: list_shards([str(folder / layout)]) for layout in LAYOUTS}
        large = {times: make_large(folder, tars, times) for times in (1, 10)}
        seconds = race(tars, lmdbs, list_shards([str(path) for path in large[1][:2]]), rounds)
        seconds["ray"] = read_ray(folder, tars)
        memory = {times: [measured(path) for path in paths] for times, paths in large.items()}
    records = sum(one.records for one in done["members"])
    payload_mb = sum(one.payload_bytes for one in done["members"]) / 1e6
    print_table(seconds, records, payload_mb)
    kinds = (*LAYOUTS, "tar")
    result = {
        "records": records,
        "ratio": ratios(seconds),
        "growth_mb": {
            kind: round(ten["own_mb"] - one["own_mb"], 1)
            for kind, one, ten in zip(kinds, memory[1], memory[10], strict=True)
        },
        "memory": {times: dict(zip(kinds, found, strict=True)) for times, found in memory.items()},
    }
    print(json.dumps(result))
    return None


def print_table(seconds: dict[str, float], records: int, payload_mb: float) -> None:
    """Rates of all readers, and relative to lmdb's own loop."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("reader")
    for column in ("records/s", "MB/s", "of cursor"):
        table.add_column(column, justify="right")
    for reader, s in seconds.items():
        way = next((way for way in ("mapped", "one shard") if reader.endswith(way)), None)
        cursor = seconds[f"cursor, {way}" if way else "cursor"]
        table.add_row(reader, f"{records / s:,.0f}", f"{payload_mb / s:,.0f}", f"{cursor / s:.2f}")
    Console().print(table)


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """How many times as fast the first of a pair is as the second."""
    pairs = [
        *(("members", other) for other in ("cursor", "cursor, Arrow", "tar", "webdataset", "ray")),
        *((f"{layout}, one shard", "cursor, one shard") for layout in LAYOUTS),
        ("members, copied", "cursor, Arrow"),
        *(("members, mapped", other) for other in ("cursor, mapped", "cursor, Arrow, mapped")),
        *(("msgpack", other) for other in ("cursor", "ray")),
        *(("tar", other) for other in ("webdataset", "ray")),
    ]
    return {f"{a} / {b}": round(seconds[b] / seconds[a], 2) for a, b in pairs}


if __name__ == "__main__":
    typer.run(main)
