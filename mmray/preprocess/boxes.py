"""Boxes of ISO files (MP4, M4A, HEIC, AVIF; ISO 14496-12), parsed without trusting their sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from mmray.errors import RecordError

_MAX_BOXES = 100_000
_MAX_DEPTH = 12


class Box(NamedTuple):
    """One box: its type, and the position of its payload."""

    kind: bytes
    start: int
    end: int


def boxes(data: bytes, within: Collection[bytes]) -> Iterator[Box]:
    """All boxes of a file in order, including those inside the types `within`, each before its children.

    A box that claims more bytes than its parent has ends with the parent.

    Raises:
        RecordError: more boxes, or deeper ones, than any real file has.
    """
    count = 0
    open_boxes = [(0, len(data))]
    while open_boxes:
        at, end = open_boxes.pop()
        if end - at < 8:
            continue
        size, kind, header = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[at + 8 : at + 16]), 16
        elif size == 0:
            size = end - at
        if size < header:
            continue
        count += 1
        if count > _MAX_BOXES or len(open_boxes) > _MAX_DEPTH:
            raise RecordError(f"more than {_MAX_BOXES} boxes, or nested too deep", "file-too-complex")
        box = Box(kind, min(at + header, end), min(at + size, end))
        open_boxes.append((box.end, end))
        yield box
        if kind in within:
            # `meta` begins with version and flags; QuickTime's does not.
            skip = 4 if kind == b"meta" and data[box.start + 4 : box.start + 8] != b"hdlr" else 0
            open_boxes.append((box.start + skip, box.end))
