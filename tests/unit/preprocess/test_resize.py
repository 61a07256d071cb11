"""Resizing by SIMD is Pillow's, to within a few grey levels, whatever the sizes."""

import numpy as np
import pytest
from PIL import Image
from support.media import photo

from mmray.preprocess.resize import resize


def pillow(image, size, box):
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def on_white(image):
    """What is seen of it: colours behind nothing may be any."""
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")))


def picture(mode, width, height):
    """Noise, whose edges overshoot everywhere, beside a photograph; with every degree of transparency."""
    random = np.random.default_rng(width + height)
    pixels = random.integers(0, 256, (height, width, 4), np.uint8)
    pixels[: height // 2, :, :3] = photo(width, height)[: height // 2]
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("size", [(224, 168), (60, 50), (50, 90), (200, 40), (97, 130), (1, 1)])
@pytest.mark.parametrize("stored", [(100, 101), (300, 80), (70, 290), (640, 480), (3, 5), (1, 1)])
def test_it_looks_like_pillows_whichever_side_grows(mode, size, stored):
    image = picture(mode, *stored)
    for box in (None, (stored[0] / 7, stored[1] / 3, stored[0] * 0.9, stored[1] * 0.95)):
        ours, theirs = resize(image, size, box), pillow(image, size, box)
        assert (ours.mode, ours.size) == (mode, size)
        # A wrong order of the two directions shows as 20 and more, a forgotten alpha as 200.
        assert np.abs(on_white(ours).astype(int) - on_white(theirs)).max() <= 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_of_the_wanted_size_stays_as_it_is_and_a_part_of_it_is_enlarged(mode):
    image = picture(mode, 64, 48)
    for box in (None, (0.0, 0.0, 64.0, 48.0)):
        assert np.array_equal(resize(image, (64, 48), box), image.resize((64, 48), box=box))
    part = (16.0, 12.0, 48.0, 36.0)
    assert (
        np.abs(
            on_white(resize(image, (64, 48), part)).astype(int) - on_white(pillow(image, (64, 48), part))
        ).max()
        <= 4
    )


def test_what_is_transparent_lends_no_colour_to_its_neighbours():
    halves = np.zeros((40, 40, 4), np.uint8)
    halves[:, :20] = (255, 0, 0, 255)
    halves[:, 20:] = (0, 255, 0, 0)  # a green that nobody may see
    assert np.asarray(resize(Image.fromarray(halves), (30, 30)))[..., 1].max() == 0


@pytest.mark.parametrize("stored", [(1, 3_000_000), (3_000_000, 1)])
def test_a_strip_is_shrunk_before_it_is_stretched(stored):
    """Else 224 x 3,000,000 pixels would lie between the two directions."""
    assert resize(Image.new("RGB", stored, "red"), (224, 224)).getpixel((100, 100)) == (255, 0, 0)
