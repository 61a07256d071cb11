"""A folder of streams that were recorded apart: `frames.csv`, `audio.csv` and `subtitles.srt` or `.vtt`.

Owns the folder's layout, and how chunks of sound become one clip. Refuses files outside the folder, frames
that no reader would take for images, times that are no numbers, and an index that names nothing.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile

from mmray.align.join import Event
from mmray.errors import InputError
from mmray.preprocess.audio import Wave
from mmray.sources import EXTENSIONS

TOGETHER_S = 0.05  # a chunk that begins so near the end of the one before goes on there: stamps jitter

# SubRip writes 01:02:03,456, WebVTT also 02:03.456, with settings behind the second time.
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[,.](\d{3})"
_SPAN = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}\b")
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Recording:
    """The streams of one folder, each on a clock of its own, in order of arrival.

    The value of a frame or chunk is the name of its file; a chunk's end is not known before it is decoded, so
    it is given as its start. The value of a subtitle is its text.
    """

    folder: Path
    frames: tuple[Event[str], ...]
    audio: tuple[Event[str], ...]
    subtitles: tuple[Event[str], ...]

    @classmethod
    def open(cls, folder: Path) -> Recording:
        """Read the indices of a folder.

        Raises:
            InputError: one is missing or cannot be read.
        """
        found = [path for name in ("subtitles.srt", "subtitles.vtt") if (path := folder / name).is_file()]
        frames = tuple(_read_index(folder / "frames.csv"))
        for frame in frames:
            if image_extension(frame.value) not in EXTENSIONS["image"]:
                known = ", ".join(EXTENSIONS["image"])
                raise InputError(f"{folder / 'frames.csv'}: {frame.value} is no image by its name ({known})")
        return cls(
            folder,
            frames,
            tuple(_read_index(folder / "audio.csv")),
            tuple(read_subtitles(found[0])) if found else (),
        )

    @property
    def name(self) -> str:
        """Name of the folder, as keys of records may begin: without dots."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.folder.resolve().name)[:80]

    def read(self, name: str) -> bytes:
        """Bytes of a file that an index names.

        Raises:
            InputError: it is not there.
        """
        try:
            return (self.folder / name).read_bytes()
        except OSError as e:
            raise InputError(f"{self.folder / name}: cannot be read: {e.strerror}") from e


def read_subtitles(path: Path) -> Iterator[Event[str]]:
    """Captions of a SubRip or WebVTT file, without their tags.

    Raises:
        InputError: it is not UTF-8.
    """
    text: list[str] = []
    span: tuple[float, float] | None = None
    for line in [*_lines(path), ""]:
        if match := _SPAN.match(line):
            start, end = (_seconds(*match.groups()[i : i + 4]) for i in (0, 4))
            span, text = (start, max(start, end)), []
        elif line.strip():
            text.append(_TAG.sub("", line).strip())
        else:
            if span and (caption := " ".join(filter(None, text))):
                yield Event(*span, caption)
            span = None


def image_extension(name: str) -> str:
    """Extension of a frame's file, lower case, without the dot."""
    return PurePosixPath(name).suffix[1:].lower()


def splice(chunks: Sequence[Event[str]], wave: Callable[[str], Wave], sample_rate: int) -> tuple[float, Wave]:
    """Chunks in the order of their stamps as one sound, gaps silent.

    Args:
        chunks: at least one; their values are handed to `wave`.
        wave: the samples of a chunk, float32 [samples].
        sample_rate: of all of them, in Hz.

    Returns:
        When the first sample was recorded, as all stamps together say it, and float32 [samples].
    """
    pieces: list[Wave] = []
    starts: list[float] = []
    length = 0
    for chunk in chunks:
        gap = round((chunk.start_s - chunks[0].start_s) * sample_rate) - length
        if abs(gap) <= TOGETHER_S * sample_rate:
            gap = 0
        starts.append(chunk.start_s - (length + gap) / sample_rate)
        # Where a chunk begins before the one before it ends, that one is believed.
        added = [np.zeros(max(0, gap), np.float32), wave(chunk.value)[max(0, -gap) :]]
        pieces += added
        length += sum(map(len, added))
    return float(np.mean(starts)), np.concatenate(pieces)


def encode_flac(wave: Wave, sample_rate: int) -> bytes:
    """A clip of 16-bit samples: those that were read from such a clip come out as they were."""
    pcm = (32_768 * wave).round().clip(-32_768, 32_767).astype(np.int16)  # libsndfile would scale by 32,767
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read as UTF-8: {getattr(e, 'strerror', None) or e}") from e


def _seconds(hours: str | None, minutes: str, seconds: str, milliseconds: str) -> float:
    return 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds) + int(milliseconds) / 1e3


def _read_index(path: Path) -> Iterator[Event[str]]:
    rows = csv.DictReader(_lines(path))
    if not {"file", "time_s"} <= set(rows.fieldnames or ()):
        raise InputError(f"{path}: its first line must name the columns file and time_s")
    number = 1
    for number, row in enumerate(rows, 2):
        name = PurePosixPath(row["file"])
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{path}, line {number}: {name} lies outside the folder")
        try:
            at_s = float(row["time_s"])
        except (TypeError, ValueError):
            at_s = float("nan")
        if not isfinite(at_s):
            raise InputError(f"{path}, line {number}: time_s is {row['time_s']!r}, not a number of seconds")
        yield Event(at_s, at_s, str(name))
    if number == 1:
        raise InputError(f"{path}: names no file")
