"""Names of members and entries: what record they belong to, and how their keys are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from mmray.sources.options import EXTENSIONS

COLUMNS = tuple(EXTENSIONS)  # of RECORDS that hold payload
_META = re.compile(r"__[^/]*__($|/)")  # webdataset.tariterators.tar_file_iterator's skip_meta


def split(name: str) -> tuple[str, str]:
    """Key and lower-case extension of a member; an extension of "" for what is not part of a record.

    As webdataset.tariterators.base_plus_ext, whose expression takes hours over a long name of slashes.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    hidden = not stem and (not slash or "." in folder.rpartition("/")[2])  # yes: "a/.b" has the key "a/"
    if hidden or _META.match(name):
        return name, ""
    return folder + slash + stem, extension.lower()


def split_name(name: bytes) -> tuple[bytes, str]:
    """Key and lower-case extension, as of a tar member; no extension for what is not part of a record."""
    key, extension = split(name.decode("utf-8", "surrogateescape"))
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
