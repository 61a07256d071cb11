"""Cost of finding finished rows: parts that cover ten shards each; half of the queried shards are covered."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from _scale.process import peak_mb, use_of

# From the tests: outcomes without a model.
sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
from support.outcomes import begin, rows_of, shard, write  # type: ignore[import-not-found]

from mmray.pipeline.ledger import Ledger
from mmray.pipeline.rundir import RunDirectory
from mmray.sources import Shard

SHARD_ROWS = 100
SHARDS_A_PART = 10


def nth(number: int) -> Shard:
    """A shard whose id always has the same length, so that one part can be made from another."""
    made: Shard = shard(f"train/{number // 1000:05d}/shard-{number:08d}.tar", SHARD_ROWS)
    return made


def make(folder: Path, parts: int) -> None:
    """Fill a run directory: one part is written by the run's own sink, the others are its bytes renamed."""
    out = begin(folder)
    first = [nth(number) for number in range(SHARDS_A_PART)]
    name = write(out, [pair for one in first for pair in rows_of(one)]).name
    template = (folder / "parts" / name).read_bytes()
    for part in range(1, parts):
        data = template
        for i, one in enumerate(first):
            data = data.replace(one.id.encode(), nth(part * SHARDS_A_PART + i).id.encode())
        (folder / "parts" / f"{part:08d}-{name}").write_bytes(data)
        (folder / "rejects" / f"{part:08d}-{name}").touch()  # the ledger uses only their names


def holding(out: RunDirectory) -> RunDirectory:
    """The same, as held by the run that may write there."""
    lease = out.leases / "bench"
    out.leases.make_directory()
    lease.write_atomically(b"")
    return RunDirectory(out.root, lease)


def of_parts(parts: int) -> dict[str, float]:
    """Load the ledger of so many parts, and query the missing rows of as many shards as they cover."""
    with tempfile.TemporaryDirectory(prefix="mmray-ledger-") as place:
        folder = Path(place) / "run"
        make(folder, parts)
        out, begun, start = RunDirectory.at(str(folder)), use_of().cpu_s, time.perf_counter()
        ledger = Ledger.load(out)
        load_s, cpu_s, load_mb = time.perf_counter() - start, use_of().cpu_s - begun, peak_mb()
        assert len(ledger.parts) == parts
        shards = parts * SHARDS_A_PART
        wanted = [nth(number) for number in range(shards // 2, shards // 2 + shards)]
        start = time.perf_counter()
        assert len(ledger.missing(wanted)) == shards // 2
        missing_s, peak = time.perf_counter() - start, peak_mb()
        Ledger.load(holding(out))  # which writes the cache
        begun, start = use_of().cpu_s, time.perf_counter()
        assert len(Ledger.load(out).parts) == parts
        again_s, again_cpu_s = time.perf_counter() - start, use_of().cpu_s - begun
    return {
        **{"seconds": load_s, "cpu_s": cpu_s, "missing_s": missing_s},
        **{"again_s": again_s, "again_cpu_s": again_cpu_s},
        **{"load_mb": load_mb, "peak_mb": peak},
    }
