"""The frames of an MP3: where they begin, how many there are, and an Info frame with that number.

libsndfile stops at the presumed end of an MP3: after the number of frames in the Info (Xing) frame, which
covers only the first of several MP3s in one file, or else after an estimate from the first frames, which is
too low or too high for variable rates. So an MP3 without its true length gets an Info frame with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from mmray.errors import RecordError

# kbit/s of layers I, II, III by the index 1 to 14 (ISO 11172-3, 2.4.2.3; of MPEG 2: ISO 13818-3, 2.4.2.3).
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)  # Hz of MPEG 1
# Sync, version (one is reserved), layer, and valid bit and sample rates.
_SYNC = re.compile(
    b"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]["
    + b"".join(re.escape(bytes([b])) for b in range(0x10, 0xF0) if b & 0x0C != 0x0C)
    + b"]",
    re.DOTALL,
)
_IN_A_ROW = 3  # consecutive frames that are needed for detection
_MAX_TRIES = 50_000  # places that look like a frame but are not
_AHEAD = 1 << 16  # bytes before the first frame
_INFO_BYTES = 64  # bytes that a frame needs for an Info tag
_INFO_TAGS = (b"Xing", b"Info")
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")


class _Frame(NamedTuple):
    size: int  # bytes
    layer: int
    samples: int
    format: tuple[int, int, int, bool]  # version, layer, Hz, mono: the same throughout a stream
    tag: int  # bytes of header and side information before an Info tag (ISO 11172-3, 2.4.1.7)


@lru_cache(maxsize=4_096)
def _frame(header: bytes) -> _Frame | None:
    """Header of a frame from four bytes; None if they are not a header. Free format is not supported."""
    if len(header) < 4 or not _SYNC.match(header):
        return None
    version = {3: 1, 2: 2, 0: 3}[header[1] >> 3 & 3]  # 3 means 2.5
    layer = 4 - (header[1] >> 1 & 3)
    rate = _RATES[header[2] >> 2 & 3] >> version - 1
    bits = 1_000 * _KBITS[min(version, 2), layer][(header[2] >> 4) - 1]
    padding = header[2] >> 1 & 1
    if layer == 1:
        size, samples = (12 * bits // rate + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and version > 1 else 1_152
        size = samples // 8 * bits // rate + padding
    mono = header[3] >> 6 == 3
    tag = 4 + ((17 if mono else 32) if version == 1 else (9 if mono else 17))
    return _Frame(size, layer, samples, (version, layer, rate, mono), tag)


@dataclass
class _Stretch:
    """Frames of one format without a gap."""

    start: int
    end: int
    frames: int
    info: bool  # whether the first is an Info frame; it is not counted


def first_frame(data: bytes) -> int | None:
    """Position of the first of several consecutive frames near the beginning; None if there is none."""
    return _next(data, 0, min(len(data), _AHEAD), [0])


def states_its_length(data: bytes) -> bool:
    """Whether a file that begins with a frame begins with an Info frame that covers all of it."""
    tag = _info_at(data, 0)
    if tag is None or data[tag + 7] & 3 != 3:
        return False
    end = int.from_bytes(data[tag + 12 : tag + 16])
    return end == len(data) or (end < len(data) and data.startswith(_TAGS[:3], end))


def streams(data: bytes) -> list[bytes]:
    """The concatenated MP3s of a file, each with an Info frame of its true length.

    Args:
        data: begins with a frame. Junk between frames is skipped.

    Raises:
        RecordError: almost nothing of it is frames.
    """
    return [_stated(data, stretch) for stretch in _stretches(data) if stretch.frames]


def _stretches(data: bytes) -> list[_Stretch]:
    found: list[_Stretch] = []
    tries, at, format = [0], 0, None
    while at + 4 <= len(data):
        frame = _frame(data[at : at + 4])
        if frame is None or (at + frame.size > len(data) and found and found[-1].end == at):
            # A truncated frame has no sound. Bytes that are not a frame may be a tag, or damage.
            found_at = None if frame or data.startswith(_TAGS[:3], at) else _next(data, at, len(data), tries)
            if found_at is None:
                break
            at, format = found_at, None
            continue
        place = at + frame.tag
        info = data[place : place + 4] in _INFO_TAGS or data[at + 36 : at + 40] == b"VBRI"
        if frame.format != format or info:
            found.append(_Stretch(at, at, 0, info))
            format = frame.format
        found[-1].frames += not info
        at += frame.size
        found[-1].end = min(at, len(data))
    return found


def _next(data: bytes, start: int, stop: int, tries: list[int]) -> int | None:
    """Where, from `start` on, consecutive frames of one format begin, or the end of the data."""
    for found in _SYNC.finditer(data, start, stop):
        at = place = found.start()
        first = _frame(data[at : at + 4])
        for _ in range(_IN_A_ROW):
            frame = _frame(data[place : place + 4])
            if first is None or frame is None or frame.format != first.format:
                break
            place += frame.size
            if place == len(data):
                return at
        else:
            return at
        tries[0] += 1
        if tries[0] > _MAX_TRIES:
            raise RecordError("too much data between its MP3 frames", "audio-undecodable")
    return None


def _info_at(data: bytes, at: int) -> int | None:
    """Position of the Info tag of a frame; None if it has none."""
    frame = _frame(data[at : at + 4])
    if frame is None or frame.layer != 3:
        return None
    tag = at + frame.tag
    return tag if data[tag : tag + 4] in _INFO_TAGS and tag + 16 <= len(data) else None


def _stated(data: bytes, stretch: _Stretch) -> bytes:
    """A stretch with an Info frame that states its length."""
    start, first = stretch.start, _frame(data[stretch.start : stretch.start + 4])
    if stretch.info and first:
        tag = _info_at(data, start)
        if tag and data[tag + 7] & 1:
            return _restated(data[start : stretch.end], tag - start, stretch.frames, first.size)
        start += first.size  # Fraunhofer's VBRI, or a tag without a count
    whole = data[start : stretch.end]
    info = _info_frame(whole[:4], stretch.frames)
    return info + whole


def _restated(mp3: bytes, tag: int, frames: int, first_bytes: int) -> bytes:
    """The same with its count of frames corrected."""
    if mp3[tag + 8 : tag + 12] == frames.to_bytes(4):
        return mp3
    patched = bytearray(mp3)
    patched[tag + 8 : tag + 12] = frames.to_bytes(4)
    flags = mp3[tag + 7]
    if flags & 2:
        patched[tag + 12 : tag + 16] = len(mp3).to_bytes(4)
    lame = tag + 12 + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    padding = lame + 22  # 12 bits of delay at the start, then 12 bits of padding at the end
    if padding + 2 <= first_bytes:  # the frames do not end where LAME padded them
        patched[padding] &= 0xF0
        patched[padding + 1] = 0
    return bytes(patched)


def _info_frame(header: bytes, frames: int) -> bytes:
    """An Info frame for frames with this header; empty for layers I and II, which have none."""
    for index in range(1, 15):  # no CRC, no padding, and as many bytes as the tag needs
        stated = bytes([header[0], header[1] | 1, index << 4 | header[2] & 0x0C, header[3]])
        frame = _frame(stated)
        if frame and frame.layer == 3 and frame.size >= _INFO_BYTES:
            tag = bytes(frame.tag - 4) + b"Info" + (1).to_bytes(4) + frames.to_bytes(4)
            return (stated + tag).ljust(frame.size, b"\0")
    return b""
