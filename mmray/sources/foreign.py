"""LMDBs as other programs lay them out; and which layout an environment has.

numbered  entries `image-000000001`, `label-000000001` and, of all, `num-samples`: readers of text in pictures
datum     a record is one entry: Caffe's Datum, an encoded image or raw pixels, and a label
lists     a record is one entry: a msgpack list, such as an image and a label, whose items have no names
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal

from mmray.errors import InputError, RecordError, ShardError
from mmray.magic import named
from mmray.schema import MODALITIES
from mmray.sources.beside import CARRIED_BYTES
from mmray.sources.captions import KEY_BYTES, Captions, captions_beside
from mmray.sources.datum import Datum, datum_of
from mmray.sources.environment import Snapshot
from mmray.sources.layouts import (
    Contents,
    Fault,
    Found,
    Images,
    Layout,
    Maps,
    Members,
    Payload,
    column_named,
    is_image,
    is_pickle,
)
from mmray.sources.maps import KIND, fields, items
from mmray.sources.names import COLUMNS, is_note, split_name, text_of
from mmray.sources.options import ReadOptions
from mmray.sources.unlisted import HEAD_BYTES, modality_of
from mmray.unread import OF_TYPE, Unread

AnyLayout = Literal["members", "msgpack", "images", "numbered", "datum", "lists"]

_PREFIXES: Mapping[str, str] = {"img": "image", "label": "text", "caption": "text", "text": "text"}
_COUNTS = (b"num-samples", b"num_samples")
_STEPS = 256  # prefixes, and keys between them, that are looked at
_SAMPLE_ENTRIES = 64  # that tell the layout


class Numbered(Layout):
    """Entries `<prefix>-<number>` of one number are a record; it lies where the first of them does.

    What a prefix stands for is told by its name. A label whose image or sound is not there is an error, for
    it was made of one; and so is a number of samples that is larger than what is there.
    """

    def __init__(self, snapshot: Snapshot, options: ReadOptions, captions: Captions, *, whole: bool) -> None:
        super().__init__(snapshot, options, captions, whole=whole)
        found = {p: _column_of_prefix(p, options.column_of) for p in prefixes_of(snapshot)}
        order = [*COLUMNS, None]
        self._prefixes = dict(sorted(found.items(), key=lambda item: order.index(item[1])))

    def group(self, first: int) -> Iterator[Found]:
        self.apart = []
        last: Found | None = None
        for number, (name, value) in enumerate(self._snapshot.walk(first, values=self._payload), first):
            prefix, _, digits = name.rpartition(b"-")
            if prefix not in self._prefixes or not digits.isdigit():
                if name not in _COUNTS:
                    self.pass_over(name)
            elif self._is_first(prefix, digits):
                if last:
                    yield last
                last = digits, number, number + 1, self._record(prefix, digits, value)
        if last:
            if isinstance(last[3], dict):
                self.take_apart(last[3])
            yield last
        self._check_count()

    def _is_first(self, prefix: bytes, digits: bytes) -> bool:
        earlier = takewhile(lambda other: other != prefix, self._prefixes)
        return all(self._snapshot.get(b"%b-%b" % (other, digits)) is None for other in earlier)

    def _record(self, prefix: bytes, digits: bytes, value: Payload) -> Contents | Fault:
        main = next(iter(self._prefixes.values()))
        column = self._prefixes[prefix]
        if column not in ("image", "audio") and main in ("image", "audio"):
            lost = text_of(b"%b-%b" % (next(iter(self._prefixes)), digits))
            return Fault(f"{lost} is not there, but {text_of(prefix)}-{text_of(digits)} is", "lmdb-missing")
        contents: Contents = {}
        if not self._payload:
            return contents
        others: list[str] = []
        media: list[Unread] = []
        for other, column in self._prefixes.items():
            name = b"%b-%b" % (other, digits)
            entry = value if other == prefix else self._snapshot.get(name)
            if entry is None:
                continue
            if len(entry) > self._limit:
                return Fault(
                    f"{text_of(name)} has {len(entry)} bytes, more than {self._limit}", "member-too-large"
                )
            if is_pickle(entry):
                return Fault(f"{text_of(name)} is a Python pickle, which is never loaded", "lmdb-pickle")
            text = text_of(other)
            if column is not None or self.whole:
                place = column or text
                if place in contents:
                    return Fault(f"more than one {place}: {text_of(name)} comes second", "repeated-member")
                contents[place] = entry
            elif len(entry) > CARRIED_BYTES or not self.carry(contents, text, bytes(entry).strip()):
                modality = modality_of(text.lower(), bytes(entry[:HEAD_BYTES]))
                kind = f"entry {text[:40]}-…"
                media += [Unread(kind, text_of(name), modality)] if modality else []
                others += [] if modality else [f"{text[:40]}-…"]
        self.say(contents, "entry", others, media)
        self.take_apart(contents)
        return contents

    def _check_count(self) -> None:
        """Raise a ShardError where there are fewer records than the environment says."""
        stated = next((v for name in _COUNTS if (v := self._snapshot.get(name)) is not None), None)
        if stated is None or not bytes(stated[:20]).strip().isdigit():
            return
        names = self._snapshot.keys_from(b"")
        parts = (name.rpartition(b"-") for name in names)
        there = sum(
            prefix in self._prefixes and digits.isdigit() and self._is_first(prefix, digits)
            for prefix, _, digits in parts
        )
        if int(bytes(stated[:20])) > there:
            reason = f"num-samples says {int(bytes(stated[:20]))} records, of which {there} are there"
            raise ShardError(reason, "shard-truncated")


class Datums(Layout):
    """Each entry is one of Caffe's Datums."""

    def _parse(self, key: bytes, value: Payload) -> Contents:
        self.check_size(repr(text_of(key)), len(value), 2)
        datum = datum_of(memoryview(value))
        if datum is None:
            what = named(bytes(value[:HEAD_BYTES])) or f"begins with {bytes(value[:8]).hex()!r}"
            raise RecordError(f"no Datum: {what}", KIND)
        contents: Contents = {}
        media: list[Unread] = []
        image = _image_of(datum)
        if image is not None:
            self.check_size(f"the image of {text_of(key)!r}", len(image))
            contents["image"] = image
        elif self.whole:
            raise RecordError("its pixels are floats, or of another number than it states", KIND)
        else:
            type = "float_data" if datum.has_floats else f"{len(datum.data)} bytes that are no image"
            media.append(Unread(f"field data{OF_TYPE}{type}", "data", "image"))
        label = datum.label
        if self.whole and label is not None:
            contents["cls"] = str(label).encode()
        is_kept = label is None or self.carry(contents, "label", str(label))
        self.say(contents, "field", [] if is_kept or self.whole else ["label"], media)
        return contents


