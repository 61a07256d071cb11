"""Small images and clips, encoded for real."""

import io
import struct

import av
import numpy as np
import soundfile
from PIL import Image

from mmray.preprocess.image import allow_heic

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


class _Pipe:
    """A file that cannot be sought in: a muxer leaves out the lengths that it would go back for."""

    def __init__(self):
        self.buffer = io.BytesIO()

    def write(self, data):
        return self.buffer.write(data)


def encode_av(wave, rate, container, codec, piped=False, **options):
    """Bytes of a clip as FFmpeg writes it; `options` are the muxer's, and `bit_rate` the codec's."""
    out = _Pipe() if piped else io.BytesIO()
    bit_rate = options.pop("bit_rate", None)
    layout = {1: "mono", 2: "stereo"}[wave.shape[1]]
    with av.open(out, "w", format=container, options=options) as opened:
        stream = opened.add_stream(codec, rate=rate, layout=layout)
        if bit_rate:
            stream.bit_rate = bit_rate
        stream.codec_context.format = stream.codec_context.codec.audio_formats[0]
        resample = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T, np.float32), "fltp", layout)
        frame.sample_rate = rate
        frames = [*resample.resample(frame), *resample.resample(None)]
        for packet in [p for frame in [*frames, None] for p in stream.encode(frame)]:
            opened.mux(packet)
    return (out.buffer if piped else out).getvalue()


def heic_bytes(image, **options):
    """Bytes of a HEIC."""
    allow_heic()
    return encode(image, "HEIF", **options)


def id3(size=200):
    """An ID3 tag of so many bytes."""
    return b"ID3\x03\0\0" + bytes([0, 0, size - 10 >> 7, size - 10 & 127]) + bytes(size - 10)


def unfinished(wav):
    """A WAV whose recorder never came to fill in its sizes."""
    data = bytearray(wav)
    at = data.index(b"data") + 4
    data[4:8] = struct.pack("<I", 36)
    data[at : at + 4] = bytes(4)
    return bytes(data)
