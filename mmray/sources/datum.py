"""Caffe's Datum, a protobuf message of one image or of raw pixels → its parts, and pixels as a BMP.

As in caffe.proto: channels (1), height (2), width (3), data (4), label (5), float_data (6), encoded (7). Raw
pixels are stored channel by channel; three channels are blue, green, red, as in OpenCV and Caffe's
convert_imageset.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from mmray.errors import RecordError

_MAX_FIELDS = 4096  # mainly of floats that are not packed; those are never read
_CHANNELS, _HEIGHT, _WIDTH, _DATA, _LABEL, _FLOATS, _ENCODED = range(1, 8)
_VARINT, _LEN, _FLOAT = 0, 2, 5  # wire types
_GREY = b"".join(bytes((i, i, i, 0)) for i in range(256))  # the palette of a BMP of one channel
_SIDE = 1 << 16  # pixels


@dataclass
class Datum:
    """The content of a message."""

    channels: int = 0
    height: int = 0
    width: int = 0
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    label: int | None = None
    has_floats: bool = False
    encoded: bool = False

    @property
    def size(self) -> int:
        """Number of values that it should have, if stated."""
        return self.channels * self.height * self.width

    @property
    def is_raw(self) -> bool:
        """Whether `data` has the stated number of pixels."""
        return self.size > 0 and self.size == len(self.data)

    def to_bmp(self) -> bytes:
        """Raw pixels of one or three channels as a BMP, from top to bottom.

        Raises:
            RecordError: another number of channels, or a side with too many pixels.
        """
        if self.channels not in (1, 3) or max(self.height, self.width) > _SIDE:
            reason = f"raw pixels of {self.channels} channels, {self.height} x {self.width}"
            raise RecordError(f"{reason}; those of 1 or 3 channels are read", "lmdb-layout")
        pixels = np.frombuffer(self.data, np.uint8).reshape(self.channels, self.height, self.width)
        rows = np.zeros((self.height, -(-self.channels * self.width // 4) * 4), np.uint8)
        rows[:, : self.channels * self.width] = pixels.transpose(1, 2, 0).reshape(self.height, -1)
        palette = _GREY if self.channels == 1 else b""
        begin = 54 + len(palette)
        bits, colours = 8 * self.channels, len(palette) // 4
        head = struct.pack("<2sIII", b"BM", begin + rows.size, 0, begin)
        info = (40, self.width, -self.height, 1, bits, 0, rows.size, 0, 0, colours, 0)
        return head + struct.pack("<IiiHHIIiiII", *info) + palette + rows.tobytes()


def datum_of(value: memoryview) -> Datum | None:
    """The message in a value; None if it does not look like a Datum."""
    found = Datum()
    at = 0
    for _ in range(_MAX_FIELDS):
        if at == len(value):
            return found if found.has_floats or len(found.data) else None
        tag, at = _varint(value, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT and at >= 0:
            content, at = _varint(value, at)
            if not _set(found, number, content):
                return None
        elif kind == _LEN and number in (_DATA, _FLOATS) and at >= 0:
            size, begin = _varint(value, at)
            at = begin + size
            if number == _FLOATS:
                found.has_floats = True
            elif begin >= 0:
                found.data = value[begin:at]
        elif kind == _FLOAT and number == _FLOATS and at >= 0:
            found.has_floats = True
            at += 4
            if found.size:  # floats are not read, so their number does not matter
                return found if at <= len(value) else None
        else:
            return None
        if not 0 <= at <= len(value):
            return None
    return None


def _set(found: Datum, number: int, content: int) -> bool:
    """Store a number of the message; returns whether there is such a field."""
    if number == _LABEL:
        found.label = (content & (1 << 32) - 1 ^ 1 << 31) - (1 << 31)
    elif number == _ENCODED:
        found.encoded = bool(content)
    elif number in (_CHANNELS, _HEIGHT, _WIDTH):
        setattr(found, {_CHANNELS: "channels", _HEIGHT: "height", _WIDTH: "width"}[number], content)
    else:
        return False
    return True


def _varint(value: memoryview, at: int) -> tuple[int, int]:
    """An unsigned number of at most ten bytes, and where it ends: -1 if there is none."""
    number = 0
    for place, byte in enumerate(value[at : at + 10]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    return 0, -1