class Lists(Layout):
    """Each entry is a msgpack list, whose items `extensions` and `carry` name by their places, from 0."""

    def _parse(self, key: bytes, value: Payload) -> Contents:
        self.check_size(f"the list of key {text_of(key)!r}", len(value), len(COLUMNS))
        contents: Contents = {}
        others: list[str] = []
        media: list[Unread] = []
        for one in items(memoryview(value)):
            if one.is_nil:
                continue
            content: Payload = one.content if one.content is not None else one.to_json()
            self.check_size(f"item {one.name}", len(content))
            modality = None if one.content is None else modality_of("", bytes(content[:HEAD_BYTES]))
            column = self._column_of.get(one.name) or modality
            if column is None and self.whole:
                column = one.name
            if column is not None and column not in contents:
                contents[column] = content
            elif len(content) > CARRIED_BYTES or not self.carry(contents, one.name, content):
                modality = "text" if one.is_text else modality
                if modality:
                    media.append(Unread(f"item {one.name} of a list", one.name, modality))
                else:
                    others.append(one.name)
        self.say(contents, "item", others, media)
        return contents


LAYOUTS: Mapping[AnyLayout, type[Layout]] = {
    "members": Members,
    "msgpack": Maps,
    "images": Images,
    "numbered": Numbered,
    "datum": Datums,
    "lists": Lists,
}


