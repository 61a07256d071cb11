"""A picture is what its bytes are; what lies beside the pixels costs nothing; its size is bounded first."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support.media import COLOUR, encode, heic_bytes, image_bytes, photo
from support.scripts import ROOT

from mmray.errors import RecordError
from mmray.preprocess.declared import iso_size
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import ImageSpec

SPEC = ImageSpec(height=32, width=32, background=(0, 0, 255))
RED = Image.new("RGB", (48, 48), COLOUR)


def decode(data, max_pixels=1_000_000, spec=SPEC):
    return decode_image(data, spec, max_pixels)


def is_red(pixels):
    return np.abs(pixels[8:24, 8:24].astype(int) - COLOUR).max() <= 4


def chunk(kind, data, crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(rows, depth, colour, *extra, size=None, end=True):
    """A PNG of rows of bytes, with chunks between its header and its pixels."""
    width, height = size or (48, len(rows))
    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
    ]
    parts += [*extra, chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))]
    return b"".join([*parts, chunk(b"IEND", b"")] if end else parts)


def with_text(text, **options):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", text, **options)
    return encode(RED, pnginfo=info)


ROWS = [bytes(COLOUR) * 48] * 48


@pytest.mark.parametrize(
    "make",
    {
        "zTXt of 3 MB": lambda: with_text("x" * 3_000_000, zip=True),
        "tEXt of 500 kB": lambda: with_text("p" * 500_000),
        "tEXt of 3 MB": lambda: with_text("p" * 3_000_000),
        "many zTXt": lambda: png(
            ROWS, 8, 2, *[chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(900_000))) for i in range(90)]
        ),
        "a profile of 2 MB": lambda: png(
            ROWS, 8, 2, chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000)))
        ),
        "a broken profile": lambda: png(ROWS, 8, 2, chunk(b"iCCP", b"icc\0\0garbage")),
        "a wrong checksum of text": lambda: png(ROWS, 8, 2, chunk(b"tEXt", b"a\0b", crc=1)),
        "a wrong checksum of EXIF": lambda: png(ROWS, 8, 2, chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0", crc=1)),
        "no end": lambda: png(ROWS, 8, 2, end=False),
        "a newline before PNG": lambda: b"\n" + encode(RED),
        "a newline before JPEG": lambda: b"\r\n" + encode(RED, "JPEG"),
        "junk after JPEG": lambda: encode(RED, "JPEG") + bytes(4_000),
        "MPO": lambda: encode(RED, "MPO", save_all=True, append_images=[Image.new("RGB", (48, 48))]),
        "JPEG without its end": lambda: encode(RED, "JPEG")[:-2],
        "JPEG with half of its end": lambda: encode(RED, "JPEG")[:-1],
        "TIFF, LZW": lambda: encode(RED, "TIFF", compression="tiff_lzw"),
        "TIFF, Deflate": lambda: encode(RED, "TIFF", compression="tiff_deflate"),
        "TIFF, JPEG": lambda: encode(RED, "TIFF", compression="jpeg"),
        "TIFF of pages": lambda: encode(RED, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
        "AVIF sequence": lambda: encode(
            RED, "AVIF", save_all=True, append_images=[Image.new("RGB", (48, 48))]
        ),
        "HEIC": lambda: heic_bytes(RED),
        "HEIC of tiles": lambda: heic_bytes(RED.resize((128, 128)), tile_size=64),
    }.items(),
    ids=lambda item: item[0],
)
def test_the_pixels_are_read_whatever_is_beside_them(make):
    assert is_red(decode(make[1]()))


def test_an_mpo_of_a_bad_index_is_its_first_picture():
    data = bytearray(encode(RED, "MPO", save_all=True, append_images=[Image.new("RGB", (48, 48))]))
    at = data.index(b"MPF\0")
    data[at + 20 : at + 60] = bytes(range(200, 240))
    assert is_red(decode(bytes(data)))


@pytest.mark.parametrize("lost", [3, 10, 40, 400])
def test_a_jpeg_that_lacks_pixels_is_refused_with_or_without_its_end(lost):
    data = encode(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8), "JPEG", quality=90)
    with pytest.raises(RecordError, match="truncated"):
        decode(data[:-lost])
    progressive = encode(photo(96, 96), "JPEG", progressive=True)[:-2]
    with pytest.raises(RecordError, match="truncated"):  # whether all its scans are there is not known
        decode(progressive)


RAMP = np.linspace(0, 65_535, 48).astype(">u2")


@pytest.mark.parametrize("clear", [0, int(RAMP[20])])
def test_16_bit_grey_with_a_clear_value_shows_the_background_there_and_nowhere_else(clear):
    data = png([RAMP.tobytes()] * 48, 16, 0, chunk(b"tRNS", struct.pack(">H", clear)))
    pixels = decode(data, spec=ImageSpec(height=48, width=48, background=(0, 0, 255)))[24]
    for i, value in enumerate(RAMP):
        expected = (0, 0, 255) if value == clear else [value / 257] * 3
        assert np.abs(pixels[i] - np.array(expected)).max() <= 1


def test_16_bit_grey_with_alpha_keeps_its_high_bytes():
    rows = [np.stack([RAMP, np.full(48, 65_535)], 1).astype(">u2").tobytes()] * 48
    pixels = decode(png(rows, 16, 4), spec=ImageSpec(height=48, width=48))
    assert np.abs(pixels[24, :, 0] - RAMP / 257).max() <= 1


def test_12_bits_in_16_are_as_dark_as_the_format_says():
    """A PNG states no lesser white than 65535; whether one is meant cannot be told from a dark picture."""
    pixels = decode(png([(RAMP >> 4).astype(">u2").tobytes()] * 48, 16, 0))
    assert pixels.max() == 16


@pytest.mark.parametrize("format", ["TIFF", "AVIF", "HEIC"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_new_formats_are_turned_upright_once(format, orientation):
    upright = photo(48, 32)
    stored = np.ascontiguousarray(np.rot90(upright, {1: 0, 3: 2, 6: 1, 8: -1}[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored)
    image.info["exif"] = exif.tobytes()
    data = heic_bytes(image, quality=95) if format == "HEIC" else encode(image, format, exif=exif, quality=95)
    assert np.abs(decode(data).astype(int) - decode(encode(upright))).mean() < 4


@pytest.mark.parametrize("mode", ["RGBA", "L", "CMYK", "P", "1", "LA", "I;16"])
def test_the_modes_of_tiff_become_rgb(mode):
    value = {"RGBA": (*COLOUR, 255), "CMYK": (0, 255, 255, 0), "LA": (90, 255), "I;16": 90 * 257}.get(mode, 1)
    image = Image.new(mode, (48, 48), value)
    expected = {"RGBA": COLOUR, "CMYK": (255, 0, 0), "LA": (90,) * 3, "I;16": (90,) * 3, "1": (255,) * 3}
    pixels = decode(encode(image, "TIFF"))
    assert (
        np.abs(pixels[16, 16] - np.array(expected.get(mode, image.convert("RGB").getpixel((9, 9))))).max()
        <= 1
    )


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_tiff_whose_white_is_not_said_is_refused(mode):
    with pytest.raises(RecordError, match="convert it to 8 or 16 bits") as e:
        decode(encode(Image.new(mode, (8, 8), 1), "TIFF"))
    assert e.value.kind == "image-unsupported"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<!doctype html><html><body>404</body></html>", "an HTML page"),
        (b'{"error": "rate limited"}', "JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x20ftypisom" + bytes(99), "an MP4 video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"PK\3\4" + bytes(99), "a ZIP archive"),
    ],
)
def test_what_is_no_image_is_refused_by_what_it_is(data, what):
    with pytest.raises(RecordError, match=what) as e:
        decode(data)
    assert e.value.kind == "image-undecodable"


def claims(data, width, height):
    """The same with another size in each `ispe` box, which states that of a picture in an AVIF or HEIC."""
    data, at = bytearray(data), -1
    while (at := data.find(b"ispe", at + 1)) >= 0:
        data[at + 8 : at + 16] = struct.pack(">II", width, height)
    return bytes(data)


def tiff_with(*others):
    """A TIFF of 8 x 8 grey pixels with these entries (tag, type, count, value)."""
    given = {256: (4, 1, 8), 257: (4, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    entries = [(tag, *rest) for tag, rest in (given | {tag: rest for tag, *rest in others}).items()]
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in sorted(entries))
    return b"II*\0\x08\0\0\0" + body + bytes(200)


def test_an_av1_stream_that_is_larger_than_the_avif_says_is_found():
    big, small = encode(photo(300, 200), "AVIF"), image_bytes("AVIF", size=(64, 32))
    assert iso_size(claims(big, 16, 16)) == (300, 200)
    assert iso_size(claims(small, 16, 16)) == (64, 32)
    alpha = encode(Image.new("RGBA", (96, 64), (*COLOUR, 9)), "AVIF")
    assert iso_size(claims(alpha, 16, 16)) == (96, 64)
    moving = encode(RED, "AVIF", save_all=True, append_images=[Image.new("RGB", (48, 48))])
    assert iso_size(claims(moving, 16, 16)) == (48, 48)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (claims(image_bytes("AVIF"), 30_000, 30_000), "image-too-large"),
        (claims(encode(photo(1_000, 600), "AVIF"), 16, 16), "image-too-large"),
        (claims(heic_bytes(RED), 30_000, 30_000), "image-too-large"),
        (encode(Image.new("1", (1_001, 1_000)), "TIFF", compression="group4"), "image-too-large"),
        (tiff_with((322, 4, 1, 60_000), (323, 4, 1, 60_000)), "image-too-large"),
        (tiff_with((273, 4, 5_000_000, 8)), "image-too-complex"),
        (tiff_with((259, 3, 1, 34_887)), "image-unsupported"),
    ],
)
def test_what_claims_too_much_is_refused_by_what_it_claims(data, kind):
    with pytest.raises(RecordError) as e:
        decode(data)
    assert e.value.kind == kind


def test_small_files_that_stand_for_large_pictures_take_little_memory():
    """In a process of their own, whose peak nothing else has raised. The AVIF took 130 MB before."""
    script = """
import resource, sys
from PIL import Image
from support.media import encode, heic_bytes, image_bytes
from unit.preprocess.test_pictures import claims, decode
from mmray.errors import RecordError
bombs = eval(sys.stdin.read())
decode(image_bytes("AVIF")), decode(heic_bytes(Image.new("RGB", (64, 64)))), decode(image_bytes("TIFF"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        decode(bomb, max_pixels=10_000_000)
    except RecordError:
        continue
    raise AssertionError("it was decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    large = Image.new("RGB", (4_000, 4_000), COLOUR)
    bombs = [
        claims(encode(large, "AVIF", speed=10), 64, 64),
        claims(heic_bytes(Image.new("RGB", (800, 800), COLOUR), quality=10), 64, 64),
        tiff_with((256, 4, 1, 30_000), (257, 4, 1, 30_000)),
    ]
    assert max(map(len, bombs)) < 1 << 17
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=repr(bombs),
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000  # kB
