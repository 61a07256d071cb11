"""Any image that records come in becomes uint8 RGB of the spec's size; the others are refused, cheaply."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.damaged import garbage, gif_bomb, png_bomb, truncated_jpeg, webp_bomb
from support.media import COLOUR, encode, image_bytes, photo

from mmray.errors import RecordError
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import ImageSpec

TESTS = Path(__file__).parents[2]
SQUARE = ImageSpec(height=16, width=16)
LIMIT = 1_000_000


def decode(data, spec=SQUARE, max_pixels=LIMIT):
    pixels = decode_image(data, spec, max_pixels)
    assert pixels.shape == (spec.height, spec.width, 3)
    assert pixels.dtype == np.uint8
    return pixels


def colour_of(data, **options):
    """The colour in the middle."""
    return tuple(int(v) for v in decode(data, ImageSpec(height=16, width=16, **options))[8, 8])


def near(a, b, tolerance=4):
    return np.abs(np.subtract(a, b, dtype=np.float64)).max() <= tolerance


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_that_records_come_in_is_read(format):
    assert near(colour_of(image_bytes(format)), COLOUR)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),
        ("I;16", 0x8080, (128, 128, 128)),
        ("I;16", 0x00FF, (1, 1, 1)),
        ("P", 0, (0, 0, 0)),
        ("RGB", COLOUR, COLOUR),
        ("RGBA", (*COLOUR, 255), COLOUR),
        ("RGBA", (*COLOUR, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
    ],
)
def test_every_mode_of_png_becomes_rgb(mode, value, expected):
    assert near(colour_of(image_bytes(mode=mode, colour=value)), expected, 1)


def test_16_bit_grey_keeps_its_high_byte():
    """Pillow's own conversion clips at 255, which turns most of the picture white."""
    ramp = np.linspace(0, 65_535, 16).astype(np.uint16)[None].repeat(16, 0)
    assert near(decode(encode(ramp))[0, :, 0], ramp[0] / 257, 1)


def test_cmyk_jpeg_becomes_rgb():
    data = encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95)
    assert near(colour_of(data), (255, 0, 0), 12)


def test_transparency_shows_the_background():
    data = image_bytes(mode="RGBA", colour=(200, 0, 0, 64))
    expected = np.array([200, 0, 0]) * 64 / 255 + np.array([0, 100, 40]) * 191 / 255
    assert near(colour_of(data, background=(0, 100, 40)), expected, 1)


@pytest.mark.parametrize(
    ("mode", "colour", "transparency"),
    [("P", 3, 3), ("P", 3, bytes([255, 255, 255, 0])), ("RGB", COLOUR, COLOUR), ("L", 7, 7)],
    ids=["palette index", "palette alpha", "colour key", "grey key"],
)
def test_a_transparent_colour_shows_the_background(mode, colour, transparency):
    """PNG's tRNS chunk makes one colour transparent in images without an alpha channel."""
    image = Image.new(mode, (16, 16), colour)
    if mode == "P":
        image.putpalette([10, 20, 30] * 4)
    data = encode(image, transparency=transparency)
    assert colour_of(data, background=(0, 100, 40)) == (0, 100, 40)
    opaque = encode(image)
    assert colour_of(opaque, background=(0, 100, 40)) != (0, 100, 40)


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (16, 16), colour) for colour in (COLOUR, (0, 0, 255))]
    for format in ("GIF", "WEBP"):
        assert near(colour_of(encode(frames[0], format, save_all=True, append_images=frames[1:])), COLOUR, 8)


