"""A refusal names what it was given."""

import gzip
import io
import pickle
import tarfile
import zipfile

import pytest
from support.media import clip, image_bytes

from mmray.magic import what_is


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"x")
    return buffer.getvalue()


def tarred():
    return tarfile.TarInfo("a.jpg").tobuf() + bytes(1_024)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (image_bytes("JPEG"), "a JPEG picture"),
        (image_bytes("TIFF"), "a TIFF picture"),
        (image_bytes("AVIF"), "an AVIF picture"),
        (b"\r\n" + image_bytes("PNG"), "a PNG picture"),
        (clip("OGG"), "an Ogg sound"),
        (b"\xff\xf1\x50\x80", "an AAC sound"),
        (b"\xff\xfb\x90\x00", "an MP3 sound"),
        (b"\0\0\0\x20ftypisom", "an MP4 video or sound"),
        (zipped(), "a ZIP archive"),
        (tarred(), "a tar archive"),
        (gzip.compress(b"x"), "gzip data"),
        (pickle.dumps(1), "a Python pickle"),
        (b"%PDF-1.7", "a PDF document"),
        (b"<?xml version='1.0'?>\n<svg>", "an SVG drawing"),
        (b"\xef\xbb\xbf  <HTML><body>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "an XML document"),
        (b'{"error": "not found"}', "JSON text"),
        (b"https://example.org/cat.jpg", "a URL"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"Not Found\n", "text that begins 'Not Found"),
        ("für später".encode(), "text that begins 'für später'"),
        (bytes(10), "nothing but zeros"),
        (b"", "nothing"),
        (b"\x01\x02\x03", "of no known type (it begins 01 02 03)"),
    ],
)
def test_what_people_have_instead_of_a_picture_or_a_sound_has_a_name(head, name):
    assert what_is(head).startswith(name)
