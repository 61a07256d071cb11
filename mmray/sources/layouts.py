"""How the entries of an LMDB make up records: which belong together, and what goes into which column.

members  a record is neighbouring entries `<key>.<extension>`, named as the members of a WebDataset tar
msgpack  a record is one entry: a map of fields named by column or extension
images   a record is one entry: an encoded image; captions lie beside the environment

Entries named `__…__` are notes of whoever wrote the environment: they are passed over. Pickles are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from mmray.errors import InputError, RecordError
from mmray.sources.captions import Captions
from mmray.sources.cells import Cells
from mmray.sources.maps import KIND, fields
from mmray.sources.names import COLUMNS, Records, each_a_record, group_members, split_name, text_of
from mmray.sources.options import ReadOptions

LayoutName = Literal["members", "msgpack", "images"]

_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")  # and WebP, which begins as other files do


class Layout(Protocol):
    """What a reader must know of a layout."""

    def group(self, names: list[bytes], before: bytes) -> Records:
        """The records that consecutive entries with these keys make up, given the key before them."""

    def cells(self, names: Sequence[bytes], values: Sequence[memoryview], records: Records) -> Cells:
        """What records hold, given all their entries."""


class Members:
    """Neighbouring entries `<key>.<extension>` are a record."""

    def __init__(self, options: ReadOptions) -> None:
        self._column_of = options.column_of
        self._limit = options.member_bytes

    def group(self, names: list[bytes], before: bytes) -> Records:
        return group_members(names, before, self._column_of)

    def cells(self, names: Sequence[bytes], values: Sequence[memoryview], records: Records) -> Cells:
        slots = records.column * len(records) + records.row
        cells = Cells(len(records), slots, [values[entry] for entry in records.entry.tolist()])
        largest = max(map(len, cells.values), default=0)
        if largest > self._limit or np.bincount(slots, minlength=1).max() > 1:
            self._find_faults(cells, names, records)
        return cells

    def _find_faults(self, cells: Cells, names: Sequence[bytes], records: Records) -> None:
        taken: set[int] = set()
        entries = zip(cells.slots.tolist(), cells.values, records.entry.tolist(), strict=True)
        for slot, value, entry in entries:
            column, row = divmod(slot, cells.rows)
            name = text_of(names[entry])
            if slot in taken:
                reason = f"more than one {COLUMNS[column]} member: {name!r} comes second"
                cells.fail(row, "repeated-member", reason)
            elif len(value) > self._limit:
                cells.fail(row, "member-too-large", _too_large(repr(name), value, self._limit))
            taken.add(slot)


class Images:
    """Each entry is an encoded image; captions lie beside the environment."""

    def __init__(self, options: ReadOptions, captions: Captions | None) -> None:
        self._members = Members(options)
        self._limit = options.member_bytes
        self._payload = options.payload
        self._captions = captions

    def group(self, names: list[bytes], before: bytes) -> Records:  # noqa: ARG002  (each stands alone)
        return each_a_record(names, "image")

    def cells(self, names: Sequence[bytes], values: Sequence[memoryview], records: Records) -> Cells:
        cells = self._members.cells(names, values, records)
        if not self._payload:
            return cells
        text, slots = COLUMNS.index("text") * cells.rows, []
        for row, entry in enumerate(records.entry.tolist()):
            head = bytes(values[entry][:12])
            if is_pickle(head):
                _fail_pickle(cells, row)
            elif not is_image(head):
                reason = f"not an image: {len(values[entry])} bytes that begin with {head.hex()!r}"
                cells.fail(row, KIND, reason)
            caption = self._captions.find(names[entry]) if self._captions else None
            if self._captions is None or caption is None:
                continue
            if len(caption) > self._limit:
                cells.fail(row, "member-too-large", _too_large("its caption", caption, self._limit))
            else:
                slots.append(text + row)
                cells.values.append(self._captions.read(caption))
        cells.slots = np.append(cells.slots, np.array(slots, np.int64))
        return cells


class Maps:
    """Each entry is a msgpack map."""

    def __init__(self, options: ReadOptions) -> None:
        self._column_of = options.column_of
        self._limit = options.member_bytes
        self._payload = options.payload

    def group(self, names: list[bytes], before: bytes) -> Records:  # noqa: ARG002  (each stands alone)
        return each_a_record(names, "image")

    def cells(self, names: Sequence[bytes], values: Sequence[memoryview], records: Records) -> Cells:
        cells = Cells(len(records), np.zeros(0, np.int64), [])
        slots: list[int] = []
        for row, entry in enumerate(records.entry.tolist() if self._payload else ()):
            value = values[entry]
            if is_pickle(value):
                _fail_pickle(cells, row)
                continue
            try:
                contents = self._contents(text_of(names[entry]), value)
            except RecordError as e:
                cells.fail(row, e.kind, e.reason)
                continue
            slots += [column * cells.rows + row for column in contents]
            cells.values += contents.values()
        cells.slots = np.array(slots, np.int64)
        return cells

    def _contents(self, key: str, value: memoryview) -> dict[int, memoryview | bytes]:
        """What a map holds, by column."""
        limit = len(COLUMNS) * self._limit  # what fields that are each allowed may add up to
        if len(value) > limit:
            raise RecordError(_too_large(f"the map of key {key!r}", value, limit), "member-too-large")
        contents: dict[int, memoryview | bytes] = {}
        for one in fields(value):
            name = column_named(one.name, self._column_of)
            if name is None or one.is_nil:
                continue
            content = one.to_json() if name == "meta" and one.is_map else one.data
            if content is None:
                raise RecordError(f"field {one.name!r} is neither bytes nor a string", KIND)
            if len(content) > self._limit:
                reason = _too_large(f"field {one.name!r}", content, self._limit)
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


def detect(
    names: Sequence[bytes], values: Sequence[memoryview], options: ReadOptions, *, captioned: bool
) -> LayoutName:
    """The layout of an environment, from its first entries that are not notes (at least one).

    Args:
        names: their keys.
        values: their values.
        options: which extensions there are.
        captioned: whether captions lie beside the environment.

    Raises:
        InputError: pickles, or no layout that is known.
    """
    column_of = options.column_of
    member = next((i for i, name in enumerate(names) if split_name(name)[1] in column_of), None)
    name, value = names[member or 0], values[member or 0]
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


def _too_large(what: str, content: Sequence[int], limit: int) -> str:
    return f"{what} has {len(content)} bytes, more than the {limit} that limits.member_bytes allows"


def _fail_pickle(cells: Cells, row: int) -> None:
    cells.fail(row, "lmdb-pickle", "a Python pickle, which could run any code and is never loaded")
