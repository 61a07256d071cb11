"""Classifies a member with an unused extension: a kind for counting, and its possible modality."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Collection
from functools import lru_cache

from mmray import magic
from mmray.schema import MODALITIES
from mmray.unread import DOTTED, Unread

HEAD_BYTES = 64  # first bytes that show the kind of a member

#: Extensions of media that Python's table lacks, or has under another type.
_EXTENSIONS = {
    **dict.fromkeys(("avif", "heic", "heif", "hif", "jfif", "jp2", "jxl", "tif", "tiff", "dng"), "image"),
    **dict.fromkeys(("aac", "m4a", "m4b", "mka", "oga", "opus", "weba", "amr", "caf", "wma", "aif"), "audio"),
    **dict.fromkeys(("text", "cap", "captions", "prompt"), "text"),
}
_WORDS = re.compile(r"[a-z][a-z_-]*")  # parts of a custom extension, such as "left.jpg"


def unlisted(name: str, extension: str, head: bytes | None, known: Collection[str]) -> Unread:
    """What a member is.

    Args:
        name: of the member.
        extension: all that follows its key, in lower case.
        head: its first bytes, if they are known.
        known: extensions that are read.
    """
    if not extension.isascii():  # bytes of names that are not UTF-8, as Python escapes them
        extension = extension.encode("utf-8", "backslashreplace").decode()
    rest, _, last = extension.rpartition(".")
    if rest and last in known and not all(_WORDS.fullmatch(part) for part in rest.split(".")):
        return Unread(DOTTED, name, modality_of(last, head))
    return Unread(f".{extension[:40]} members", name, modality_of(last, head))


def modality_of(extension: str, head: bytes | None = None) -> str | None:
    """The possible modality of a member, by its extension and first bytes."""
    if extension and (modality := _modality_by_extension(extension)):
        return modality
    return magic.modality_of(head) if head else None


@lru_cache(4096)
def _modality_by_extension(extension: str) -> str | None:
    if extension in _EXTENSIONS:
        return _EXTENSIONS[extension]
    kind = (mimetypes.guess_type(f"x.{extension}", strict=False)[0] or "").partition("/")[0]
    return kind if kind in MODALITIES and (kind != "text" or extension == "txt") else None
