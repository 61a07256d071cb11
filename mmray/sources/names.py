"""Names of members and entries: what record they belong to, and how their keys are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from mmray.sources.options import EXTENSIONS, KeySplit

COLUMNS = tuple(EXTENSIONS)  # of RECORDS that hold payload
_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")
_META = re.compile(r"__[^/]*__($|/)")  # webdataset.tariterators.tar_file_iterator's skip_meta


def split(name: str, at: KeySplit = "first") -> tuple[str, str]:
    """Key and lower-case extension of a member; an extension of "" for what is not part of a record.

    As webdataset.tariterators.base_plus_ext, whose expression takes hours over a long name of slashes; where
    the last dot ends the key, as the standard library's splitext.
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
    """Whether an operating system put it beside others: AppleDouble files, .DS_Store and such."""
    if "__MACOSX/" in name or name.startswith("._") or "/._" in name:
        return True
    return name.endswith(_SYSTEM) and name.rpartition("/")[2] in _SYSTEM


def is_meta(name: str) -> bool:
    """Whether a member is a note of whoever wrote the tar, such as `__meta__/…`."""
    return _META.match(name) is not None


def split_name(name: bytes, at: KeySplit = "first") -> tuple[bytes, str]:
    """Key and lower-case extension, as of a tar member; no extension for what is not part of a record."""
    key, extension = split(name.decode("utf-8", "surrogateescape"), at)
    return encoded(key), extension


def encoded(name: str) -> bytes:
    """A name as its bytes, where these are not UTF-8, too."""
    return name.encode("utf-8", "surrogateescape")


def is_note(name: bytes) -> bool:
    """Whether an entry is a note of whoever wrote the environment, as `__len__`; tars have the same."""
    return name.startswith(b"__") and _META.match(name.decode("utf-8", "surrogateescape")) is not None


def text_of(name: bytes) -> str:
    """A key as text; one that is not UTF-8 as "0x" and its bytes in hexadecimal."""
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
