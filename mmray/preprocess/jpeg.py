"""Checks whether a JPEG without an end marker has all its pixels."""

from __future__ import annotations

import io

from PIL import Image

_SCAN, _PROGRESSIVE, _END = b"\xff\xda", b"\xff\xc2", b"\xff\xd9"
_OTHER_BITS = b"\x5a\xa5\x3c\x17\xd3\x69" * 16


def closed_jpeg(data: bytes) -> bytes | None:
    """The same with an end marker; None if pixels are missing, or if that is unknown.

    libjpeg fills missing data with zeros, and Pillow does not report it. So the image is also decoded with
    other bits before the marker: a block that lacks bits takes them from there, and its pixels change. Only
    for a single
    scan: a progressive picture that lacks its last scans is complete, but coarse.
    """
    if data.endswith(_END) or data.count(_SCAN) != 1 or _PROGRESSIVE in data:
        return None
    whole = data.rstrip(b"\xff") + _END
    return whole if _pixels(whole) == _pixels(data.rstrip(b"\xff") + _OTHER_BITS + _END) else None


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(image.mode, (image.width // 2, image.height // 2))
        return image.tobytes()
