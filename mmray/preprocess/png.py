"""Reduces a PNG to its pixels."""

from __future__ import annotations

import zlib

_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_SIGNATURE_BYTES = 8
_MAX_CHUNKS = 1_000_000


def bare_png(data: bytes) -> bytes:
    """The chunks for pixels, colours and orientation (PNG 3rd edition, 5.6), unchanged, and an end.

    Text and profiles may have any size and faults without affecting the picture. An orientation with a wrong
    checksum is ignored; faults of the other kept chunks are found by the decoder.
    """
    parts = [data[:_SIGNATURE_BYTES]]
    at = _SIGNATURE_BYTES
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            break
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8]
        whole = kind == b"eXIf" and int.from_bytes(data[end - 4 : end]) == zlib.crc32(data[at + 4 : end - 4])
        if kind in _PIXELS or whole:
            parts.append(data[at:end])
        elif kind == b"IEND":
            break
        at = end
    parts.append(b"\0\0\0\0IEND\xaeB`\x82")
    return b"".join(parts)
