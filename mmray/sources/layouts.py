"""Layouts of an LMDB: which entries are a record, and which value goes into which column.

members  a record is neighbouring entries `<key>.<extension>`, named as the members of a WebDataset tar
msgpack  a record is one entry: a map of fields named by column or extension
images   a record is one entry: an encoded image; captions are in a file next to the environment

Others are in `foreign`. Entries named `__…__` are notes of the writer and are skipped. Pickles are refused.
Other contents are carried or reported as unread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mmray.errors import RecordError
from mmray.magic import named
from mmray.sources.beside import CARRIED_BYTES, as_text, listed, plain
from mmray.sources.captions import Captions
from mmray.sources.environment import Snapshot
from mmray.sources.maps import KIND, Field, fields
from mmray.sources.names import COLUMNS, is_note, of_system, text_of
from mmray.sources.options import ReadOptions
from mmray.sources.unlisted import HEAD_BYTES, modality_of
from mmray.unread import NAMELESS, SYSTEM, Unread

LayoutName = Literal["members", "msgpack", "images"]  # layouts that are also written
Payload = bytes | memoryview
#: Contents of a record: payload by column, and the values of `fields` and `unread` if any.
Contents = dict[str, Any]
#: The entries of one record: its key, the number of the first, the one past the last, and their contents, or
#: one unexamined value, or the fault.
Found = tuple[bytes, int, int, "Contents | Payload | Fault"]

_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
SUFFIXES = 4096  # extensions that are cached
_MOST_ORPHANS = 10_000  # consecutive entries of no record that are counted individually


class Fault(NamedTuple):
    """The arguments of a RecordError. Keeping the error itself would keep the frames of its traceback."""

    reason: str
    kind: str


class Layout:
    """How entries form records.

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
        self._carried = {name.lower(): name for name in options.carry}
        self._split_at = options.key_split
        #: Entries of no record: reported with the next record, or taken from here.
        self.orphans: list[Unread] = []
        self._plain: dict[
            tuple[str, ...], list[dict[str, Any]] | None
        ] = {}  # one object for all equal records
        self._columns: dict[bytes, str | None] = {}  # by the part after that dot of a plain name
        self._tiny: dict[bytes, list[dict[str, Any]]] = {}  # `unread` of small members, by the same
        self._first: tuple[bytes, bytes] | None = (
            None  # a key whose members are not neighbours, and its first name
        )

    def group(self, first: int) -> Iterator[Found]:
        """The records from an entry on: each entry is one, except notes."""
        for number, (name, value) in enumerate(self._snapshot.walk(first, values=self._payload), first):
            if not is_note(name):
                yield name, number, number + 1, value if self._payload else {}

    def contents(self, found: Found) -> Contents:
        """Contents of a record, by column; empty if no payload is requested.

        Raises:
            RecordError: something is wrong with it.
        """
        key, _, _, contents = found
        if isinstance(contents, Fault):
            raise RecordError(*contents)
        if isinstance(contents, dict):
            return contents
        if is_pickle(contents):
            raise RecordError(
                "a Python pickle, which could run any code, so it is never loaded", "lmdb-pickle"
            )
        return self._parse(key, contents)

    def _parse(self, key: bytes, value: Payload) -> Contents:
        """Contents of a record's only entry, by column."""
        raise NotImplementedError

    def check_size(self, what: str, size: int, members: int = 1) -> None:
        """Raise a RecordError if something is larger than so many members may be."""
        if size > members * self._limit:
            raise RecordError(*too_large(what, size, members * self._limit))

    def pass_over(self, name: bytes) -> None:
        """An entry that belongs to no record."""
        if len(self.orphans) < _MOST_ORPHANS and not is_note(name):
            text = text_of(name)
            self.orphans.append(Unread(SYSTEM if of_system(text) else NAMELESS, text))

    def take_orphans(self, contents: Contents) -> None:
        """Report the skipped entries with this record."""
        if self.orphans and self._payload and not self.whole:
            said = listed(self.orphans) or []
            contents["unread"] = (contents.get("unread") or []) + said
            self.orphans = []

    def carry(self, contents: Contents, name: str, value: object) -> bool:
        """Keep a small value of a record if `carry` has its name."""
        carried = self._carried.get(name.lower())
        if carried is None or self.whole:
            return False
        contents.setdefault("fields", {})[carried] = as_text(value)
        return True

    def say(self, contents: Contents, what: str, names: Sequence[str], media: Sequence[Unread] = ()) -> None:
        """Contents of a record that are not read: plain ones by name, and possible modalities."""
        key = tuple(names)
        if key not in self._plain:
            if len(self._plain) >= SUFFIXES:
                self._plain.clear()
            self._plain[key] = listed(plain(what, names))
        said = self._plain[key]
        if media:
            said = (said or []) + (listed(media) or [])
        if said:
            contents["unread"] = said


