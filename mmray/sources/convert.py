"""Tars → LMDBs and back: a shard at a time, every member of every record, verified before it is put in place.

An output is written to a temporary file, read back, compared record by record, recorded in `convert.jsonl`
and only then renamed. An output that exists and is recorded is complete and is not made again. Other files
are not touched.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import lmdb

from mmray.errors import ChangedError, InputError, OutputError, RecordError, RunError
from mmray.page.table import number
from mmray.put import TEMPORARY
from mmray.sources.captions import captions_beside
from mmray.sources.formats import SUFFIXES
from mmray.sources.layouts import LayoutName
from mmray.sources.listing import list_shards
from mmray.sources.names import text_of
from mmray.sources.raw import Lost, Record, read_raw
from mmray.sources.shards import Shard
from mmray.sources.unchanged import changes
from mmray.sources.writers import Writer, open_lmdb, open_tar
from mmray.storage import Location
from mmray.unread import Count, Tally, Unread

Target = Literal["lmdb", "webdataset"]

JOURNAL = "convert.jsonl"
_SUFFIX_OF: dict[Target, str] = {"lmdb": ".lmdb", "webdataset": ".tar"}
_NAMED = 100  # lost records of a shard that are listed; the others are counted


@dataclass(frozen=True)
class Conversion:
    """Result for one shard: a line of the journal."""

    source: str  # shard id
    output: str  # path below the output directory
    to: Target
    layout: LayoutName
    size: int  # bytes of the output
    records: int
    payload_bytes: int
    lost: int  # records that could not be converted
    reasons: dict[str, str] = field(default_factory=dict)  # why, by key
    seconds: float = 0.0
    #: Members that belong to no record and are not converted: number and example, by kind.
    unread: dict[str, Count] = field(default_factory=dict)
    digest: str = ""  # of the shard's head and tail; earlier versions did not write it


@dataclass(frozen=True)
class _Task:
    """One shard and its output."""

    shard: Shard
    directory: Path
    name: str  # path of the output, below the directory
    to: Target
    layout: LayoutName

    @property
    def output(self) -> Path:
        return self.directory / self.name

    @property
    def draft(self) -> Path:
        return self.output.with_name(f"{TEMPORARY}{self.output.name}")

    def is_done(self, noted: Conversion | None) -> bool:
        """Whether the output exists as recorded in the journal.

        Raises:
            OutputError: another file exists there.
        """
        there = [path for path in (self.output, captions_beside(self.output)) if path.exists()]
        if not there:
            return False
        done = self.output in there
        size = self.output.stat().st_size if done else noted and noted.size
        made = noted and (noted.source, noted.to, noted.layout, noted.size)
        other = noted and noted.digest and self.shard.state and noted.digest != self.shard.state.digest
        if other or made != (self.shard.id, self.to, self.layout, size):
            raise OutputError(
                f"{there[0]}: exists, but is not from the same conversion of {self.shard.id}; delete it, "
                "or choose another output directory"
            )
        return done


def convert(
    inputs: Sequence[str],
    output: str,
    to: Target,
    layout: LayoutName = "members",
    workers: int | None = None,
) -> Iterator[Conversion]:
    """Convert shards into a local directory, several at a time.

    Args:
        inputs: as of `list_shards`; tars, compressed or not, and LMDBs.
        output: directory; each shard gets the same path below it, with another suffix.
        to: format of the output.
        layout: of LMDBs.
        workers: processes; None: one a CPU.

    Yields:
        Results of the shards as they finish; first those converted before.

    Raises:
        InputError: no shards, or records of a kind that the layout cannot store.
        OutputError: an output exists that is not from the same conversion.
        RunError: some shards could not be read or written; the others are converted.
    """
    place = Location.parse(output)
    if not place.is_local:
        raise OutputError(f"{output}: the output must be a local directory; choose one, and copy the result")
    directory = Path(place.path)
    tasks = _plan(list_shards(inputs), directory, to, layout if to == "lmdb" else "members")
    noted = _read_journal(directory / JOURNAL)
    done = {task.name for task in tasks if task.is_done(noted.get(task.name))}
    yield from (noted[name] for name in done)
    failures = []
    for task, outcome in _work([t for t in tasks if t.name not in done], workers or os.cpu_count() or 1):
        if isinstance(outcome, Conversion):
            _put_in_place(task, outcome)
            yield outcome
        else:
            failures.append(f"{task.shard.name}: {outcome}")
    if failures:
        raise RunError(
            f"{number(len(failures), 'shard')} not converted, all others are; {failures[0]}; fix that, and "
            "run the same command again"
        )


def _plan(shards: Sequence[Shard], directory: Path, to: Target, layout: LayoutName) -> list[_Task]:
    tasks: dict[str, _Task] = {}
    for shard in shards:
        suffix = next((suffix for suffix in SUFFIXES if shard.name.endswith(suffix)), "")
        name = shard.name.removesuffix(suffix) + _SUFFIX_OF[to]
        if name in tasks:
            raise OutputError(
                f"{directory / name}: would be the output of both {tasks[name].shard.url} and {shard.url}; "
                "convert them into two directories"
            )
        tasks[name] = _Task(shard, directory, name, to, layout)
    return list(tasks.values())


def _read_journal(path: Path) -> dict[str, Conversion]:
    """The latest conversion of each output. A line torn by a crash is of an output that is not in place."""
    noted: dict[str, Conversion] = {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    for line in text.splitlines():
        try:
            one = Conversion(**json.loads(line))
        except (ValueError, TypeError):
            continue
        noted[one.output] = one
    return noted


def _put_in_place(task: _Task, conversion: Conversion) -> None:
    with (task.directory / JOURNAL).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(conversion)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    captions = captions_beside(task.draft)
    if captions.exists():
        captions.replace(captions_beside(task.output))
    task.draft.replace(task.output)


def _work(tasks: list[_Task], workers: int) -> Iterator[tuple[_Task, Conversion | str]]:
    """Each task with its result, as they finish, or with why it failed."""
    if workers == 1 or len(tasks) == 1:
        yield from ((task, _convert(task)) for task in tasks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = {pool.submit(_convert, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _convert(task: _Task) -> Conversion | str:
    """Write the draft of one output and read it back; or return why that failed."""
    try:
        task.draft.parent.mkdir(parents=True, exist_ok=True)
        return _write_and_verify(task)
    except BaseException as e:
        task.draft.unlink(missing_ok=True)
        captions_beside(task.draft).unlink(missing_ok=True)
        if isinstance(e, OSError | lmdb.Error):
            return str(e)
        raise


def _write_and_verify(task: _Task) -> Conversion:
    started = time.perf_counter()
    digests: dict[bytes, bytes] = {}  # digests of written records, by key
    lost: list[Lost] = []
    payload_bytes = 0
    unread = Tally()
    with _open_writer(task) as write:
        for record in read_raw(task.shard):
            if isinstance(record, Unread):
                unread.add(record.kind, record.name)
                continue
            if isinstance(record, Lost):
                lost.append(record)
            elif record.key in digests:
                lost.append(Lost(text_of(record.key), "an earlier record has the same key"))
            else:
                try:
                    digests[record.key] = write(record).digest()
                except RecordError as e:
                    lost.append(Lost(text_of(record.key), e.reason))
                except InputError as e:
                    raise InputError(f"{task.shard.url}: {e}") from e
                else:
                    payload_bytes += record.size
    records = len(digests)
    _verify(task, digests)
    if why := changes([task.shard]).get(task.shard.id):
        raise ChangedError(task.shard.url, why)
    return Conversion(
        source=task.shard.id,
        output=task.name,
        to=task.to,
        layout=task.layout,
        size=task.draft.stat().st_size,
        records=records,
        payload_bytes=payload_bytes,
        lost=len(lost),
        reasons={one.key: one.reason for one in lost[:_NAMED]},
        seconds=round(time.perf_counter() - started, 3),
        unread=unread.counts,
        digest=task.shard.state.digest if task.shard.state else "",
    )


def _open_writer(task: _Task) -> AbstractContextManager[Writer]:
    if task.to == "webdataset":
        return open_tar(task.draft)
    return open_lmdb(task.draft, task.layout, task.shard.size)


def _verify(task: _Task, digests: dict[bytes, bytes]) -> None:
    """Read the draft back: it must contain each of these records once, and nothing else."""
    draft = Shard(task.draft.name, str(task.draft), task.draft.stat().st_size, task.to)
    for record in read_raw(draft, task.layout):
        if not isinstance(record, Record) or digests.pop(record.key, None) != record.digest():
            name = record.name if isinstance(record, Unread) else record.key
            raise RunError(f"{task.output}: record {name!r} was read back differently than it was written")
    if digests:
        raise RunError(f"{task.output}: record {next(iter(digests))!r} was not read back")
