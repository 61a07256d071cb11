"""Small images and clips, encoded for real."""

import io

import numpy as np
import soundfile
from PIL import Image

COLOUR = (200, 60, 30)


def encode(image, format="PNG", **options):
    """Bytes of a Pillow image or of an array."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def image_bytes(format="PNG", size=(24, 16), colour=COLOUR, mode="RGB", **options):
    """A picture of one colour; `size` is (width, height)."""
    return encode(Image.new(mode, size, colour), format, **options)


def photo(width, height, seed=0):
    """A smooth uint8 RGB picture with something of every colour in it, as photographs are."""
    random = np.random.default_rng(seed)
    x, y = np.linspace(0, 1, width)[None], np.linspace(0, 1, height)[:, None]
    waves = [
        np.sin(2 * np.pi * (random.uniform(0.5, 2) * x + random.uniform(0.5, 2) * y + random.uniform()))
        for _ in range(3)
    ]
    return (127.5 + 120 * np.stack(waves, axis=2)).round().astype(np.uint8)


def tone(seconds=0.3, rate=16_000, hz=440.0, channels=1, level=0.5):
    """A sine, float32 [samples, channels]; each channel is softer than the one before it."""
    wave = level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return (wave[:, None] / np.arange(1, channels + 1)).astype(np.float32)


def encode_audio(wave, rate=16_000, format="WAV", subtype=None):
    """Bytes of a clip."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def clip(format="WAV", seconds=0.3, rate=16_000, **options):
    """Bytes of a sine."""
    return encode_audio(tone(seconds, rate, **options), rate, format)
