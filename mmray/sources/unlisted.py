"""What a member is that no extension takes: a kind to count by, and the modality that it would be."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from mmray.schema import MODALITIES
from mmray.unread import DOTTED, Unread

HEAD_BYTES = 64  # that tell what something is

#: Extensions of media that Python's table lacks, or names otherwise.
_EXTENSIONS = {
    **dict.fromkeys(("avif", "heic", "heif", "hif", "jfif", "jp2", "jxl", "tif", "tiff", "dng"), "image"),
    **dict.fromkeys(("aac", "m4a", "m4b", "mka", "oga", "opus", "weba", "amr", "caf", "wma", "aif"), "audio"),
    **dict.fromkeys(("text", "cap", "captions", "prompt"), "text"),
}
_BEGINNINGS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(
            rb"\xff\xd8\xff|\x89PNG|GIF8|BM.{4}\0{4}|RIFF.{4}WEBP|II\*\0|MM\0\*|.{4}ftyp(?:avif|heic|heix|mif1)",
            re.DOTALL,
        ),
        "image",
    ),
    (
        re.compile(
            rb"RIFF.{4}WAVE|RF64|OggS|fLaC|ID3|FORM.{4}AIF|.{4}ftypM4A|\xff[\xf1\xf9\xfa\xfb]", re.DOTALL
        ),
        "audio",
    ),
)
_WORDS = re.compile(r"[a-z][a-z_-]*")  # parts of an extension that somebody chose, such as "left.jpg"


def unlisted(name: str, extension: str, head: bytes | None, known: Collection[str]) -> Unread:
    """What a member is.

    Args:
        name: of the member.
        extension: all that follows its key, in lower case.
        head: its first bytes, if they are known.
        known: extensions that are read.
    """
    if not extension.isascii():  # bytes of names that are not UTF-8, in Python's own way
        extension = extension.encode("utf-8", "backslashreplace").decode()
    rest, _, last = extension.rpartition(".")
    if rest and last in known and not all(_WORDS.fullmatch(part) for part in rest.split(".")):
        return Unread(DOTTED, name, modality_of(last, head))
    return Unread(f".{extension[:40]} member", name, modality_of(last, head))


def modality_of(extension: str, head: bytes | None = None) -> str | None:
    """The modality that something would be, as far as its extension and first bytes tell."""
    if extension and (modality := _modality_by_extension(extension)):
        return modality
    return next((modality for magic, modality in _BEGINNINGS if head and magic.match(head)), None)


@lru_cache(4096)
def _modality_by_extension(extension: str) -> str | None:
    if extension in _EXTENSIONS:
        return _EXTENSIONS[extension]
    kind = (mimetypes.guess_type(f"x.{extension}", strict=False)[0] or "").partition("/")[0]
    return kind if kind in MODALITIES and (kind != "text" or extension == "txt") else None


#: What values and files often are that cannot be read, by their first bytes.
_OTHERS: Mapping[bytes, str] = {
    b"\x1f\x8b": "data compressed with gzip",
    b"\x28\xb5\x2f\xfd": "data compressed with zstd",
    b"BZh": "data compressed with bzip2",
    b"\xfd7zXZ\x00": "data compressed with xz",
    b"\x04\x22\x4d\x18": "data compressed with lz4",
    b"PK\x03\x04": "a zip archive, as NumPy's .npz is",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"\xff\xff\xff\xff": "an Arrow message",
    b"{": "JSON",
    b"[": "JSON",
    **{bytes((0x80, protocol)): "a Python pickle" for protocol in range(2, 6)},
}


def what_is(head: bytes) -> str:
    """What something is, in words, by its first bytes; "" where they do not tell."""
    if modality := modality_of("", head):
        return f"an encoded {modality}"
    if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0:
        return "data compressed with zlib"
    return next((what for magic, what in _OTHERS.items() if head.startswith(magic)), "")
