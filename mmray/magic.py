"""Detects what bytes are by their start: for error messages, never to choose a decoder."""

from __future__ import annotations

import re

#: Number of first bytes that `what_is` examines.
HEAD_BYTES = 1_024

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "a JPEG picture"),
    (rb"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (rb"GIF8[79]a", "a GIF picture"),
    (rb"RIFF....WEBP", "a WebP picture"),
    (rb"RIFF....AVI ", "an AVI video"),
    (rb"RIFF....WAVE|RIFX....WAVE|RF64....WAVE", "a WAV sound"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF picture"),
    (rb"....ftyp(avif|avis)", "an AVIF picture"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "an HEIC picture"),
    (rb"....ftyp(M4A|M4B|F4A)", "an M4A sound"),
    (rb"....ftypqt", "a QuickTime video"),
    (rb"....ftyp", "an MP4 video or sound"),
    (rb"\x1aE\xdf\xa3", "a WebM or Matroska video or sound"),
    (rb"OggS", "an Ogg sound"),
    (rb"fLaC", "a FLAC sound"),
    (rb"FORM....AIF[FC]", "an AIFF sound"),
    (rb"\.snd|dns\.", "an AU sound"),
    (rb"caff", "a CAF sound"),
    (rb"#!AMR", "an AMR sound"),
    (rb"0&\xb2\x75\x8e\x66\xcf\x11", "a WMA or WMV file"),
    (rb"MThd", "a MIDI file"),
    (rb"ID3[\x02-\x04]", "an MP3 sound with an ID3 tag"),
    (rb"\xff\xff\xff\xff", "an Arrow message"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "an AAC sound"),
    (rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", "an MP3 sound"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"8BPS", "a Photoshop document"),
    (rb"\0\0\x01\0", "an ICO picture"),
    (rb"BM....\0\0\0\0", "a BMP picture"),
    (rb"\0\x05\x16\x07", "an AppleDouble file of macOS"),
    (rb"%PDF", "a PDF document"),
    (rb"%!PS", "a PostScript document"),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive"),
    (rb"\x1f\x8b", "gzip data"),
    (rb"BZh", "bzip2 data"),
    (rb"\x78[\x01\x5e\x9c\xda]", "zlib data"),
    (rb"\x04\x22\x4d\x18", "LZ4 data"),
    (rb"\xfd7zXZ", "xz data"),
    (rb"\x28\xb5\x2f\xfd", "Zstandard data"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (rb"Rar!", "a RAR archive"),
    (rb"PAR1", "a Parquet file"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x80[\x02-\x05]", "a Python pickle"),
    (rb".{257}ustar", "a tar archive"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself (run git lfs pull)"),
    (rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing"),
    (rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype html|html|head|body)", "an HTML page"),
    (rb"<\?xml", "an XML document"),
    (rb"data:[\w/+.-]+[;,]", "a data: URI"),
    (rb"https?://", "a URL"),
    (rb"\{|\[", "JSON text"),
)
_KNOWN = [(re.compile(begin, re.DOTALL | re.IGNORECASE), name) for begin, name in _BEGINNINGS]
_OF_MODALITY = {  # in one expression each: called for every member that no column takes
    modality: re.compile(
        b"|".join(b"(?:%b)" % begin for begin, name in _BEGINNINGS if word in name and "video" not in name),
        re.DOTALL,
    )
    for modality, word in (("image", "picture"), ("audio", "sound"))
}
_BLANK = b"\0\r\n\t \xef\xbb\xbf"
_TEXT_BYTES = 64


def modality_of(head: bytes) -> str | None:
    """The modality of bytes that begin so: "image" or "audio"; None for anything else, including videos."""
    return next((modality for modality, magic in _OF_MODALITY.items() if magic.match(head)), None)


def named(head: bytes) -> str:
    """A name for bytes that begin so, if known; else ""."""
    for beginning in (head, head.lstrip(_BLANK)):
        for pattern, name in _KNOWN:
            if pattern.match(beginning):
                return name
    return ""


def what_is(head: bytes) -> str:
    """A name for bytes that begin so, such as "an HTML page", with its article.

    Args:
        head: the first `HEAD_BYTES` of it, or all.
    """
    head = head[:HEAD_BYTES]
    if name := named(head):
        return name
    if not head.strip(b"\0"):
        return "nothing but zeros" if head else "nothing: it is empty"
    start = head[:_TEXT_BYTES]
    if all(byte >= 32 or byte in b"\r\n\t" for byte in start):
        try:
            text = start[:-3].decode() + start[-3:].decode(errors="ignore")
        except UnicodeDecodeError:
            pass
        else:
            return f"text that begins {text[:24]!r}"
    return f"of no known type (it begins {head[:8].hex(' ')})"
