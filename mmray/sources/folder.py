"""A directory of loose files → Arrow blocks of RECORDS: files with the same stem are a record.

Rows are in the order of their keys. Each record's metadata has the directory's name in a field `folder`, and
the columns of the table that describes the files, if there is one (see `table`). Offsets are ordinals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.errors import ChangedError, RecordError, ShardError
from mmray.schema import META_BYTES, error
from mmray.sources.ahead import in_order
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.fields import Fields, fields_of
from mmray.sources.files import Files, Listed
from mmray.sources.folder_files import (
    FILMS,
    METADATA,
    Group,
    groups,
    look,
    own_files,
    state_of,
    stem,
)
from mmray.sources.naming import Naming
from mmray.sources.open_record import CARRIED_BYTES, said
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard
from mmray.sources.table import Described, Table, read_table
from mmray.sources.unlisted import modality_of
from mmray.storage import Location
from mmray.unread import Unread, kind_of_file

_THREADS = 4
_MOST_ORPHANS = 10_000  # files of no record that are counted individually
_AHEAD_BYTES = 128 << 20  # bytes of files that are loaded but not yet consumed


class Entry(NamedTuple):
    """A record of a folder: its files and their row in the table, or its fault."""

    group: Group
    described: Described | None = None
    fault: tuple[str, str] | None = None  # kind and reason


def read_folder(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a directory as tables of RECORDS, in order; only their files are opened.

    Raises:
        ChangedError: its files differ from those that were listed.
        OSError: it, or a file in it, cannot be read, perhaps temporarily; anything wrong with a file's
            content or name is a row with an error.
    """
    yield from to_blocks(_Records(shard, options).read(wanted), options)


def count_rows(shard: Shard, options: ReadOptions) -> int:
    """Number of records in a directory.

    Raises:
        OSError: it cannot be listed.
        ShardError: its table cannot be read.
    """
    return len(_Records(shard, options).entries())


def root_of(shard: Shard, place: Location) -> Location:
    """The directory of the input that a folder was found in."""
    path = place.path if shard.name == "." else place.path.removesuffix(shard.name).rstrip("/")
    return replace(place, path=path or "/", version="")


def check_unchanged(shard: Shard) -> None:
    """Compare a folder with its state when it was listed.

    Raises:
        ChangedError: it has changed.
        OSError: it is gone.
    """
    _files_of(shard)


def look_at_folder(shard: Shard) -> dict[str, Listed]:
    """The current files of a folder, its table included.

    Raises:
        OSError: it cannot be listed.
    """
    place = replace(shard.open(), version="")
    return look(place, root_of(shard, place))


def _files_of(shard: Shard) -> dict[str, Listed]:
    files = look_at_folder(shard)
    if shard.state and (why := shard.state.difference(state_of(files))):
        raise ChangedError(shard.url, why)
    return files


