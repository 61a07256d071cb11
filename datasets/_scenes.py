"""Draw and play what a synthetic record shows: encoded pictures and sounds, the same bytes for the same seed.

Owns the look and the noise; what is shown is the caller's business (`synthetic.py`). Each trait is True,
False, or None: then it is shown so that neither can be told.
"""

from __future__ import annotations

import io
import random
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]

Trait = bool | None

#: Warm, cool, neither: red to orange, cyan to blue, green (Pillow's hue circle has 256 steps).
HUES: dict[Trait, tuple[int, int]] = {True: (0, 32), False: (120, 168), None: (75, 95)}
#: High, low, neither.
PITCH_HZ: dict[Trait, tuple[float, float]] = {True: (1_400, 2_600), False: (180, 420), None: (700, 900)}
RATES = (8_000, 11_025, 16_000, 22_050, 44_100)


def picture(warm: Trait, round_: Trait, rng: random.Random) -> dict[str, bytes]:
    """A coloured shape before grey ones, 64 to 200 pixels a side: ``{"jpg" | "png" | "webp": bytes}``."""
    width, height = rng.randint(64, 200), rng.randint(64, 200)
    image = Image.new("RGB", (width, height), _grey(rng, 90, 230))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 3)):  # grey distractors of either shape
        _shape(draw, rng, 0.12, rng.random() < 0.5, _grey(rng, 60, 250))
    _shape(draw, rng, rng.uniform(0.28, 0.42), round_, _colour(rng, *HUES[warm]))
    noise = np.random.default_rng(rng.getrandbits(32)).integers(-14, 15, (height, width, 1), dtype=np.int16)
    noisy = (np.asarray(image, np.int16) + noise).clip(0, 255).astype(np.uint8)
    return _encode_picture(Image.fromarray(noisy), rng)


def sound(round_: Trait, high: Trait, rng: random.Random) -> dict[str, bytes]:
    """0.4 to 1.2 s of sound, mono or stereo, at one of `RATES`: ``{"wav" | "flac" | "ogg": bytes}``.

    Round is a tone with a weak overtone and a slow vibrato; angular is noise half an octave wide that is cut
    into grains; neither is both at once. All lie in the band of the pitch.
    """
    rate = rng.choice(RATES)
    samples = int(rate * rng.uniform(0.4, 1.2))
    noise = np.random.default_rng(rng.getrandbits(32))
    hz = rng.uniform(*PITCH_HZ[high])
    wave = np.zeros(samples)
    if round_ is not False:
        wave += _tone(samples, rate, hz, rng)
    if round_ is not True:
        wave += _grains(samples, rate, hz, rng, noise)
    wave = wave / np.abs(wave).max() + rng.uniform(0.005, 0.05) * noise.standard_normal(samples)
    wave *= rng.uniform(0.25, 0.8) / np.abs(wave).max()
    if rng.random() < 0.4:
        wave = np.stack([wave, wave * rng.uniform(0.3, 1.0)], axis=1)
    return _encode_sound(wave, rate, rng)


def with_ogg_serial(data: bytes, serial: int) -> bytes:
    """Put `serial` into every page of an Ogg stream: encoders draw it from the clock, so bytes would differ.

    Page layout and checksum as in RFC 3533, section 6: the serial is at byte 14, the CRC at byte 22; the CRC
    is that of the page with a zero CRC.

    Raises:
        ValueError: `data` is not a sequence of Ogg pages.
    """
    stream = bytearray(data)
    start = 0
    while start < len(stream):
        if stream[start : start + 4] != b"OggS":
            raise ValueError(f"not an Ogg page at byte {start}")
        segments = stream[start + 26]
        end = start + 27 + segments + sum(stream[start + 27 : start + 27 + segments])
        stream[start + 14 : start + 18] = serial.to_bytes(4, "little")
        stream[start + 22 : start + 26] = bytes(4)
        stream[start + 22 : start + 26] = _ogg_crc(stream[start:end]).to_bytes(4, "little")
        start = end
    return bytes(stream)


