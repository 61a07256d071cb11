"""Drop the rows of shards that changed, and keep all others."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from mmray.pipeline.ledger import Ledger
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import commit, read_parquet, read_rejects


def prune(out: RunDirectory, shard_ids: Collection[str]) -> Ledger:
    """Remove rows of shards other than these from the parts (see `Survey.unchanged`).

    A part that also has current rows is written again without the stale ones before it is deleted. A crash in
    between leaves both; the next call starts again from the old one.
    """
    out.check_lease()
    for part in Ledger.load(out).parts:
        kept = {shard: runs for shard, runs in part.coverage.items() if shard in shard_ids}
        if len(kept) == len(part.coverage):
            continue
        if kept:
            totals = {shard: total for shard, total in part.totals.items() if shard in kept}
            rejects = _only(read_rejects(out, part), kept)
            commit(out, _only(read_parquet(out.parts / part.name), kept), rejects, kept, totals, part.unread)
        out.delete_part(part.name)
    return Ledger.load(out)


def _only(rows: pa.Table, shard_ids: Collection[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows["shard"], pa.array(list(shard_ids))))
