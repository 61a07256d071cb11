"""Reads shards, and counts them as done, only while they are unchanged since they were listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.fs as pafs

from mmray.coverage import Missing
from mmray.remote import RefusedError
from mmray.sources.expand import infos_of
from mmray.sources.folder import check_unchanged, look_at_folder
from mmray.sources.folder_files import state_of
from mmray.sources.parallel import in_parallel
from mmray.sources.shards import Shard
from mmray.sources.state import State, Watch, look, stat_file, trusted_mtime
from mmray.storage import Location


def while_unchanged(
    shard: Shard, blocks: Iterator[pa.Table], wanted: Sequence[Missing]
) -> Iterator[pa.Table]:
    """The blocks of a shard; none that was read after a detectable change.

    A local file is compared before it is opened and before each block is yielded. An object of a store is
    compared when it is opened, and before its last block is yielded. An LMDB is compared after opening; later
    changes are detected by its reader.

    Raises:
        ChangedError: the shard has changed since it was listed.
        OSError: from the reader of the blocks; or the format of the shard is not supported.
    """
    if shard.fault and shard.format != "lmdb":  # whose reader distinguishes damage from temporary errors
        raise OSError(shard.fault)
    if shard.state is None:
        yield from blocks
        return
    if shard.format == "folder":  # its reader compares it when it lists its files
        yield from _while_listed(shard, blocks, wanted)
        return
    file = shard.file
    watch, begun = Watch(file, shard.state), False
    if shard.format != "lmdb" and not shard.state.version:
        watch.check()
    for block in blocks:
        if not begun if shard.format == "lmdb" else file.is_local or _is_last(block, wanted):
            watch.check()
        begun = True
        yield block


def _while_listed(shard: Shard, blocks: Iterator[pa.Table], wanted: Sequence[Missing]) -> Iterator[pa.Table]:
    """The blocks of a folder, compared again before the last; each file is compared when it is read."""
    for block in blocks:
        if _is_last(block, wanted):
            check_unchanged(shard)
        yield block


def _is_last(block: pa.Table, wanted: Sequence[Missing]) -> bool:
    last = wanted[-1].last
    return bool(block["end"][-1].as_py()) or (last is not None and block["row"][-1].as_py() >= last)


def changes(shards: Iterable[Shard]) -> dict[str, str]:
    """Shards that changed since they were listed: their ids, and how.

    A shard that is gone, or that this machine may not open, does not count as changed.

    A file that was not touched is not opened.

    Raises:
        StoreError: a store does not answer.
    """
    stated = [shard for shard in shards if shard.state]
    files = [shard for shard in stated if shard.format != "folder"]
    stored = infos_of([place for shard in files if not (place := Location.parse(shard.url)).is_local])
    found = in_parallel(partial(_change, stored=stored), stated)
    return {shard.id: why for shard, why in zip(stated, found, strict=True) if why}


def _change(shard: Shard, stored: Mapping[str, pafs.FileInfo]) -> str:
    state, file = shard.state, shard.file
    assert state is not None
    try:
        if shard.format == "folder":
            return state.difference(state_of(look_at_folder(shard)))
        if file.is_local:
            mtime_ns, now = 0, stat_file(file.path)[0]
        else:
            info = stored[shard.url]
            if info.size is None:  # gone
                return ""
            mtime_ns, now = info.mtime_ns or 0, State(info.size, trusted_mtime(info.mtime_ns or 0))
        if state.is_surely(now):
            return ""
        return state.difference(look(file, mtime_ns)[0])
    except (FileNotFoundError, PermissionError, RefusedError):
        return ""
