"""How the entries of an LMDB make up records: which belong together, and what goes into which column.

members  a record is neighbouring entries `<key>.<extension>`, named as the members of a WebDataset tar
msgpack  a record is one entry: a map of fields named by column or extension
images   a record is one entry: an encoded image; captions lie beside the environment

Entries named `__…__` are notes of whoever wrote the environment: they are passed over. Pickles are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from mmray.errors import InputError, RecordError
from mmray.sources.captions import Captions, captions_beside
from mmray.sources.environment import Snapshot
from mmray.sources.maps import KIND, fields
from mmray.sources.names import COLUMNS, is_note, split_name, text_of
from mmray.sources.options import ReadOptions

LayoutName = Literal["members", "msgpack", "images"]
Payload = bytes | memoryview
#: The entries of one record: its key, the number of the first, the one past the last, and what they hold: by
#: column, or one value that nobody has looked at, or what is wrong with it.
Found = tuple[bytes, int, int, "dict[str, Payload] | Payload | Fault"]

_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")  # and WebP, which begins as other files do
_UNKNOWN = "unknown"  # column of an extension that was not met before
_SUFFIXES = 4096  # that are remembered
_SAMPLE_ENTRIES = 64  # that tell the layout


class Fault(NamedTuple):
    """What a RecordError is made of. One that is kept would keep the frames that it is raised in."""

    reason: str
    kind: str


class Layout:
    """How entries make up records.

    Args:
        snapshot: the entries.
        options: how to read them.
        captions: of images.
        whole: all members by their extensions, instead of known ones by the columns that take them.
    """

    def __init__(self, snapshot: Snapshot, options: ReadOptions, captions: Captions, *, whole: bool) -> None:
        self.whole = whole
        self._snapshot = snapshot
        self._payload = options.payload
        self._limit = options.member_bytes
        self._captions = captions
        self._column_of = options.column_of
        self._columns: dict[bytes, str | None] = {}  # by what follows after the first dot of a plain name
        self._first: tuple[bytes, bytes] | None = None  # a key that lies apart, and its first name

    def group(self, first: int) -> Iterator[Found]:
        """The records from an entry on: each entry is one, but for notes."""
        for number, (name, value) in enumerate(self._snapshot.walk(first, values=self._payload), first):
            if not is_note(name):
                yield name, number, number + 1, value if self._payload else {}

    def contents(self, found: Found) -> dict[str, Payload]:
        """What a record holds, by column; nothing where no payload is asked for.

        Raises:
            RecordError: something is wrong with it.
        """
        key, _, _, contents = found
        if isinstance(contents, Fault):
            raise RecordError(*contents)
        if isinstance(contents, dict):
            return contents
        if is_pickle(contents):
            raise RecordError("a Python pickle, which could run any code and is never loaded", "lmdb-pickle")
        return self._parse(key, contents)

    def _parse(self, key: bytes, value: Payload) -> dict[str, Payload]:
        """What the one entry of a record holds, by column."""
        raise NotImplementedError

    def check_size(self, what: str, size: int, members: int = 1) -> None:
        """Raise a RecordError where something is larger than so many members may be."""
        if size > members * self._limit:
            raise RecordError(*_too_large(what, size, members * self._limit))


class Members(Layout):
    """Neighbouring entries `<key>.<extension>` are a record."""

    def group(self, first: int) -> Iterator[Found]:
        entries = self._snapshot.walk(max(0, first - 1), values=self._payload)
        before = b"".join(name for name, _ in islice(entries, min(first, 1)))
        key, begin, stop = None, first, first
        members: dict[str, Payload] = {}
        fault: Fault | None = None
        columns, limit = self._columns, self._limit
        for number, (name, value) in enumerate(entries, first):
            stem, _, suffix = name.partition(b".")
            column = columns.get(suffix, _UNKNOWN)
            # Whether it cannot just be split at its first dot; nothing is in b"/", too.
            odd = column is _UNKNOWN or (stem != key and (stem[-1:] in b"/" or stem[:2] == b"__"))
            if odd:
                stem, column = self._split(name)
                if column is _UNKNOWN:
                    before = name
                    continue
            if stem != key:
                if key is not None:
                    yield key, begin, stop, fault or members
                key, begin, members, fault = stem, number, {}, None
                if before and before.startswith(stem + b".") and self._first_name(stem) != name:
                    between = f"entries in the folder {text_of(stem)}.… lie between them; rename that folder"
                    fault = Fault(f"members of this key lie apart: {between}", "interleaved-members")
            stop = number + 1
            if column is not None:
                if column in members:
                    reason = f"more than one {column} member: {text_of(name)} comes second"
                    fault = fault or Fault(reason, "repeated-member")
                elif len(value) > limit:
                    fault = fault or _too_large(f"member {text_of(name)!r}", len(value), limit)
                members[column] = value
            before = name if odd else b""  # no other can lie among the entries of another's record
        if key is not None:
            yield key, begin, stop, fault or members

    def _split(self, name: bytes) -> tuple[bytes, str | None]:
        """Key and column: _UNKNOWN for what belongs to no record, None where no column takes it."""
        key, extension = split_name(name)
        if not extension:
            return key, _UNKNOWN
        suffix = name[len(key) + 1 :]
        column = suffix.decode("utf-8", "surrogateescape") if self.whole else self._column_of.get(extension)
        if b"." not in key:
            if len(self._columns) >= _SUFFIXES:
                self._columns.clear()
            self._columns[suffix] = column
        return key, column

    def _first_name(self, key: bytes) -> bytes:
        """The first of the names with a key."""
        if self._first is None or self._first[0] != key:
            names = self._snapshot.keys_from(key + b".")
            named = (n for n in names if split_name(n)[0] == key and split_name(n)[1])
            self._first = key, next(named, b"")
        return self._first[1]


class Images(Layout):
    """Each entry is an encoded image; captions lie beside the environment."""

    def _parse(self, key: bytes, value: Payload) -> dict[str, Payload]:
        head = bytes(value[:12])
        self.check_size(repr(text_of(key)), len(value))
        if not is_image(head):
            raise RecordError(f"not an image: {len(value)} bytes that begin with {head.hex()!r}", KIND)
        caption = self._captions.find(key)
        if caption is None:
            return {"image": value}
        self.check_size("its caption", len(caption))
        return {"image": value, "text": self._captions.read(caption)}


class Maps(Layout):
    """Each entry is a msgpack map."""

    def _parse(self, key: bytes, value: Payload) -> dict[str, Payload]:
        # Fields that are each allowed may add up to more.
        self.check_size(f"the map of key {text_of(key)!r}", len(value), len(COLUMNS))
        contents: dict[str, Payload] = {}
        for one in fields(memoryview(value)):
            column = column_named(one.name, self._column_of)
            if one.is_nil or (column is None and not self.whole):
                continue
            content: Payload | None = one.content
            if content is None and (column is None or (column == "meta" and one.is_map)):
                content = one.to_json()
            if content is None:
                raise RecordError(f"field {one.name!r} is neither bytes nor a string", KIND)
            self.check_size(f"field {one.name!r}", len(content))
            name = one.name if self.whole or column is None else column
            if name in contents:
                raise RecordError(f"more than one {name} field: {one.name!r} comes second", "repeated-member")
            contents[name] = content
        return contents


LAYOUTS: Mapping[LayoutName, type[Layout]] = {"members": Members, "msgpack": Maps, "images": Images}


def detect(snapshot: Snapshot, options: ReadOptions) -> LayoutName:
    """The layout of an environment, from its first entries. One of nothing but notes counts as members.

    Args:
        snapshot: its entries.
        options: which extensions there are.

    Raises:
        InputError: pickles, or no layout that is known.
    """
    column_of = options.column_of
    sample = list(islice((entry for entry in snapshot.walk() if not is_note(entry[0])), _SAMPLE_ENTRIES))
    if not sample:
        return "members"
    member = next((entry for entry in sample if split_name(entry[0])[1] in column_of), None)
    name, value = member or sample[0]
    head = bytes(value[:12])
    if is_pickle(head):
        raise InputError(
            f"{snapshot.path}: key {name!r} holds a Python pickle, which could run any code and is never "
            "loaded; rewrite the records as members, msgpack maps or images with a program that trusts them"
        )
    if _is_record(value, column_of):
        return "msgpack"
    captioned = captions_beside(Path(snapshot.path)).exists()
    if member is not None and not (captioned and is_image(head)):
        return "members"
    if is_image(head):
        return "images"
    raise InputError(
        f"{snapshot.path}: key {name!r} holds {len(value)} bytes that begin with {head.hex()!r} ({head!r}): "
        "not a member <key>.<extension>, nor a msgpack map with a field such as image or jpg, nor an image; "
        "check `extensions` and `lmdb.database` in the config, or rewrite the records as one of these"
    )


def column_named(name: str, column_of: Mapping[str, str]) -> str | None:
    """Column that takes a map's field, named by an extension or by the column itself."""
    return column_of.get(name.lower()) or (name if name in COLUMNS else None)


def is_pickle(value: Payload) -> bool:
    """Whether a value begins as Python's pickles of protocols 2 to 5 do. No map with a field in it does."""
    return bytes(value[:2]) in _PICKLES


def is_image(head: bytes) -> bool:
    """Whether the first 12 bytes are those of a JPEG, PNG, GIF, BMP or WebP."""
    return head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _too_large(what: str, size: int, limit: int) -> Fault:
    reason = f"{what} has {size} bytes, more than the {limit} that limits.member_bytes allows"
    return Fault(reason, "member-too-large")


def _is_record(value: Payload, column_of: Mapping[str, str]) -> bool:
    try:
        return any(column_named(one.name, column_of) for one in fields(memoryview(value)))
    except RecordError:
        return False
