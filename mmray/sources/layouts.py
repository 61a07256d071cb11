"""How the entries of an LMDB make up records: which belong together, and what goes into which column.

members  a record is neighbouring entries `<key>.<extension>`, named as the members of a WebDataset tar
msgpack  a record is one entry: a map of fields named by column or extension
images   a record is one entry: an encoded image; captions lie beside the environment

Entries named `__…__` are notes of whoever wrote the environment: they are passed over. Pickles are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa

from mmray.errors import InputError, RecordError
from mmray.sources.captions import Captions
from mmray.sources.cells import Cells
from mmray.sources.environment import Entries
from mmray.sources.maps import KIND, fields
from mmray.sources.names import COLUMNS, Records, each_a_record, group_members, is_note, split_name, text_of
from mmray.sources.options import ReadOptions
from mmray.sources.plain_maps import plain_fields

_TEXT = COLUMNS.index("text")

LayoutName = Literal["members", "msgpack", "images"]

_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")  # and WebP, which begins as other files do


class Layout(Protocol):
    """What a reader must know of a layout."""

    def group(self, names: pa.BinaryArray, before: bytes) -> Records:
        """The records that consecutive entries with these keys make up, given the key before them."""

    def cells(self, entries: Entries, records: Records) -> Cells:
        """What records hold, given all their entries."""


class Members:
    """Neighbouring entries `<key>.<extension>` are a record."""

    def __init__(self, options: ReadOptions) -> None:
        self._column_of = options.column_of
        self._limit = options.member_bytes

    def group(self, names: pa.BinaryArray, before: bytes) -> Records:
        return group_members(names, before, self._column_of)

    def cells(self, entries: Entries, records: Records) -> Cells:
        slots = records.column * len(records) + records.row
        cells = Cells(len(records), slots, entries.at[records.entry], entries.sizes[records.entry])
        largest = cells.sizes.max(initial=0)
        if largest > self._limit or np.bincount(slots, minlength=1).max() > 1:
            self._find_faults(cells, entries, records)
        return cells

    def _find_faults(self, cells: Cells, entries: Entries, records: Records) -> None:
        taken: set[int] = set()
        values = zip(cells.slots.tolist(), cells.sizes.tolist(), records.entry.tolist(), strict=True)
        for slot, size, entry in values:
            column, row = divmod(slot, cells.rows)
            name = text_of(entries.name(entry))
            if slot in taken:
                reason = f"more than one {COLUMNS[column]} member: {name!r} comes second"
                cells.fail(row, "repeated-member", reason)
            elif size > self._limit:
                cells.fail(row, "member-too-large", _too_large(repr(name), size, self._limit))
            taken.add(slot)


class Images:
    """Each entry is an encoded image; captions lie beside the environment."""

    def __init__(self, options: ReadOptions, captions: Captions | None) -> None:
        self._members = Members(options)
        self._limit = options.member_bytes
        self._payload = options.payload
        self._captions = captions

    def group(self, names: pa.BinaryArray, before: bytes) -> Records:  # noqa: ARG002  (each stands alone)
        return each_a_record(names, "image")

    def cells(self, entries: Entries, records: Records) -> Cells:
        cells = self._members.cells(entries, records)
        if not self._payload:
            return cells
        for row, entry in enumerate(records.entry.tolist()):
            value = entries.value(entry)
            head = bytes(value[:12])
            if is_pickle(head):
                _fail_pickle(cells, row)
            elif not is_image(head):
                reason = f"not an image: {len(value)} bytes that begin with {head.hex()!r}"
                cells.fail(row, KIND, reason)
            caption = self._captions.find(entries.name(entry)) if self._captions else None
            if self._captions is None or caption is None:
                continue
            if len(caption) > self._limit:
                cells.fail(row, "member-too-large", _too_large("its caption", len(caption), self._limit))
            else:
                cells.made[_TEXT * cells.rows + row] = self._captions.read(caption)
        return cells


class Maps:
    """Each entry is a msgpack map."""

    def __init__(self, options: ReadOptions) -> None:
        self._column_of = options.column_of
        self._limit = options.member_bytes
        self._map_limit = len(COLUMNS) * self._limit  # what fields that are each allowed may add up to
        self._payload = options.payload

    def group(self, names: pa.BinaryArray, before: bytes) -> Records:  # noqa: ARG002  (each stands alone)
        return each_a_record(names, "image")

    def cells(self, entries: Entries, records: Records) -> Cells:
        nowhere = np.zeros(0, np.int64)
        if not self._payload:
            return Cells(len(records), nowhere, nowhere, nowhere)
        sizes = entries.sizes[records.entry]
        found = plain_fields(entries.source, entries.at[records.entry], sizes, self._column)
        slots = found.column * len(records) + found.map
        sound = found.plain & (sizes <= self._map_limit)
        sound[found.map[found.size > self._limit]] = False
        sound[found.map[np.bincount(slots, minlength=1)[slots] > 1]] = False  # two fields of one column
        keep = sound[found.map]
        cells = Cells(len(records), slots[keep], found.at[keep], found.size[keep])
        self._look_closely(
            cells, entries, [(row, int(records.entry[row])) for row in np.flatnonzero(~sound).tolist()]
        )
        return cells

    def _look_closely(self, cells: Cells, entries: Entries, unsound: list[tuple[int, int]]) -> None:
        """Maps that are not plain, by row and entry: fill their cells, or say what is wrong with them."""
        further: list[tuple[int, int, int]] = []  # slot, place and bytes of each value
        for row, entry in unsound:
            value, begin = entries.value(entry), int(entries.at[entry])
            if is_pickle(value):
                _fail_pickle(cells, row)
                continue
            try:
                contents = self._contents(text_of(entries.name(entry)), value)
            except RecordError as e:
                cells.fail(row, e.kind, e.reason)
                continue
            for column, content in contents.items():
                slot = column * cells.rows + row
                if isinstance(content, bytes):
                    cells.made[slot] = content
                else:
                    further.append((slot, begin + content.start, len(content)))
        if further:
            slots, at, sizes = np.array(further, np.int64).T
            cells.slots = np.append(cells.slots, slots)
            cells.at, cells.sizes = np.append(cells.at, at), np.append(cells.sizes, sizes)

    def _column(self, name: str) -> int:
        column = column_named(name, self._column_of)
        return COLUMNS.index(column) if column else -1

    def _contents(self, key: str, value: memoryview) -> dict[int, range | bytes]:
        """What a map holds, by column: where it lies in the map, or what was made of it."""
        if len(value) > self._map_limit:
            reason = _too_large(f"the map of key {key!r}", len(value), self._map_limit)
            raise RecordError(reason, "member-too-large")
        contents: dict[int, range | bytes] = {}
        for one in fields(value):
            name = column_named(one.name, self._column_of)
            if name is None or one.is_nil:
                continue
            content = one.to_json() if name == "meta" and one.is_map else one.span
            if content is None:
                raise RecordError(f"field {one.name!r} is neither bytes nor a string", KIND)
            if len(content) > self._limit:
                reason = _too_large(f"field {one.name!r}", len(content), self._limit)
                raise RecordError(reason, "member-too-large")
            if COLUMNS.index(name) in contents:
                reason = f"more than one {name} field: {one.name!r} comes second"
                raise RecordError(reason, "repeated-member")
            contents[COLUMNS.index(name)] = content
        return contents


def layout_named(name: LayoutName, options: ReadOptions, captions: Captions | None) -> Layout:
    """The layout of this name; captions are of images only."""
    if name == "images":
        return Images(options, captions)
    return Members(options) if name == "members" else Maps(options)


def detect(entries: Entries, options: ReadOptions, *, captioned: bool) -> LayoutName | None:
    """The layout of an environment; None where these entries are only notes.

    Args:
        entries: its first.
        options: which extensions there are.
        captioned: whether captions lie beside the environment.

    Raises:
        InputError: pickles, or no layout that is known.
    """
    column_of = options.column_of
    first = member = None
    for i in range(len(entries)):
        name = entries.name(i)
        if is_note(name):
            continue
        first = i if first is None else first
        if split_name(name)[1] in column_of:
            member = i
            break
    if first is None:
        return None
    which = first if member is None else member
    name, value = entries.name(which), entries.value(which)
    head = bytes(value[:12])
    if is_pickle(head):
        raise InputError(
            f"key {name!r} holds a Python pickle, which could run any code and is never loaded; rewrite the "
            "records as members, msgpack maps or images with a program that trusts them"
        )
    if _is_record(value, column_of):
        return "msgpack"
    if member is not None and not (captioned and is_image(head)):
        return "members"
    if is_image(head):
        return "images"
    raise InputError(
        f"key {name!r} holds {len(value)} bytes that begin with {head.hex()!r} ({head!r}): not a member "
        "<key>.<extension>, nor a msgpack map with a field such as image or jpg, nor an image; check "
        "`extensions` in the config, or rewrite the records as one of these, in the main database"
    )


def column_named(name: str, column_of: Mapping[str, str]) -> str | None:
    """Column that takes a map's field, named by an extension or by the column itself."""
    return column_of.get(name.lower()) or (name if name in COLUMNS else None)


def is_pickle(value: bytes | memoryview) -> bool:
    """Whether a value begins as Python's pickles of protocols 2 to 5 do. No map with a field in it does."""
    return bytes(value[:2]) in _PICKLES


def is_image(head: bytes) -> bool:
    """Whether the first 12 bytes are those of a JPEG, PNG, GIF, BMP or WebP."""
    return head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_record(value: memoryview, column_of: Mapping[str, str]) -> bool:
    try:
        return any(column_named(one.name, column_of) for one in fields(value))
    except RecordError:
        return False


def _too_large(what: str, size: int, limit: int) -> str:
    return f"{what} has {size} bytes, more than the {limit} that limits.member_bytes allows"


def _fail_pickle(cells: Cells, row: int) -> None:
    cells.fail(row, "lmdb-pickle", "a Python pickle, which could run any code and is never loaded")