def detect(snapshot: Snapshot, options: ReadOptions) -> AnyLayout:
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
    if _is_numbered(snapshot, [name for name, _ in sample], column_of):
        return "numbered"
    member = next((e for e in sample if split_name(e[0], options.key_split)[1] in column_of), None)
    name, value = member or sample[0]
    head = bytes(value[:HEAD_BYTES])
    if is_pickle(head):
        raise InputError(
            f"{snapshot.path}: key {name!r} holds a Python pickle, which could run any code and is never "
            "loaded; rewrite the records as members, msgpack maps or images with a program that trusts them"
        )
    if _is_map(value, column_of):
        return "msgpack"
    if _is_datum(value):
        return "datum"
    captioned = captions_beside(Path(snapshot.path)).exists()
    if member is not None and not (captioned and is_image(head)):
        return "members"
    if is_image(head):
        return "images"
    if _is_list(value):
        return "lists"
    what = named(head)
    raise InputError(
        f"{snapshot.path}: key {name!r} holds {len(value)} bytes{what and f', {what},'} that begin with "
        f"{head[:12].hex()!r} ({head[:12]!r}): not a member <key>.<extension>, nor a msgpack map with a "
        "field such as image or jpg, nor an image; check `extensions` and `lmdb.database` in the config, or "
        "rewrite the records as one of these"
    )


def prefixes_of(snapshot: Snapshot) -> list[bytes]:
    """What stands before the numbers in an environment's keys; all keys of a kind are passed over at once."""
    found: list[bytes] = []
    key = b""
    for _ in range(_STEPS):
        name = next(snapshot.keys_from(key), None)
        if name is None:
            break
        prefix, _, digits = name.rpartition(b"-")
        if prefix and digits.isdigit():
            found.append(prefix)
            key = prefix + b"."  # which comes next after "-"
        else:
            key = name + b"\0" * (len(name) < KEY_BYTES)
            if key == name:  # no key comes between
                break
    return found


def _is_numbered(snapshot: Snapshot, names: Sequence[bytes], column_of: Mapping[str, str]) -> bool:
    """Whether there are entries of two kinds with one number, or a number of samples beside one kind."""
    if not any(prefix and number.isdigit() for prefix, _, number in (n.rpartition(b"-") for n in names)):
        return False
    known = [prefix for prefix in prefixes_of(snapshot) if _column_of_prefix(prefix, column_of)]
    if known and any(snapshot.get(name) is not None for name in _COUNTS):
        return True
    first = next(snapshot.keys_from(known[0] + b"-"), b"") if known else b""
    digits = first.rpartition(b"-")[2]
    return any(snapshot.get(b"%b-%b" % (other, digits)) is not None for other in known[1:])


def _column_of_prefix(prefix: bytes, column_of: Mapping[str, str]) -> str | None:
    name = text_of(prefix).lower()
    return column_named(name, column_of) or _PREFIXES.get(name)


def _is_map(value: Payload, column_of: Mapping[str, str]) -> bool:
    try:
        return any(column_named(one.name, column_of) for one in fields(memoryview(value)))
    except RecordError:
        return False


def _is_list(value: Payload) -> bool:
    """Whether a value is a list with an image or a sound in it."""
    try:
        heads = (
            bytes(one.content[:HEAD_BYTES]) for one in items(memoryview(value)) if one.content is not None
        )
        return any(modality_of("", head) in MODALITIES for head in heads)
    except RecordError:
        return False


def _is_datum(value: Payload) -> bool:
    datum = datum_of(memoryview(value))
    if datum is None:
        return False
    return (datum.has_floats and datum.size > 0) or _image_of(datum, look=True) is not None


def _image_of(datum: Datum, *, look: bool = False) -> Payload | None:
    """The encoded image of a Datum; None where there is none, or only a look at pixels is asked for."""
    if is_image(bytes(datum.data[:12])) and not datum.is_raw:
        return datum.data
    if datum.is_raw and not datum.encoded:
        return b"" if look else datum.to_bmp()
    return None
