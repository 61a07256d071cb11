"""`mmray index`: indexes shards in parallel, and prints the results."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from time import monotonic

from rich.markup import escape

from mmray.cli.display import console
from mmray.errors import AuditError, InputError
from mmray.page.table import number
from mmray.sources import Shard, list_shards
from mmray.sources.index import write_index


def index_shards(inputs: Sequence[str]) -> None:
    """Index every shard that the inputs name.

    Raises:
        InputError: the inputs have no shards.
        AuditError: some cannot be indexed; all others are.
    """
    shards = list_shards(inputs)
    workers = min(len(shards), os.cpu_count() or 1)
    started, failed = monotonic(), 0
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        tasks = {pool.submit(_rows, shard): shard for shard in shards}
        for task in as_completed(tasks):
            name = escape(tasks[task].name)
            try:
                console.print(f"[green]✓[/] {name}: {number(task.result(), 'record')}", soft_wrap=True)
            except (InputError, OSError) as e:
                failed += 1
                console.print(f"[red]✗[/] {name}: {escape(str(e))}", soft_wrap=True)
    console.print(f"{len(shards) - failed} of {len(shards)} indexed in {monotonic() - started:.1f} s")
    if failed:
        raise AuditError(f"{number(failed, 'shard')} without an index; a run reads each of them in one task")


def _rows(shard: Shard) -> int:
    return write_index(shard).rows
