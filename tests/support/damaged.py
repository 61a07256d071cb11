"""Damage, made for real: what foreign records do to a reader that trusts them."""

import struct
import zlib
from functools import cache

import numpy as np

from support.media import clip, encode, encode_audio, image_bytes, photo, tone
from support.tars import cut_in_payload, good_records, members_of, smashed_header, tar_bytes

#: The `limits.member_bytes` that `damaged_shard` is made for.
MEMBER_BYTES = 2 << 20

INVALID_UTF8 = b"caf\xe9 au lait \xff"
ENDLESS_TEXT = b"cat " * 500_000  # two million characters


def truncated_jpeg():
    whole = encode(photo(200, 150), "JPEG", quality=90)
    return whole[: len(whole) // 2]


@cache
def png_bomb(side=30_000):
    """A small, valid 1-bit PNG of `side` x `side` pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + -(-side // 8))
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def webp_bomb(side=16_383):
    """A WebP of 30 bytes of pixels whose header claims `side` x `side` of them."""
    data = bytearray(image_bytes("WEBP", lossless=True))
    size = data.index(b"VP8L") + 9  # after the tag, the length and the signature: two 14-bit sizes less one
    bits = int.from_bytes(data[size : size + 4], "little")
    data[size : size + 4] = (bits >> 28 << 28 | side - 1 << 14 | side - 1).to_bytes(4, "little")
    return bytes(data)


def gif_bomb(side=60_000):
    """A GIF of 43 bytes: ten pixels wide, with a frame of gigabytes that Pillow makes room for at once."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\0"
    return screen + b"\x21\xf9\x04\x08\0\0\0\0" + frame + b";"


def garbage(size=3_000):
    return np.random.default_rng(0).bytes(size)


def wav_claiming_hours():
    """8,000 samples that the header plays at one sample a second."""
    data = bytearray(clip("WAV", seconds=0.5))
    data[24:28] = struct.pack("<I", 1)
    return bytes(data)


def wav_claiming_bytes():
    """A WAV of half a second whose header claims 4 GiB of samples (libsndfile believes the file instead)."""
    data = bytearray(clip("WAV", seconds=0.5))
    size = data.index(b"data") + 4
    data[size : size + 4] = struct.pack("<I", 0xFFFFFFF0)
    return bytes(data)


def flac_claiming_hours(hours=10, rate=16_000):
    """A FLAC of half a second whose STREAMINFO claims `hours`."""
    data = bytearray(clip("FLAC", seconds=0.5, rate=rate))
    field = int.from_bytes(data[18:26], "big")  # 20 bits rate, 3 channels, 5 depth, 36 samples
    data[18:26] = (field >> 36 << 36 | hours * 3600 * rate).to_bytes(8, "big")
    return bytes(data)


def nan_wav():
    wave = tone()
    wave[100] = np.nan
    return encode_audio(wave, subtype="FLOAT")


def loud_wav():
    """Float samples of the wrong byte order, which are finite and beyond all bounds."""
    return encode_audio(np.full((4_000, 1), 3e38, np.float32), subtype="FLOAT")


def many_channels_wav():
    return encode_audio(tone(channels=32))


def empty_wav():
    return encode_audio(tone(seconds=0))


#: Damaged members: (extension, bytes, type of the reject).
BAD_MEMBERS = {
    "jpeg-cut": ("jpg", truncated_jpeg, "image-undecodable"),
    "jpeg-empty": ("jpg", bytes, "image-empty"),
    "jpeg-garbage": ("jpg", garbage, "image-undecodable"),
    "ppm-as-png": ("png", lambda: image_bytes("PPM"), "image-undecodable"),
    "png-bomb": ("png", png_bomb, "image-too-large"),
    "webp-bomb": ("webp", webp_bomb, "image-too-large"),
    "gif-bomb": ("gif", gif_bomb, "image-too-large"),
    "text-latin1": ("txt", lambda: INVALID_UTF8, "text-not-utf8"),
    "text-empty": ("txt", bytes, "text-empty"),
    "text-blank": ("txt", lambda: b" \n\t ", "text-empty"),
    "text-endless": ("txt", lambda: ENDLESS_TEXT, "text-too-long"),
    "audio-garbage": ("ogg", garbage, "audio-undecodable"),
    "audio-empty": ("wav", bytes, "audio-empty"),
    "audio-silent-header": ("wav", empty_wav, "audio-empty"),
    "wav-hours": ("wav", wav_claiming_hours, "audio-too-long"),
    "flac-hours": ("flac", flac_claiming_hours, "audio-too-long"),
    "wav-nan": ("wav", nan_wav, "audio-not-finite"),
    "wav-loud": ("wav", loud_wav, "audio-not-finite"),
    "wav-channels": ("wav", many_channels_wav, "audio-unsupported"),
}


def bad_record(kind):
    """Fields of a record with one damaged member and one sound one."""
    extension, make, _ = BAD_MEMBERS[kind]
    sound = {"png": image_bytes()} if extension == "txt" else {"txt": b"a red cat"}
    return {extension: make(), **sound}


def damaged_shard(path, good=40):
    """Write one tar of sound records with one of each kind of damage among them, broken off at its end.

    Read it with `limits.member_bytes` of MEMBER_BYTES, and otherwise the default limits.

    Returns:
        Key of each rejected record: its (stage, type). The key "apart" is also that of a sound row: the
        first half of the record whose members lie apart. The other rows, `good` of them, are predicted.
    """
    expected = {kind: ("preprocess", kind_of) for kind, (_, _, kind_of) in BAD_MEMBERS.items()}
    bad = [[(kind, bad_record(kind))] for kind in BAD_MEMBERS]
    bad.append([("nothing", {"json": b"{}"})])
    expected["nothing"] = ("preprocess", "no-modality")
    bad.append([("pictures", {"png": image_bytes(), "jpg": image_bytes("JPEG")})])
    bad.append([("twice", {"txt": b"a cat"}), ("twice", {"txt": b"a cat again"})])
    expected["pictures"] = expected["twice"] = ("read", "repeated-member")
    bad.append([("oversized", {"png": bytes(MEMBER_BYTES + 1), "txt": b"a cat"})])
    expected["oversized"] = ("read", "member-too-large")
    bad.append(
        [("apart", {"png": image_bytes()}), ("between", {"txt": b"a cat"}), ("apart", {"txt": b"a dog"})]
    )
    expected["apart"] = ("read", "interleaved-members")
    bad.append([("smashed", {"png": image_bytes(), "txt": b"a cat", "json": b"{}"})])
    expected["smashed"] = ("shard", "shard-damaged")
    expected["cut-off"] = ("shard", "shard-truncated")

    sound = good_records(good - 2)  # "between" and the first half of "apart" are sound, too
    assert len(sound) >= len(bad)
    records = [record for one, group in zip(sound, bad, strict=False) for record in (one, *group)]
    records += sound[len(bad) :]
    records.append(("cut-off", {"png": image_bytes(), "wav": clip()}))
    tar = smashed_header(tar_bytes(members_of(records)), "smashed.txt")
    # The smashed header hides what follows from tarfile, so the cut is found before it is made.
    whole = tar_bytes(members_of(records))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar[: len(cut_in_payload(whole, "cut-off.wav"))])
    return expected
