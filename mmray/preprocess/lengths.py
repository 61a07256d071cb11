"""Repairs the length in sound files of recorders and pipes, from their data.

libsndfile trusts a header: a WAV with 0 bytes is empty, a FLAC of unknown length endless.
"""

from __future__ import annotations

from struct import pack_into

_MAX_CHUNKS = 1_000
_RATE_HZ = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_DEPTHS = (0, 8, 12, 0, 16, 20, 24, 32)  # by the code of a FLAC frame; 0: as STREAMINFO has it
_BLOCKS = (0, 192, *(576 << i for i in range(4)), 0, 0, *(256 << i for i in range(8)))  # samples, by code


def wav_with_length(data: bytes) -> bytes:
    """A WAV whose data chunk states 0 bytes although bytes follow, with the size corrected; others unchanged.

    An empty WAV is recognized by its RIFF header, which has the size of the file.
    """
    order = ">I" if data.startswith(b"RIFX") else "<I"
    endian: str = "big" if order == ">I" else "little"

    def size_at(place: int) -> int:
        return int.from_bytes(data[place : place + 4], endian)  # type: ignore[arg-type]

    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            break
        size = size_at(at + 4)
        if data[at : at + 4] == b"data":
            if size or abs(size_at(4) + 8 - len(data)) <= 1:
                break
            patched = bytearray(data)
            pack_into(order, patched, 4, min(len(data) - 8, 0xFFFFFFFE))
            pack_into(order, patched, at + 4, min(len(data) - at - 8, 0xFFFFFFFE))
            return bytes(patched)
        at += 8 + size + size % 2
    return data


def flac_with_length(data: bytes) -> bytes:
    """A FLAC of unknown length, with the length from its last frame; others unchanged."""
    info = int.from_bytes(data[18:26])  # 20 bits Hz, 3 channels, 5 bits a sample, 36 samples in all
    if len(data) < 42 or info & (1 << 36) - 1:
        return data
    at = len(data)
    while (at := data.rfind(b"\xff", 42, at)) >= 0:
        if data[at + 1 : at + 2] in (b"\xf8", b"\xf9") and (end := _frame_end(data, at, info)):
            patched = bytearray(data)
            patched[18:26] = (info | end).to_bytes(8)
            return bytes(patched)
    return data


def _frame_end(data: bytes, at: int, info: int) -> int | None:
    """Number of the sample after a FLAC frame (RFC 9639, 9.1); None if no frame begins here."""
    head = data[at : at + 16]
    if len(head) < 6:
        return None
    block_code, rate_code, channels_code = head[2] >> 4, head[2] & 15, head[3] >> 4
    rate, channels, depth = info >> 44, (info >> 41 & 7) + 1, (info >> 36 & 31) + 1
    known_depth = _DEPTHS[head[3] >> 1 & 7]
    if (
        (not block_code or rate_code == 15 or channels_code > 10 or head[3] & 1)
        or (channels_code + 1 if channels_code < 8 else 2) != channels
        or (rate_code < 12 and _RATE_HZ[rate_code] not in (0, rate))
        or known_depth not in (0, depth)
    ):
        return None
    # The number is coded like a character in UTF-8, but longer: as many bytes as the first has leading ones.
    more = max(0, 7 - (head[4] ^ 0xFF).bit_length())
    number, place = (head[4] & 0x7F >> more, 5) if more else (head[4], 5)
    if head[4] >= 0x80 and more == 0:
        return None
    for byte in head[5 : 5 + more]:
        if byte >> 6 != 2:
            return None
        number, place = number << 6 | byte & 63, place + 1
    samples = _BLOCKS[block_code]
    if block_code in (6, 7):
        size = block_code - 5
        samples, place = int.from_bytes(head[place : place + size]) + 1, place + size
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(head) or _crc8(head[:place]) != head[place]:
        return None
    first = number if head[1] & 1 else number * int.from_bytes(data[8:10])
    end = first + samples
    return end if 0 < end < 1 << 36 else None


def _crc8(data: bytes) -> int:
    """Of a FLAC frame's header: x^8 + x^2 + x + 1."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
