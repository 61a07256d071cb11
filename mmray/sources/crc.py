"""The checksum of TFRecords."""

from __future__ import annotations

import google_crc32c


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TensorFlow's lib/hash/crc32c.h does."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
