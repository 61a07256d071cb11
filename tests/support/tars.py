"""Tars, whole and broken."""

import io
import tarfile

from support.media import clip, image_bytes

BLOCK = tarfile.BLOCKSIZE

#: Three records that take no decoder, of 3, 1 and 2 members of one block each.
THREE = [
    ("a", {"jpg": b"A", "txt": b"one", "json": b"{}"}),
    ("b", {"txt": b"two"}),
    ("c", {"wav": b"C", "png": b"D"}),
]


def tar_bytes(members, format=tarfile.GNU_FORMAT):
    """A tar of (name, payload) pairs, or of ready-made TarInfos that carry no payload."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def members_of(records):
    """Records as (key, {extension: payload}) pairs → (name, payload) pairs."""
    return [(f"{key}.{extension}", data) for key, fields in records for extension, data in fields.items()]


def good_record(number):
    """One of five kinds of sound record, by number: all three modalities, or some of them."""
    picture = [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")][number % 3]
    sound = [("WAV", "wav"), ("OGG", "ogg"), ("FLAC", "flac")][number % 3]
    image = {picture[1]: image_bytes(picture[0], colour=(number * 37 % 256, 90, 40))}
    text = {"txt": f"a red cat number {number}".encode()}
    audio = {sound[1]: clip(sound[0], hz=200 + 10 * number)}
    fields = [image | text | audio, image | text, text | audio, image, text][number % 5]
    return fields | {"json": b'{"number": %d}' % number}


def good_records(count, prefix="good"):
    return [(f"{prefix}-{number:03d}", good_record(number)) for number in range(count)]


def write_shard(path, records):
    """Write a sound tar; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members_of(records)))
    return path


def write_tar(folder, content):
    """Write s.tar of bytes, of (name, payload) members or of (key, fields) records; returns its path."""
    if not isinstance(content, bytes):
        content = tar_bytes(members_of(content) if isinstance(content[0][1], dict) else content)
    (folder / "s.tar").write_bytes(content)
    return folder / "s.tar"


def header_offset(tar, name, occurrence=0):
    """Byte offset of the header of the named member."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return [info.offset for info in opened if info.name == name][occurrence]


def payload_offset(tar, name):
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.getmember(name).offset_data


def end_mark_offset(tar):
    """Where the members end and the zeros begin."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        last = opened.getmembers()[-1]
    return last.offset_data + -(-last.size // BLOCK) * BLOCK


def cut_in_payload(tar, name):
    return tar[: payload_offset(tar, name) + 1]


def cut_in_header(tar, name):
    return tar[: header_offset(tar, name) + 100]


def cut_before(tar, name):
    """Break off between two members, where `tarfile` notices nothing."""
    return tar[: header_offset(tar, name)]


def without_end_mark(tar):
    return tar[: end_mark_offset(tar)]


def overwritten(tar, offset, junk):
    return tar[:offset] + junk + tar[offset + len(junk) :]


def smashed_header(tar, name, junk=b"\xa5"):
    """Overwrite a member's header; its payload and all that follows stay."""
    return overwritten(tar, header_offset(tar, name), junk * BLOCK)
