"""Seeded damage to small shards: what `jobs/bench fuzz` feeds to the reader, the preprocessing and the model.

Damage that a checksum would give away at once (tar headers, PNG chunks, Ogg pages) is mostly repaired
afterwards, so that it reaches the code behind the checksum.
"""

import random
import struct
import tarfile
import zlib
from functools import cache

from mmray.sources import EXTENSIONS
from support.seeds import seeds
from support.tars import BLOCK, tar_bytes

ALL_EXTENSIONS = [extension for column in EXTENSIONS.values() for extension in column]
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 32_767, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
ODD_TEXT = (
    *(b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"),
    *(t.encode() for t in ("e\u0301\u0323" * 50, "\u202e", "\u2028\x85\u00a0", "\ufdfa" * 40, "👩\u200d👧")),
)
ODD_JSON = (
    *(b"[" * 3_000, b"[" * 900 + b"]" * 900, b'{"number":' * 990 + b"1" + b"}" * 990),
    *(b"9" * 5_000, b"-1e999", b"NaN", b'"\\ud800"', b'"\\u0000"', b"{}", b"[]", b"null", b'"text"'),
    b'{"number": 1, "number": [2]}',
)


def damaged_shard_bytes(seed, number):
    """Case `number` of a seed: what was done, in words, and the bytes of the shard."""
    chance = random.Random(f"{seed}/{number}")
    done = []
    where = chance.choice(("members", "members", "members", "members", "tar", "tar", "both"))
    records = [
        _record(chance, i, done if where != "tar" else None) for i in range(chance.choice((1, 1, 2, 3)))
    ]
    members = [member for record in records for member in record]
    if where == "both" and chance.random() < 0.3:
        chance.shuffle(members)
        done.append("shuffle members")
    tar = tar_bytes(members, chance.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    for _ in range(chance.choice((1, 1, 2, 4)) if where != "members" else 0):
        mutate = chance.choice((_header_lie,) * 6 + (_insert_header,) * 3 + (_blocks,) * 2 + (_bytes,))
        tar, what = mutate(chance, tar)
        done.append(f"tar: {what}")
    return ", ".join(done) or "nothing", tar


def _record(chance, i, done):
    """(name, bytes) of the members of one record; where `done` is a list, one of them is damaged, mostly."""
    columns = [c for c in ("image", "audio", "text", "meta") if chance.random() < 0.6] or ["image"]
    hit = chance.choice((*columns, *columns, None)) if done is not None else None
    members = []
    for column in columns:
        extension, data = chance.choice(seeds()[column])
        if column == hit:
            for _ in range(chance.choice((1, 1, 2, 3, 6))):
                mutate = (
                    {"text": _text, "meta": _meta}.get(column, _bytes) if chance.random() < 0.6 else _bytes
                )
                data, what = mutate(chance, data, [d for _, d in seeds()[column]])
                done.append(f"{extension}: {what}")
            if chance.random() < 0.7:
                data = repaired(data)
            if chance.random() < 0.05:
                extension = chance.choice((*ALL_EXTENSIONS, "JPG", "tar.gz", ""))
        members.append((f"k{i}.{extension}", data))
    return members


def _bytes(chance, data, others=()):
    """Damage that knows nothing of the format."""
    others = others or [d for column in seeds().values() for _, d in column]
    data, other, size = bytearray(data), chance.choice(others), max(1, len(data))
    # Headers lie at the front, so that half of the places are in the first 1/16.
    place = int(size * chance.random() ** chance.choice((1, 4)))
    run = chance.choice((1, 2, 4, 16, 64, 512))
    kind = chance.choice(
        ("flip", "flip", "cut", "splice", "lie", "lie", "lie", "delete", "insert", "repeat", "swap")
    )
    if kind == "flip":
        for _ in range(chance.choice((1, 1, 4, 16)) if data else 0):
            data[int(size * chance.random() ** chance.choice((1, 4)))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif kind == "splice":
        data[place:] = other[int(len(other) * chance.random()) :]
    elif kind == "lie":
        value, width = chance.choice(EXTREMES), chance.choice((1, 2, 4, 4, 8))
        order = chance.choice(("little", "big"))
        data[place : place + width] = (value % 256**width).to_bytes(width, order)
    elif kind == "delete":
        del data[place : place + run]
    elif kind == "insert":
        data[place:place] = chance.choice((bytes(run), b"\xff" * run, chance.randbytes(run)))
    elif kind == "repeat":
        data[place:place] = data[place : place + run] * chance.choice((1, 3, 50))
    else:
        column = chance.choice(("image", "audio", "text", "meta"))
        data[:] = chance.choice(seeds()[column])[1]
    return bytes(data), kind


def _text(chance, data, others):
    place = chance.randint(0, len(data))
    return data[:place] + chance.choice(ODD_TEXT) * chance.choice((1, 1, 30)) + data[place:], "odd text"


def _meta(chance, data, others):
    odd = chance.choice(ODD_JSON)
    return chance.choice(
        (odd, b'{"number": ' + odd + b"}", data[:-1] + b', "number": ' + odd + b"}")
    ), "odd JSON"


#: Where fields lie in a header, and how long they are.
_FIELDS = {
    **{"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "mtime": (136, 12)},
    **{"chksum": (148, 8), "type": (156, 1), "link": (157, 100), "magic": (257, 8), "prefix": (345, 155)},
}
_TYPES = b"0\x001234567xgLKSMVDNZA\xff"
_NAMES = (
    b"",
    b"/",
    b"../../x.jpg",
    b"a/.hidden",
    b"__meta__.json",
    b"k0.jpg",
    b"k0",
    b".",
    b"\xff\xfe.png",
    b"a" * 100,
)


def _header_lie(chance, tar):
    """Another value in one field of one header."""
    headers = [o for o in range(0, len(tar), BLOCK) if tar[o + 257 : o + 262] == b"ustar"]
    if not headers:
        return _bytes(chance, tar)
    at = chance.choice(headers)
    name = chance.choice(("size", "size", "size", "type", "type", *_FIELDS))
    start, width = _FIELDS[name]
    if name == "type":
        value = bytes([chance.choice(_TYPES)])
    elif name in ("name", "link", "prefix"):
        value = chance.choice(_NAMES)
    elif chance.random() < 0.5:
        value = b"%o" % (chance.choice((*EXTREMES, len(tar), BLOCK, BLOCK - 1)) % 8 ** (width - 1))
    else:  # base 256
        value = (
            chance.choice((b"\x80", b"\xff")) + chance.choice(EXTREMES).to_bytes(width - 1, "big")
            if width > 8
            else b"\xff" * 8
        )
    header = bytearray(tar[at : at + BLOCK])
    header[start : start + width] = value.ljust(width, b"\0")[:width]
    if name != "chksum" and chance.random() < 0.9:
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    return tar[:at] + bytes(header) + tar[at + BLOCK :], f"{name} {value[:12]!r}"


def _insert_header(chance, tar):
    """A long name, a pax header, or a member of an odd type, before any block."""
    kind = chance.choice("xxxgLLKSMVDZ5123")
    pairs = {
        "path": b"k0.png",
        "size": str(chance.choice(EXTREMES)).encode(),
        "GNU.sparse.map": b"0,1",
        "": b"\xff",
    }
    records = [_pax_record(key.encode(), value) for key, value in pairs.items() if chance.random() < 0.5]
    data = b"".join(records) if kind in "xg" else chance.choice(_NAMES) * chance.choice((1, 3, 400))
    if chance.random() < 0.3:
        data = _bytes(chance, data)[0]
    info = tarfile.TarInfo("odd.bin")
    info.type, info.size = kind.encode(), len(data)
    header = info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)
    at = chance.randrange(0, len(tar) + 1, BLOCK)
    return tar[:at] + header * chance.choice((1, 1, 2, 30)) + tar[at:], f"insert {kind!r}"


def _pax_record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def _blocks(chance, tar):
    """Whole blocks go, come twice, change places or turn to zeros; or the tar is cut."""
    blocks = [tar[o : o + BLOCK] for o in range(0, len(tar), BLOCK)] or [b""]
    kind = chance.choice(("delete", "repeat", "swap", "zero", "cut", "join"))
    i, j = chance.randrange(len(blocks)), chance.randrange(len(blocks))
    run = chance.choice((1, 1, 2, 5))
    if kind == "delete":
        del blocks[i : i + run]
    elif kind == "repeat":
        blocks[j:j] = blocks[i : i + run] * chance.choice((1, 5))
    elif kind == "swap":
        blocks[i], blocks[j] = blocks[j], blocks[i]
    elif kind == "zero":
        blocks[i : i + run] = [bytes(BLOCK)] * run
    elif kind == "join":
        blocks += blocks
    tar = b"".join(blocks)
    return (tar[: chance.randint(0, len(tar))] if kind == "cut" else tar), f"{kind} blocks"


def repaired(data):
    """The same with the checksums of PNG chunks and Ogg pages put right."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _repaired_png(bytearray(data))
    return _repaired_ogg(bytearray(data)) if data.startswith(b"OggS") else data


def _repaired_png(data):
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def _repaired_ogg(data):
    at = 0
    while at + 27 <= len(data) and data[at : at + 4] == b"OggS":
        segments = data[at + 26]
        end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        data[at + 22 : at + 26] = bytes(4)
        struct.pack_into("<I", data, at + 22, _ogg_crc(data[at:end]))
        at = end
    return bytes(data)


@cache
def _ogg_table():
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 1 << 31 else crc << 1) & 0xFFFFFFFF
        table.append(crc)
    return table


def _ogg_crc(page):
    """CRC-32 of an Ogg page, RFC 3533, unreflected."""
    table, crc = _ogg_table(), 0
    for byte in page:
        crc = crc << 8 & 0xFFFFFFFF ^ table[crc >> 24 ^ byte]
    return crc
