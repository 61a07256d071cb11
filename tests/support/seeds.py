"""Small sound members of every kind that is read, and some that is not: what a fuzz damages."""

import json
from functools import cache

import numpy as np
from PIL import Image

from mmray.sources import EXTENSIONS
from support.damaged import BAD_MEMBERS
from support.media import clip, encode, encode_audio, encode_av, heic_bytes, photo, tone

M4A = (("ipod", "aac"), ("ipod", "alac"))


@cache
def seeds():
    """Sound members by column: lists of (extension, bytes)."""
    rgb = Image.fromarray(photo(40, 30))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(photo(40, 30, 1)[:, :, 0]))
    palette = alpha.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(photo(40, 30)[:, :, 0].astype(np.uint16) * 257)
    jpegs = (
        (rgb, {"exif": exif}),
        (rgb.convert("L"), {}),
        (rgb.convert("CMYK"), {}),
        (rgb, {"progressive": True}),
    )
    images = [
        *(("jpg", encode(image, "JPEG", **options)) for image, options in jpegs),
        *(("png", encode(i)) for i in (rgb, alpha, alpha.convert("LA"), palette, deep, rgb.convert("1"))),
        ("png", encode(rgb, exif=exif, icc_profile=b"profile" * 20)),
        ("png", encode(rgb, save_all=True, append_images=[alpha.convert("RGB")])),
        ("webp", encode(rgb, "WEBP", exif=exif)),
        ("webp", encode(alpha, "WEBP", lossless=True)),
        ("webp", encode(alpha, "WEBP", save_all=True, append_images=[rgb])),
        ("gif", encode(palette, "GIF", transparency=0)),
        ("gif", encode(palette, "GIF", save_all=True, append_images=[rgb.convert("P")])),
        *(("tif", encode(rgb, "TIFF", compression=c)) for c in (None, "tiff_lzw", "tiff_deflate", "jpeg")),
        *(("tiff", encode(image, "TIFF")) for image in (alpha, palette, deep, rgb.convert("CMYK"))),
        ("avif", encode(rgb, "AVIF", exif=exif)),
        ("avif", encode(alpha, "AVIF", save_all=True, append_images=[alpha])),
        ("heic", heic_bytes(rgb)),
        ("heic", heic_bytes(rgb.resize((96, 80)), tile_size=64)),
        *(("bmp", encode(image, "BMP")) for image in (rgb, alpha, palette, rgb.convert("1"))),
    ]
    subtypes = ("PCM_16", "PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")
    # Audio is told by its bytes, not by its name; the last three formats are libsndfile's, and none of ours.
    others = ("AIFF", "RF64", "WAVEX", "AU", "CAF", "VOC", "SDS")
    sound = tone(0.2, 8_000)
    audio = [
        *(("wav", encode_audio(sound, 8_000, "WAV", subtype)) for subtype in subtypes),
        *(("ogg", encode_audio(sound, 8_000, "OGG", subtype)) for subtype in ("VORBIS", "OPUS")),
        *(("flac", encode_audio(sound, 8_000, "FLAC", subtype)) for subtype in ("PCM_16", "PCM_24")),
        ("mp3", clip("MP3", seconds=0.2)),
        *(("wav", encode_audio(sound, 8_000, format)) for format in others),
        ("ogg", encode_audio(sound, 8_000, "OGG") + encode_audio(sound, 16_000, "OGG")),
        ("flac", encode_av(sound, 8_000, "flac", "flac", piped=True)),
        ("mp3", encode_av(tone(0.3), 16_000, "mp3", "libmp3lame", write_xing="0")),
        ("mp3", 2 * clip("MP3", seconds=0.2)),
        *(("m4a", encode_av(tone(0.2), 16_000, muxer, codec)) for muxer, codec in M4A),
        ("m4a", encode_av(tone(0.2), 16_000, "mp4", "aac", piped=True, movflags="frag_keyframe+empty_moov")),
        ("aac", encode_av(tone(0.2), 16_000, "adts", "aac")),
        *(("webm", encode_av(tone(0.2, 48_000), 48_000, muxer, "libopus")) for muxer in ("webm", "matroska")),
        *(("wav", clip(seconds=seconds, channels=2)) for seconds in (0.2, 1.5)),
    ]
    texts = [
        "a red cat",
        "\ufeffein blauer Hund",
        "猫 と 犬",
        "قطة حمراء",
        "👍🏽 " * 5,
        "a cat " * 60,
        "caf\u00e9\r\nb",
    ]
    values = (
        {"number": 1},
        {"number": {"deep": [1, 2.5, None]}, "label": "cat"},
        {"number": "\u00e9\ud83d\ude00"},
    )
    damaged = {"image": [], "audio": [], "text": []}
    for extension, make, _ in BAD_MEMBERS.values():
        column = next(column for column in damaged if extension in EXTENSIONS[column])
        if len(data := make()) < 100_000:
            damaged[column].append((extension, data))
    return {
        "image": images + damaged["image"],
        "audio": audio + damaged["audio"],
        "text": [("txt", text.encode()) for text in texts] + damaged["text"],
        "meta": [("json", json.dumps(value).encode()) for value in values],
    }
