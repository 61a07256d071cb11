"""The size that an image states, for libraries that allocate before Pillow checks the size.

- A WebP's canvas is allocated when Pillow opens it.
- An AVIF states its size twice: for the picture, and in its AV1 stream, by which the decoder allocates.
  One of 4 kB that said 64 x 64 took 466 MB.
- A TIFF's strips and tiles have sizes and counts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import error as struct_error
from struct import unpack_from

from mmray.errors import RecordError
from mmray.preprocess.boxes import boxes

Size = tuple[int, int]

_WITHIN = (b"meta", b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl")
_SEQUENCE_HEADER = 1  # type of an OBU (AV1 specification, 6.2.2)
_MAX_UNITS = 1_000  # OBUs of one item that are examined
_MAX_PARTS = 10_000

# TIFF (6.0): tags that are examined, and supported compressions. The others are old, or need more libraries.
_TIFF_TAGS = {259: "compression", 322: "tile width", 323: "tile height"}
_OFFSETS = (273, 324)  # of strips, of tiles
_MAX_STRIPS = 100_000
_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)  # none, CCITT, LZW, JPEG, Deflate, PackBits


def webp_size(data: bytes) -> Size | None:
    """Width and height of the canvas that is allocated when Pillow opens a WebP; None for other files."""
    if len(data) < 30 or not data.startswith(b"RIFF") or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        both = int.from_bytes(data[24:30], "little")
        return (both & 0xFFFFFF) + 1, (both >> 24) + 1
    if kind == b"VP8L":
        (both,) = unpack_from("<I", data, 21)
        return (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    width, height = unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def iso_size(data: bytes) -> Size | None:
    """The largest width and height that an AVIF or HEIC states anywhere; None if it states none.

    Raises:
        RecordError: it has more boxes than any picture.
    """
    sizes: list[Size] = []
    tables: list[bytes] = []
    inner = 0  # where `idat` begins, which may contain items
    for kind, start, end in boxes(data, _WITHIN):
        if kind == b"ispe" and end - start >= 12:
            sizes.append(unpack_from(">II", data, start + 4))
        elif kind == b"iloc":
            tables.append(data[start:end])
        elif kind == b"idat":
            inner = start
        elif kind in (b"stco", b"co64") and end - start >= 16:
            width = 4 if kind == b"stco" else 8
            sizes.extend(_av1_sizes(data[int.from_bytes(data[start + 8 : start + 8 + width]) :]))
    for table in tables:
        for item in _items(data, table, inner):
            sizes.extend(_av1_sizes(item))
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _items(data: bytes, table: bytes, inner: int) -> Iterator[bytes]:
    """Bytes of each item of a picture, by its table of them (ISO 14496-12, 8.11.3)."""
    if len(table) < 8:
        return
    version = table[0]
    widths = table[4] >> 4, table[4] & 15, table[5] >> 4, table[5] & 15 if version in (1, 2) else 0
    offset_width, length_width, base_width, index_width = widths
    wide = 4 if version == 2 else 2
    place, parts, total = 6, 0, 0

    def number(width: int) -> int:
        nonlocal place
        place += width
        return int.from_bytes(table[place - width : place])

    for _ in range(number(wide)):
        number(wide)
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)
        base = number(base_width) + (inner if method == 1 else 0)
        item = []
        for _ in range(number(2)):
            number(index_width)
            at, length = base + number(offset_width), number(length_width)
            item.append(data[at : at + length] if length else data[at:])
            parts, total = parts + 1, total + len(item[-1])
            if parts > _MAX_PARTS or total > 2 * len(data) or place > len(table):
                raise RecordError("its table of items claims more than the file has", "image-undecodable")
        yield b"".join(item)


def _av1_sizes(data: bytes) -> Iterator[Size]:
    """Sizes that the sequence headers of an AV1 stream state, if it is one."""
    at, end = 0, len(data)
    for _ in range(_MAX_UNITS):
        if at + 2 > end or data[at] & 0x80 or not data[at] & 2:
            return
        kind, place = data[at] >> 3 & 15, at + 1 + (data[at] >> 2 & 1)
        size = shift = 0
        while place < end and shift < 56:
            size |= (data[place] & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if not data[place - 1] & 0x80:
                break
        if kind == _SEQUENCE_HEADER:
            found = _sequence_size(data[place : place + min(size, 256)])
            if found:
                yield found
        at = place + size


def _sequence_size(header: bytes) -> Size | None:
    """Largest frame of a sequence header (AV1 specification, 5.5.1)."""
    value, left = int.from_bytes(header), 8 * len(header)

    def bits(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise IndexError
        return value >> left & (1 << count) - 1

    try:
        bits(4)  # profile, still picture
        if bits(1):  # reduced: of a still picture
            bits(5)
        else:
            _skip_operating_points(bits)
        width_bits, height_bits = bits(4) + 1, bits(4) + 1
        return bits(width_bits) + 1, bits(height_bits) + 1
    except IndexError:
        return None


def _skip_operating_points(bits: Callable[[int], int]) -> None:
    decoder_model = delay_bits = 0
    if bits(1):  # timing
        bits(64)
        if bits(1):  # equal picture intervals: a number of variable length
            zeros = 0
            while not bits(1):
                zeros += 1
            bits(min(zeros, 32))
        decoder_model = bits(1)
        if decoder_model:
            delay_bits = bits(5) + 1
            bits(42)
    display_delay = bits(1)
    for _ in range(bits(5) + 1):
        bits(12)
        if bits(5) > 7:
            bits(1)
        if decoder_model and bits(1):
            bits(2 * delay_bits + 1)
        if display_delay and bits(1):
            bits(4)


def check_tiff(data: bytes, max_pixels: int) -> None:
    """Refuse a TIFF whose first picture has too many or too large strips or tiles, or another compression.

    Raises:
        RecordError: for these reasons.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = len(data) > 3 and 43 in data[2:4]
    try:
        (at,) = unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = unpack_from(order + ("Q" if big else "H"), data, at)
    except struct_error:
        return  # Pillow reports the fault
    values: dict[str, int] = {}
    entry, at = (20, at + 8) if big else (12, at + 2)
    for place in range(at, min(at + entry * min(count, 65_536), len(data) - entry + 1), entry):
        tag, kind, number = unpack_from(order + ("HHQ" if big else "HHI"), data, place)
        if tag in _OFFSETS and number > _MAX_STRIPS:
            raise RecordError(f"a TIFF of {number} strips or tiles", "image-too-complex")
        if tag in _TIFF_TAGS and kind in (3, 4):
            value = place + (12 if big else 8)
            (values[_TIFF_TAGS[tag]],) = unpack_from(order + ("H" if kind == 3 else "I"), data, value)
    compression = values.get("compression", 1)
    if compression not in _COMPRESSIONS:
        raise RecordError(f"a TIFF of compression {compression}, which is not supported", "image-unsupported")
    width, height = values.get("tile width", 0), values.get("tile height", 0)
    if width * height > max_pixels:
        raise RecordError(f"a TIFF of tiles of {width}x{height} pixels", "image-too-large")
