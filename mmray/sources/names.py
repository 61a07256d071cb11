"""Names of members and entries: their record, and how their keys are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from mmray.sources.options import EXTENSIONS, KeySplit

COLUMNS = tuple(EXTENSIONS)  # columns of RECORDS with payload
_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")
_META = re.compile(r"__[^/]*__($|/)")  # webdataset.tariterators.tar_file_iterator's skip_meta


def split(name: str, at: KeySplit = "first") -> tuple[str, str]:
    """Key and lower-case extension of a member; the extension is "" if it is not part of a record.

    Like webdataset.tariterators.base_plus_ext, whose regular expression takes hours for a long name of
    slashes; if the last dot ends the key, like the standard library's splitext.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".") if at == "first" else base.rpartition(".")
    if not dot:
        stem, extension = base, ""
    hidden = not stem and (not slash or "." in folder.rpartition("/")[2])  # yes: "a/.b" has the key "a/"
    if hidden or _META.match(name):
        return name, ""
    return folder + slash + stem, extension.lower()


def of_system(name: str) -> bool:
    """Whether an operating system added the file: AppleDouble files, .DS_Store and such."""
    if "__MACOSX/" in name or name.startswith("._") or "/._" in name:
        return True
    return name.endswith(_SYSTEM) and name.rpartition("/")[2] in _SYSTEM


def is_meta(name: str) -> bool:
    """Whether a member is a note of the tar's writer, such as `__meta__/…`."""
    return _META.match(name) is not None


def split_name(name: bytes, at: KeySplit = "first") -> tuple[bytes, str]:
    """Key and lower-case extension, as for a tar member; no extension if it is not part of a record."""
    key, extension = split(name.decode("utf-8", "surrogateescape"), at)
    return encoded(key), extension


def encoded(name: str) -> bytes:
    """A name as its bytes, even if these are not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def is_note(name: bytes) -> bool:
    """Whether an entry is a note of the environment's writer, such as `__len__`; tars have the same."""
    return name.startswith(b"__") and _META.match(name.decode("utf-8", "surrogateescape")) is not None


def text_of(name: bytes) -> str:
    """A key as text; if it is not UTF-8, "0x" and its bytes in hexadecimal."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return f"0x{name.hex()}"


def texts_of(names: Sequence[bytes]) -> pa.StringArray:
    """As `text_of`, a column of them."""
    try:
        return pa.array(names, pa.string())
    except pa.ArrowInvalid:  # not UTF-8
        return pa.array(map(text_of, names), pa.string())
