"""Sound for a model: opened by its bytes, with a known length, read from any position as mono.

libsndfile reads what it can. AAC, M4A and WebM need FFmpeg (`mmray.preprocess.ffmpeg`).
"""

from __future__ import annotations

import io
import re
from itertools import pairwise

import numpy as np
import soundfile
import soxr

from mmray.errors import RecordError, about_record
from mmray.magic import what_is
from mmray.preprocess import mp3
from mmray.preprocess.lengths import flac_with_length, wav_with_length
from mmray.preprocess.wave import UNDECODABLE, Clip, Wave, check_sound, joined, mono

FORMATS = "WAV, Ogg, FLAC, AIFF, AU, MP3, AAC, M4A, WebM"

_STEP_SAMPLES = 4 << 20  # samples of all channels that are decoded at once: more than most clips have
_MISSING_S = 0.1  # by which a sound in a chain may be short: an MP3's last frame may be invalid
_MAX_LINKS = 1_000  # sounds in a chain; each is opened for its length

# libsndfile's other twenty parsers are only attack surface.
_AS_IT_IS = re.compile(rb"FORM....AIF[FC]|\.snd|dns\.", re.DOTALL)
_WAV = re.compile(rb"RIFF|RIFX|RF64")
_MP3 = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")
_FFMPEG = (
    (re.compile(rb"....ftyp", re.DOTALL), "mov"),
    (re.compile(rb"\x1aE\xdf\xa3"), "matroska"),
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), "aac"),
)
_FLAC_START = b"fLaC\0\0\0\x22"  # one with more than STREAMINFO, as all encoders write it
_FIRST_PAGE = b"OggS\0\x02"  # of a stream (RFC 3533)
_BLANK = b"\0\r\n\t "


def open_clip(data: bytes) -> Clip:
    """Open a clip by its bytes, independent of its name.

    Raises:
        RecordError: it is not a clip, or damaged; the reason says what it is.
    """
    body = _without_tags(data)
    for pattern, container in _FFMPEG:
        if pattern.match(body):
            from mmray.preprocess.ffmpeg import open_with_ffmpeg  # an extra; tenths of a second to import

            return open_with_ffmpeg(body, container)
    if body.startswith(b"OggS"):
        return _chain(_links(body, _places(body, _FIRST_PAGE)))
    if body.startswith(b"fLaC"):
        links = _links(body, _places(body, _FLAC_START)) if body.startswith(_FLAC_START) else [body]
        return _chain([flac_with_length(link) for link in links])
    if _WAV.match(body):
        return _Single(wav_with_length(body))
    if _AS_IT_IS.match(body):
        return _Single(body)
    return _open_mp3(body, data)


def _without_tags(data: bytes) -> bytes:
    """From the start of the sound: after blanks and zeros, and after ID3 tags (id3.org, 2.3, 3.1)."""
    body = data.lstrip(_BLANK) if data[:1] in (b"\0", b"\r", b"\n", b"\t", b" ") else data
    if body is not data and data[4:8] == b"ftyp":  # its first bytes are a size
        return data
    for _ in range(10):
        if not body.startswith(b"ID3") or len(body) < 10:
            break
        a, b, c, d = body[6:10]
        size = 10 + (a << 21 | b << 14 | c << 7 | d) + 10 * (body[5] >> 4 & 1)
        body = body[size:].lstrip(b"\0") if size < len(body) else body[10:]
    return body


def _open_mp3(body: bytes, data: bytes) -> Clip:
    """An MP3, which may begin inside a frame, as if cut from a stream."""
    start = mp3.first_frame(body)
    if start is None:
        if _MP3.match(body):  # for example of free format
            return _Single(body)
        raise RecordError(f"not audio of type {FORMATS}: it is {what_is(data)}", "audio-undecodable")
    body = body[start:]
    return _Single(body) if mp3.states_its_length(body) else _chain(mp3.streams(body))