class _Records:
    """Makes rows of the files of one directory."""

    def __init__(self, shard: Shard, options: ReadOptions) -> None:
        self._shard = shard
        self._options = options
        self._naming = Naming(options)
        self._carry = {name.lower(): name for name in options.carry}
        self._place = replace(shard.open(), version="")
        self._root = root_of(shard, self._place)
        self._files = Files(self._place, self._root, options)
        self._listed: dict[str, Listed] = {}
        self._table_files = self._files  # directory of the table

    def entries(self) -> list[Entry]:
        """The records, in order: those with files, then those that are only in the table.

        Raises:
            ShardError: the table cannot be read.
        """
        column_of = self._options.column_of
        self._listed = _files_of(self._shard)
        name = next((n for n in self._listed if n.rpartition("/")[2] in METADATA), None)
        own = [n for n in self._listed if "/" not in n and n != name]
        found = groups(own, column_of)
        if name is None:
            return [Entry(group) for group in found]
        ups = name.count("../")
        above = self._place
        for _ in range(ups):
            above = above.parent
        table = read_table(above / name.rpartition("/")[2])
        self._table_files = Files(above, self._root, self._options)
        folder = self._place.path[len(above.path) :].strip("/")
        rows = table.rows.get(folder, {})
        entries = [self._described(group, rows) for group in found]
        names = {*self._listed}
        lost = [(base, row) for base, row in rows.items() if base not in names]
        if not ups:
            lost += self._of_no_folder(table)
            entries += [_malformed(byte, why) for byte, why in table.faults]
        return entries + [
            Entry(
                Group(stem(base, column_of)[0], {}),
                row,
                ("file-missing", f"{base}: not found, but listed in {name}"),
            )
            for base, row in lost
        ]

    def _of_no_folder(self, table: Table) -> Iterator[tuple[str, Described]]:
        """Rows of the table whose directory is not a shard itself."""
        for folder, rows in table.rows.items():
            if not folder:
                continue
            inside = not folder.startswith(("/", ".."))
            if not inside or not groups(own_files(self._place / folder), self._options.column_of):
                yield from ((f"{folder}/{base}", row) for base, row in rows.items())

    def _described(self, group: Group, rows: Mapping[str, Described]) -> Entry:
        there = [rows[name] for name in group.names.values() if name in rows]
        if group.fault:
            return Entry(group, None, ("repeated-member", group.fault))
        if len(there) > 1 or (there and there[0].fault):
            return Entry(group, None, ("repeated-member", there[0].fault or "its files have a row each"))
        return Entry(group, there[0] if there else None)

    def read(self, wanted: Sequence[Missing]) -> Iterator[dict[str, Any]]:
        try:
            entries = self.entries()
        except ShardError as e:
            if wanted[0].first == 0:
                fault = error("shard", e.kind, e.reason)
                yield new_row(self._shard.id, 0, "0", 0, 1) | {"end": True, "error": fault}
            return
        if not entries and wanted[0].first == 0:
            yield empty_row(self._shard.id, "0", 1)
        rows = (
            row
            for gap in wanted
            for row in range(gap.first, len(entries) if gap.last is None else min(gap.last + 1, len(entries)))
        )

        def load(row: int) -> dict[str, Any]:
            payload = self._load(entries[row])
            if row == 0 and (orphans := self._of_no_record(entries)):
                payload["unread"] = [*(payload.get("unread") or []), *orphans]
            return payload

        def cost(row: int) -> int:
            return sum(self._listed[name].size for name in entries[row].group.names.values())

        for row, payload in in_order(rows, load, cost, _size, threads=_THREADS, most=_AHEAD_BYTES):
            end = row == len(entries) - 1
            yield new_row(self._shard.id, row, self._key(entries[row]), row, 1) | {"end": end} | payload

    def _of_no_record(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Files of the directory that belong to no record; they are reported with the first record."""
        used = {name for entry in entries for name in entry.group.names.values()}
        others = (n for n in self._listed if n not in used and n.rpartition("/")[2] not in METADATA)
        return said([Unread(kind_of_file(name), name) for name in others][:_MOST_ORPHANS]) or []

    def _key(self, entry: Entry) -> str:
        folder = "" if self._shard.name == "." else f"{self._shard.name}/"
        return folder + entry.group.key

    def _load(self, entry: Entry) -> dict[str, Any]:
        """The payload of a record, or its fault."""
        try:
            if entry.fault or entry.group.fault:
                kind, reason = entry.fault or ("repeated-member", entry.group.fault)
                raise RecordError(reason, kind)
            fields = fields_of(entry.described.values, self._naming) if entry.described else Fields(None)
            found, unread, small = self._members(entry.group)
            if not self._options.payload:
                return {}
            loaded = {column: self._files.read(name, self._listed[name]) for column, name in found.items()}
            for role, name, path in fields.files:
                if role in ("image", "audio") and role not in loaded:
                    loaded[role] = self._table_files.read(path)
                else:
                    fields.meta[name] = path
            if fields.text is not None and "text" in loaded:
                fields.meta[fields.text_name] = fields.text.decode()
            elif fields.text is not None:
                loaded["text"] = fields.text
            loaded["meta"] = self._meta(loaded.get("meta"), fields)
            texts = {name: self._files.read(file, self._listed[file]) for name, file in small.items()}
        except RecordError as e:
            return {"error": error("read", e.kind, e.reason)}
        carried = {name: text.decode("utf-8", "backslashreplace").strip() for name, text in texts.items()}
        return {**loaded, "fields": carried or None, "unread": said(unread)}

    def _members(self, group: Group) -> tuple[dict[str, str], list[Unread], dict[str, str]]:
        """The file of each column, files that are not read, and small ones to carry, by name.

        Raises:
            RecordError: two of one column.
        """
        found: dict[str, str] = {}
        for extension, name in group.names.items():
            column = self._options.column_of.get(extension)
            if column in found:
                raise RecordError(f"more than one {column}: {name!r} is the second", "repeated-member")
            if column:
                found[column] = name
        unread, small = [], {}
        for extension, name in group.names.items():
            if extension in self._options.column_of:
                continue
            if extension in self._carry and self._listed[name].size <= CARRIED_BYTES:
                small[self._carry[extension]] = name
                continue
            modality = modality_of(extension)
            if extension in FILMS and not {"image", "audio"} & found.keys():
                modality = "image"
            unread.append(Unread(f".{extension[:40]} files", name, modality))
        return found, unread, small

    def _meta(self, member: bytes | None, fields: Fields) -> bytes:
        """The JSON member with the folder's name and the table's columns; its own fields have priority."""
        more = {"folder": self._place.name}
        if member is None:
            return fields.meta_bytes(more)
        try:
            own = json.loads(member) if len(member) <= META_BYTES else None
        except (ValueError, RecursionError):
            own = None
        if not isinstance(own, dict):
            return member
        return Fields(None, meta={**fields.meta, **own}).meta_bytes(more)


def _size(payload: dict[str, Any]) -> int:
    return sum(len(value) for value in payload.values() if isinstance(value, bytes))


def _malformed(byte: int, why: str) -> Entry:
    return Entry(Group(f"{METADATA[0].partition('.')[0]}-{byte}", {}), None, ("row-malformed", why))