def _tone(samples: int, rate: int, hz: float, rng: random.Random) -> npt.NDArray[np.float64]:
    at_s = np.arange(samples) / rate
    vibrato = rng.uniform(0, 3) * np.sin(2 * np.pi * rng.uniform(3, 7) * at_s)
    phase = 2 * np.pi * hz * at_s + vibrato
    wave: npt.NDArray[np.float64] = np.sin(phase) + rng.uniform(0, 0.3) * np.sin(2 * phase)
    return wave


def _grains(
    samples: int, rate: int, hz: float, rng: random.Random, noise: np.random.Generator
) -> npt.NDArray[np.float64]:
    size = 1 << (samples - 1).bit_length()  # a power of two: the FFT of an odd length takes ten times longer
    bins_hz = np.fft.rfftfreq(size, 1 / rate)
    band = (bins_hz > hz * 2**-0.25) & (bins_hz < hz * 2**0.25)
    spectrum = np.zeros(len(bins_hz), complex)
    spectrum[band] = noise.standard_normal(band.sum()) + 1j * noise.standard_normal(band.sum())
    at_s = np.arange(samples) / rate
    grains: npt.NDArray[np.float64] = np.fft.irfft(spectrum, size)[:samples]
    grains *= np.sin(2 * np.pi * rng.uniform(8, 20) * at_s) > 0
    grains /= np.abs(grains).max()
    return grains


def _encode_picture(image: Image.Image, rng: random.Random) -> dict[str, bytes]:
    extension = rng.choice(("jpg", "png", "webp"))
    options: dict[str, Any] = {
        "jpg": {"format": "JPEG", "quality": rng.randint(70, 95)},
        "png": {"format": "PNG", "compress_level": 1},
        "webp": {"format": "WEBP", "quality": rng.randint(70, 95), "method": 0},
    }[extension]
    if extension == "png" and rng.random() < 0.5:
        image.putalpha(rng.randint(200, 255))
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return {extension: buffer.getvalue()}


def _encode_sound(wave: npt.NDArray[np.float64], rate: int, rng: random.Random) -> dict[str, bytes]:
    # One Ogg in five: encoding one takes 5 ms, ten times as long as the others.
    extension = rng.choice(("wav", "wav", "flac", "flac", "ogg"))
    kind = "VORBIS" if extension == "ogg" else "PCM_16"
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=extension.upper(), subtype=kind)
    data = buffer.getvalue()
    return {extension: with_ogg_serial(data, rng.getrandbits(32)) if extension == "ogg" else data}


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytearray) -> int:
    """Ogg's CRC has zlib's polynomial, but bits in the other order and no inversion before and after."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _shape(draw: ImageDraw.ImageDraw, rng: random.Random, scale: float, round_: Trait, fill: Rgb) -> None:
    """An ellipse, a triangle or square, or (neither) a square with round corners.

    Its radius is `scale` times the shorter side of the picture.
    """
    width, height = draw.im.size
    radius = scale * min(width, height)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    if round_ is None:
        half = radius * 0.85
        draw.rounded_rectangle((x - half, y - half, x + half, y + half), half * 0.6, fill=fill)
    elif round_:
        squeezed = radius * rng.uniform(0.75, 1.0)
        draw.ellipse((x - radius, y - squeezed, x + radius, y + squeezed), fill=fill)
    else:
        draw.regular_polygon((x, y, radius), rng.randint(3, 4), rotation=rng.randint(0, 359), fill=fill)


def _colour(rng: random.Random, low: int, high: int) -> Rgb:
    """A lively colour with a hue of Pillow's circle from `low` to `high`."""
    hsv = rng.randint(low, high), rng.randint(150, 255), rng.randint(130, 255)
    red, green, blue = Image.new("HSV", (1, 1), hsv).convert("RGB").tobytes()
    return red, green, blue


def _grey(rng: random.Random, low: int, high: int) -> Rgb:
    level = rng.randint(low, high)
    return level, level, level