def _places(data: bytes, what: bytes) -> list[int]:
    """Its position; a regular expression would take ten times as long."""
    found = [data.find(what)]
    while found[-1] >= 0:
        found.append(data.find(what, found[-1] + 1))
    return found[:-1]


def _links(data: bytes, starts: list[int]) -> list[bytes]:
    """Concatenated sounds in one file, each beginning at one of `starts`."""
    if len(starts) < 2:
        return [data]
    kept = [0]
    for before, start in pairwise(starts):
        # Parallel streams (for example with a video) begin together: only their first pages are in between.
        if not _is_one_page(data, before, start):
            kept.append(start)
    return [data[a:b] for a, b in pairwise([*kept, len(data)])]


def _is_one_page(data: bytes, start: int, end: int) -> bool:
    segments = data[start + 26 : start + 27] if data.startswith(b"OggS", start) else b""
    if not segments:
        return False
    table = data[start + 27 : start + 27 + segments[0]]
    return start + 27 + len(table) + sum(table) == end


def _chain(links: list[bytes]) -> Clip:
    if len(links) > _MAX_LINKS:
        raise RecordError(f"a chain of more than {_MAX_LINKS} sounds", "audio-too-complex")
    return _Single(links[0]) if len(links) == 1 else _Chain(links)


class _Single:
    """A sound that libsndfile reads; it is read once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        with about_record(*UNDECODABLE):
            self._file = self._opened()
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames

    def _opened(self) -> soundfile.SoundFile:
        return soundfile.SoundFile(io.BytesIO(self._data))

    def read(self, start: int, length: int) -> Wave:
        step = _STEP_SAMPLES // self.channels
        parts = []
        with about_record(*UNDECODABLE):
            # libsndfile 1.2.2 crashes when seeking in a Vorbis that it cannot decode; in one that was already
            # read it lands 448 samples off: so a new one is opened.
            if start and self._file.format == "OGG" and not len(self._opened().read(1)):
                return np.zeros(0, np.float32)
            if start:  # some, such as GSM in a WAV, can be read but not sought in
                self._file.seek(start)
            while length > 0:
                samples = self._file.read(min(step, length), dtype="float32", always_2d=True)
                parts.append(mono(samples))
                length -= len(samples)
                if len(samples) < step:
                    break
        return joined(parts)


class _Chain:
    """Sounds one after the other, at the highest of their rates. One is open at a time."""

    def __init__(self, links: list[bytes]) -> None:
        self._links = links
        sizes = []
        for number, link in enumerate(links, 1):
            opened = _Single(link)
            check_sound(opened.channels, opened.rate)
            if not opened.frames:
                reason = f"no sound was found in part {number} of {len(links)} concatenated sounds"
                raise RecordError(reason, "audio-undecodable")
            sizes.append((opened.rate, opened.channels, opened.frames))
        self.rate = max(rate for rate, _, _ in sizes)
        self.channels = max(channels for _, channels, _ in sizes)
        self._spans = [(rate, round(frames * self.rate / rate)) for rate, _, frames in sizes]
        self.frames = sum(frames for _, frames in self._spans)

    def read(self, start: int, length: int) -> Wave:
        parts = []
        for link, (rate, frames) in zip(self._links, self._spans, strict=True):
            first, last = max(0, start), min(frames, start + length)
            if first < last:
                part = self._part(link, rate, first, last - first)
                if len(part) < last - first - _MISSING_S * self.rate:
                    reason = f"one of {len(self._links)} concatenated sounds is truncated"
                    raise RecordError(reason, "audio-undecodable")
                parts.append(part)
            start -= frames
        return joined(parts)

    def _part(self, link: bytes, rate: int, start: int, length: int) -> Wave:
        if rate == self.rate:
            return _Single(link).read(start, length)
        ratio = rate / self.rate
        heard = _Single(link).read(int(start * ratio), int(np.ceil(length * ratio)))
        with about_record("cannot resample the audio", "audio-undecodable"):
            resampled: Wave = soxr.resample(heard, rate, self.rate, quality="HQ")
        return resampled[:length]
