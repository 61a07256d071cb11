"""Cost of listing shards: on a store with 30 ms latency, and on a local disk."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from _scale.process import peak_mb, use_of
from _scale.store import store
from _scale.tars import tar_of_captions

from mmray.sources import take_listing

LATENCY_S = 0.03
SHARD_BYTES = 1 << 20  # head and tail of such a large shard are two requests, like those of real ones
_A_FOLDER = 1000


def of_store(shards: int) -> dict[str, float]:
    """List a store for the first time, and again with the known listing."""
    with store(shards, SHARD_BYTES, LATENCY_S) as (url, server):

        def counts() -> tuple[int, int]:
            server.send(True)
            calls, most = server.recv()
            return calls, most

        begun, start = use_of().cpu_s, time.perf_counter()
        first = take_listing([url])
        took, cpu_s = time.perf_counter() - start, use_of().cpu_s - begun
        asked, most = counts()
        assert len(first.shards) == shards
        start = time.perf_counter()
        assert take_listing([url], first.shards).shards == first.shards
        again_s, again = time.perf_counter() - start, counts()[0] - asked
    return {
        **{"seconds": took, "cpu_s": cpu_s, "calls": asked, "calls_a_shard": asked / shards},
        "at_once": most,
        **{"again_s": again_s, "again_calls": again, "peak_mb": peak_mb()},
    }


def of_disk(shards: int) -> dict[str, float]:
    """List a directory tree of small files."""
    with tempfile.TemporaryDirectory(prefix="mmray-listing-") as place:
        content = tar_of_captions(0, 1)
        for i in range(shards):
            folder = Path(place) / f"{i // _A_FOLDER:04d}"
            if not i % _A_FOLDER:
                folder.mkdir()
            (folder / f"t-{i:07d}.tar").write_bytes(content)
        begun, start = use_of().cpu_s, time.perf_counter()
        first = take_listing([place])
        took, cpu_s = time.perf_counter() - start, use_of().cpu_s - begun
        assert len(first.shards) == shards
        start = time.perf_counter()
        take_listing([place], first.shards)
        again_s = time.perf_counter() - start
    return {"seconds": took, "cpu_s": cpu_s, "again_s": again_s, "peak_mb": peak_mb()}
