"""Layouts of LMDBs written by other programs, and detection of an environment's layout.

numbered  entries `image-000000001`, `label-000000001` and, of all, `num-samples`: readers of text in pictures
datum     a record is one entry: Caffe's Datum, an encoded image or raw pixels, and a label
lists     a record is one entry: a msgpack list, such as an image and a label, whose items have no names
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from mmray.errors import InputError, RecordError
from mmray.magic import named
from mmray.schema import MODALITIES
from mmray.sources.beside import CARRIED_BYTES
from mmray.sources.captions import captions_beside
from mmray.sources.datum import Datum, datum_of
from mmray.sources.environment import Snapshot
from mmray.sources.layouts import (
    Contents,
    Images,
    Layout,
    Maps,
    Payload,
    column_named,
    is_image,
    is_pickle,
)
from mmray.sources.maps import KIND, fields, items
from mmray.sources.members import Members
from mmray.sources.names import COLUMNS, is_note, split_name, text_of
from mmray.sources.numbered import Numbered, is_numbered
from mmray.sources.options import ReadOptions
from mmray.sources.unlisted import HEAD_BYTES, modality_of
from mmray.unread import OF_TYPE, Unread

AnyLayout = Literal["members", "msgpack", "images", "numbered", "datum", "lists"]

_SAMPLE_ENTRIES = 64  # entries that decide the layout


class Datums(Layout):
    """Each entry is one of Caffe's Datums."""

    def _parse(self, key: bytes, value: Payload) -> Contents:
        self.check_size(repr(text_of(key)), len(value), 2)
        datum = datum_of(memoryview(value))
        if datum is None:
            what = named(bytes(value[:HEAD_BYTES])) or f"begins with {bytes(value[:8]).hex()!r}"
            raise RecordError(f"not a Datum: {what}", KIND)
        contents: Contents = {}
        media: list[Unread] = []
        image = _image_of(datum)
        if image is not None:
            self.check_size(f"the image of {text_of(key)!r}", len(image))
            contents["image"] = image
        elif self.whole:
            raise RecordError("its pixels are floats, or their number is not as stated", KIND)
        else:
            type = "float_data" if datum.has_floats else f"{len(datum.data)} bytes that are not an image"
            media.append(Unread(f"field data{OF_TYPE}{type}", "data", "image"))
        label = datum.label
        if self.whole and label is not None:
            contents["cls"] = str(label).encode()
        is_kept = label is None or self.carry(contents, "label", str(label))
        self.say(contents, "field", [] if is_kept or self.whole else ["label"], media)
        return contents


class Lists(Layout):
    """Each entry is a msgpack list; `extensions` and `carry` name its items by position, from 0."""

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
    """The layout of an environment, from its first entries. An environment with only notes counts as members.

    Args:
        snapshot: its entries.
        options: which extensions there are.

    Raises:
        InputError: pickles, or an unknown layout.
    """
    column_of = options.column_of
    sample = list(islice((entry for entry in snapshot.walk() if not is_note(entry[0])), _SAMPLE_ENTRIES))
    if not sample:
        return "members"
    if is_numbered(snapshot, [name for name, _ in sample], column_of):
        return "numbered"
    member = next((e for e in sample if split_name(e[0], options.key_split)[1] in column_of), None)
    name, value = member or sample[0]
    head = bytes(value[:HEAD_BYTES])
    if is_pickle(head):
        raise InputError(
            f"{snapshot.path}: key {name!r} has a Python pickle, which could run any code and is never "
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


def _is_map(value: Payload, column_of: Mapping[str, str]) -> bool:
    try:
        return any(column_named(one.name, column_of) for one in fields(memoryview(value)))
    except RecordError:
        return False


def _is_list(value: Payload) -> bool:
    """Whether a value is a list that contains an image or a sound."""
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
    """The encoded image of a Datum; None if there is none, or if pixels are only checked."""
    if is_image(bytes(datum.data[:12])) and not datum.is_raw:
        return datum.data
    if datum.is_raw and not datum.encoded:
        return b"" if look else datum.to_bmp()
    return None
