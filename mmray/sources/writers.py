"""Records → one LMDB or tar. A record that cannot be converted raises a RecordError and is not written."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import lmdb
import msgpack

from mmray.errors import InputError, RecordError
from mmray.sources.captions import KEY_BYTES, captions_beside
from mmray.sources.layouts import LayoutName, is_image
from mmray.sources.names import COLUMNS, encoded, is_note, split_name, text_of
from mmray.sources.options import ReadOptions
from mmray.sources.raw import Record, extension_of

_KIND = "not-carried"
_VALUE_BYTES = (1 << 32) - 1  # LMDB's limit
_BATCH_BYTES = 64 << 20  # of one transaction


#: Writes a record, whose key must be unique, and returns it as it will be read back. Raises a RecordError if
#: the record cannot be converted, an InputError if no record of its kind can be.
Writer = Callable[[Record], Record]


class LmdbWriter:
    """Writes entries of one layout, a batch in each transaction, and enlarges the map if it is full."""

    def __init__(self, environment: Any, layout: LayoutName) -> None:  # noqa: ANN401  (lmdb.Environment is final)
        self._environment = environment
        self._layout = layout
        self._batch: dict[bytes, bytes] = {}
        self._batch_bytes = 0
        self._captions: dict[bytes, bytes] = {}

    def add(self, record: Record) -> Record:
        if self._layout == "members":
            entries = _names(record)
        elif self._layout == "msgpack":
            entries = _map(record)
        else:
            entries, record = _image(record)
        for name, data in entries.items():
            if not 0 < len(name) <= KEY_BYTES:
                what = f"a key of {len(name)} bytes, {text_of(name)[:40]!r}…"
                raise RecordError(f"{what}: LMDB takes {KEY_BYTES}", _KIND)
            if len(data) > _VALUE_BYTES:
                raise RecordError(f"a value of {len(data)} bytes: LMDB takes {_VALUE_BYTES}", _KIND)
        if self._layout == "images" and "txt" in record.members:
            self._captions[record.key] = record.members["txt"]
        self._batch |= entries
        self._batch_bytes += record.size
        if self._batch_bytes > _BATCH_BYTES:
            self.commit()
        return record

    def commit(self) -> None:
        """Write the added entries."""
        while self._batch:
            try:
                with self._environment.begin(write=True) as transaction:
                    for name, data in self._batch.items():
                        transaction.put(name, data)
                self._batch, self._batch_bytes = {}, 0
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def write_captions(self, path: Path) -> None:
        """The captions of all images, sorted by key."""
        with path.open("wb") as file:
            file.writelines(b"%b\t%b\n" % line for line in sorted(self._captions.items()))
            _flush(file)


@contextmanager
def open_tar(path: Path) -> Iterator[Writer]:
    """A tar that is complete and flushed to disk at the end of the context."""
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            yield partial(_add_to_tar, tar)
        _flush(file)


def _add_to_tar(tar: tarfile.TarFile, record: Record) -> Record:
    """Write members one after the other, with only names and sizes in their headers."""
    try:
        named = {name.decode(): data for name, data in _names(record).items()}
    except UnicodeDecodeError as e:
        raise RecordError("a name that is not UTF-8, which readers of tars show differently", _KIND) from e
    if any("\0" in name for name in named):
        raise RecordError("a zero byte in its name, where a tar would end the name", _KIND)
    for name, data in named.items():
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return record


@contextmanager
def open_lmdb(path: Path, layout: LayoutName, size: int) -> Iterator[Writer]:
    """An LMDB of one file, with a captions file for images, flushed to disk at the end of the context.

    Args:
        path: of the file.
        layout: of its records.
        size: estimated bytes.
    """
    draft = path.with_name(f"{path.name}-draft")
    draft.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    try:
        map_size = 2 * size + (16 << 20)
        with lmdb.open(str(draft), subdir=False, lock=False, sync=False, map_size=map_size) as environment:
            writer = LmdbWriter(environment, layout)
            yield writer.add
            writer.commit()
            # Pages in the order of the keys, without free ones.
            environment.copy(str(path), compact=True)
        with path.open("rb+") as file:
            _flush(file)
        if layout == "images":
            writer.write_captions(captions_beside(path))
    finally:
        draft.unlink(missing_ok=True)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _names(record: Record) -> dict[bytes, bytes]:
    """Payload by the names of its members."""
    entries = {}
    for extension, data in record.members.items():
        name = b"%b.%b" % (record.key, encoded(extension))
        if not extension or split_name(name) != (record.key, extension.lower()):
            raise RecordError(f"a member named {text_of(name)!r} would belong to another key", _KIND)
        entries[name] = data
    return entries


def _map(record: Record) -> dict[bytes, bytes]:
    """One map of all members."""
    if is_note(record.key):
        raise RecordError("a key like this is skipped by readers", _KIND)
    if named := [extension for extension in record.members if extension in COLUMNS]:
        raise RecordError(f"member .{named[0]} would be taken for the column of that name", _KIND)
    try:
        return {record.key: msgpack.packb(record.members)}
    except UnicodeEncodeError as e:
        raise RecordError("an extension is not UTF-8", _KIND) from e


def _image(record: Record) -> tuple[dict[bytes, bytes], Record]:
    """Only the image, and the record as it and its caption will be read back."""
    column_of = ReadOptions().column_of
    columns = {extension: column_of.get(extension.lower()) for extension in record.members}
    key, found = text_of(record.key), list(columns.values())
    for extension, column in columns.items():
        if column not in ("image", "text") or found.count(column) > 1:
            raise InputError(
                f"record {key!r}: member .{extension} cannot be converted: --layout images has an image "
                "and a text for each record; choose --layout members or msgpack"
            )
    members = {column: record.members[extension] for extension, column in columns.items()}
    if "image" not in members:
        raise RecordError("no image", _KIND)
    image, text = members["image"], members.get("text")
    if not is_image(image[:12]):
        raise RecordError("its image is not a JPEG, PNG, GIF, BMP or WebP", _KIND)
    if is_note(record.key) or b"\t" in record.key or b"\n" in record.key or (text and b"\n" in text):
        raise RecordError(
            "line breaks in a caption, tabs in a key and __notes__ cannot be stored there", _KIND
        )
    carried = {extension_of("image", image): image} | ({} if text is None else {"txt": text})
    return {record.key: image}, Record(record.key, carried)
