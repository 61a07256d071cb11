"""Keys of LMDB entries: what record they belong to, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from mmray.sources.options import EXTENSIONS
from mmray.sources.webdataset import _META, _split

COLUMNS = tuple(EXTENSIONS)  # of RECORDS that hold payload


def split_name(name: bytes) -> tuple[bytes, str]:
    """Key and lower-case extension, as of a tar member; no extension for what is not part of a record."""
    key, extension = _split(name.decode("utf-8", "surrogateescape"))
    return key.encode("utf-8", "surrogateescape"), extension


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