class Images(Layout):
    """Each entry is an encoded image; captions are in a file next to the environment."""

    def _parse(self, key: bytes, value: Payload) -> Contents:
        head = bytes(value[:12])
        self.check_size(repr(text_of(key)), len(value))
        if not is_image(head):
            what = named(head) or f"{len(value)} bytes that begin with {head.hex()!r}"
            raise RecordError(f"not an image: {what}", KIND)
        caption = self._captions.find(key)
        if caption is None:
            return {"image": value}
        self.check_size("its caption", len(caption))
        return {"image": value, "text": self._captions.read(caption)}


class Maps(Layout):
    """Each entry is a msgpack map."""

    def _parse(self, key: bytes, value: Payload) -> Contents:
        # The sum of allowed fields may still be too large.
        self.check_size(f"the map of key {text_of(key)!r}", len(value), len(COLUMNS))
        contents: Contents = {}
        others: list[str] = []
        media: list[Unread] = []
        for one in fields(memoryview(value)):
            column = column_named(one.name, self._column_of)
            if column is None and not self.whole:
                self._add_unlisted(contents, one, others, media)
                continue
            if one.is_nil:
                continue
            content: Payload | None = one.content
            if content is None and (column is None or (column == "meta" and one.is_map)):
                content = one.to_json()
            if content is None:
                raise RecordError(f"field {one.name!r} is neither bytes nor a string", KIND)
            self.check_size(f"field {one.name!r}", len(content))
            name = one.name if self.whole or column is None else column
            if name in contents:
                raise RecordError(
                    f"more than one {name} field: {one.name!r} is the second", "repeated-member"
                )
            contents[name] = content
        if others or media:
            self.say(contents, "field", others, media)
        return contents

    def _add_unlisted(self, contents: Contents, one: Field, others: list[str], media: list[Unread]) -> None:
        """A field that no column takes."""
        if (self._carried and self._carry_field(contents, one)) or one.is_nil:
            return
        if modality := _modality_of(one):
            media.append(Unread(f"field {one.name[:40]}", one.name, modality))
        else:
            others.append(one.name)

    def _carry_field(self, contents: Contents, one: Field) -> bool:
        content: Payload | None = None
        if not one.is_nil:
            content = one.content if one.content is not None else one.to_json()
        return (content is None or len(content) <= CARRIED_BYTES) and self.carry(contents, one.name, content)


def _modality_of(one: Field) -> str | None:
    """The modality that a field could be; none unless it is a string or bytes."""
    if one.content is None:
        return None
    return modality_of(one.name.lower(), bytes(one.content[:HEAD_BYTES]))


def column_named(name: str, column_of: Mapping[str, str]) -> str | None:
    """Column that takes a map's field, named by an extension or by the column itself."""
    return column_of.get(name.lower()) or (name if name in COLUMNS else None)


def is_pickle(value: Payload) -> bool:
    """Whether a value begins like a Python pickle of protocol 2 to 5. No map with a field does."""
    return bytes(value[:2]) in _PICKLES


def is_image(head: bytes) -> bool:
    """Whether the first 12 bytes are those of a picture."""
    return modality_of("", head) == "image"


def too_large(what: str, size: int, limit: int) -> Fault:
    """The error for something that is too large."""
    reason = f"{what} has {size} bytes, more than the {limit} that limits.member_bytes allows"
    return Fault(reason, "member-too-large")