# How the stored pixels are turned to make the upright picture (EXIF 2.32, tag 0x0112), undone.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(orientation, format):
    upright = photo(48, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = (
        {"lossless": True}
        if format == "WEBP"
        else {"quality": 100, "subsampling": 0}
        if format == "JPEG"
        else {}
    )
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    turned = decode(encode(stored, format, exif=exif.tobytes(), **quality))
    assert near(turned, decode(encode(upright)), 6)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12\0\x02\0\0\0\x09\0\x06\0\0"]
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_unreadable_exif_costs_nothing_but_the_orientation(exif):
    assert near(colour_of(image_bytes("JPEG", exif=exif)), COLOUR)


def bands(width, height):
    """Red, green and blue, a third of the longer side each."""
    image = np.zeros((3, 3 * (max(width, height) // 3), 3), np.uint8)
    for i, part in enumerate(np.split(image, 3, axis=1)):
        part[..., i] = 255
    strip = image[:1].repeat(min(width, height), 0)
    return strip if width > height else strip.transpose(1, 0, 2)


def test_pad_shows_the_whole_image_centred_on_the_background():
    pixels = decode(encode(bands(48, 12)), ImageSpec(height=16, width=16, background=(9, 9, 9)))
    ground = (pixels == 9).all(axis=2)
    assert ground[:6].all()
    assert ground[10:].all()
    assert not ground[6:10].any()
    assert pixels[8, [1, 8, 14]].argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("width", "height"), [(48, 12), (12, 48)])
def test_crop_covers_the_target_with_the_centre_of_the_image(width, height):
    pixels = decode(encode(bands(width, height)), ImageSpec(height=16, width=16, fit="crop"))
    assert (pixels.argmax(axis=2) == 1).all()


@pytest.mark.parametrize(("width", "height"), [(48, 12), (12, 48)])
def test_stretch_shows_the_whole_image_and_nothing_else(width, height):
    pixels = decode(encode(bands(width, height)), ImageSpec(height=16, width=16, fit="stretch"))
    along = pixels[8] if width > height else pixels[:, 8]
    assert along[[1, 8, 14]].argmax(axis=1).tolist() == [0, 1, 2]
    assert (pixels.min(axis=2) < 200).all()  # nothing of the white ground


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_an_image_of_the_targets_size_is_unchanged(fit):
    image = photo(24, 16)
    assert np.array_equal(decode(encode(image), ImageSpec(height=16, width=24, fit=fit)), image)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 400), (400, 100)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_decoding_jpeg_at_a_smaller_scale_looks_like_decoding_it_whole(fit, height, width, orientation):
    """Also where the file stores the picture lying on its side, so that the sides to compare are swapped."""
    spec = ImageSpec(height=height, width=width, fit=fit)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stripes = 24 * np.sin(np.arange(1600) * 2 * np.pi / 16)  # gone where the scale is half of what is needed
    upright = (photo(1600, 400, seed=3) * 0.7 + 38 + stripes[:, None]).clip(0, 255).astype(np.uint8)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    small = decode(encode(stored, "JPEG", quality=95, exif=exif.tobytes()), spec)
    whole = decode(encode(upright), spec)
    assert np.abs(small.astype(np.float64) - whole).mean() < 1.5


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_extreme_proportions_are_no_fault(size, fit):
    assert near(colour_of(image_bytes(size=size), fit=fit, background=COLOUR), COLOUR)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (bytes, "image-empty"),
        (garbage, "image-undecodable"),
        (truncated_jpeg, "image-undecodable"),
        (lambda: encode(photo(60, 60))[:-400], "image-undecodable"),
        (lambda: encode(photo(60, 60), "WEBP")[:-200], "image-undecodable"),
        (lambda: image_bytes("JPEG")[:30], "image-undecodable"),
        (lambda: image_bytes("PPM"), "image-undecodable"),  # a decoder that nobody needs is left closed
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image-undecodable"),
        (png_bomb, "image-too-large"),
        (webp_bomb, "image-too-large"),
        (gif_bomb, "image-too-large"),
        (lambda: image_bytes(size=(1001, 1000)), "image-too-large"),
    ],
)
def test_what_cannot_be_used_is_refused_by_kind_and_with_the_same_words_each_time(make, kind):
    reasons = set()
    for _ in range(2):
        with pytest.raises(RecordError) as e:
            decode(make())
        assert e.value.kind == kind
        reasons.add(e.value.reason)
    assert len(reasons) == 1
    assert not re.search("0x[0-9a-f]{6}", reasons.pop())


def test_an_image_of_exactly_the_limit_is_read():
    decode(image_bytes(size=(1000, 1000)))


def test_bombs_are_refused_before_they_take_memory():
    """Decoded, each would take between 400 MB and 7 GB. A fresh process has no earlier peak to hide it."""
    script = """
import resource
from support.damaged import gif_bomb, png_bomb, webp_bomb
from support.media import image_bytes
from mmray.errors import RecordError
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import ImageSpec
bombs = [png_bomb(), webp_bomb(), gif_bomb(), webp_bomb(side=5_001)]
strip = image_bytes(size=(1, 49_000))
decode_image(image_bytes(), ImageSpec(), 50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        decode_image(bomb, ImageSpec(), 50_000_000)
    except RecordError as e:
        assert e.kind == "image-too-large"
    else:
        raise AssertionError("it was decoded")
decode_image(strip, ImageSpec(fit="crop"), 50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TESTS, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 30e6
