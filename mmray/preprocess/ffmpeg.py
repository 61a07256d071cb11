"""AAC, M4A and WebM through FFmpeg (PyAV), the extra `media`.

FFmpeg reads hundreds of formats, and opens files and addresses that a file names. Here it gets bytes in
memory, the one demuxer that matches their start, no protocol, and only the decoders below. Sizes in the
tables of an MP4 are checked first, because FFmpeg allocates by them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmray.errors import RecordError, about_record
from mmray.magic import what_is
from mmray.preprocess.boxes import boxes
from mmray.preprocess.wave import UNDECODABLE, Wave, check_sound, joined, mono

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer

    from mmray.preprocess.wave import Clip

_DECODERS = (
    "aac",
    "alac",
    "flac",
    "mp3",
    "mp3float",
    "opus",
    "vorbis",
    "pcm_s16le",
    "pcm_s16be",
    "pcm_s24le",
)
_OPTIONS = {
    "codec_whitelist": ",".join(_DECODERS),
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac",
    "protocol_whitelist": "none",
    "max_streams": "16",
    "probesize": str(1 << 20),
}
_PREROLL_S = 1.0  # decoded before the wanted part: frames depend on earlier ones, ten of them in MP3
_HELD_SAMPLES = 1 << 18  # samples of each channel that are mixed at once
_MAX_PACKETS = 2_000_000  # five hours of AAC; FFmpeg needs 24 bytes or more for each
_WITHIN = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts")
# Offset of the count of entries in a table of an MP4 (ISO 14496-12, 8.6 to 8.8).
_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4, b"elst": 4, b"stsc": 4, b"stco": 4, b"co64": 4, b"stss": 4}


def open_with_ffmpeg(data: bytes, container: str) -> Clip:
    """Open the first sound of a file.

    Args:
        data: the file.
        container: FFmpeg's name of the demuxer: mov, matroska or aac.

    Raises:
        RecordError: damaged, without sound, of an unsupported codec; or PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError as e:
        reason = f"{what_is(data)}, which needs the package av: pip install 'mmray[media]'"
        raise RecordError(reason, "audio-needs-extra") from e
    if container == "mov":
        _check_tables(data)
    return _FFmpegClip(data, container)


def _check_tables(data: bytes) -> None:
    """Check the sizes in the tables of an MP4.

    Raises:
        RecordError: more entries than any real file has.
    """
    claimed = 0
    for kind, start, end in boxes(data, _WITHIN):
        if kind in _COUNTS:
            place = start + _COUNTS[kind]
            claimed += int.from_bytes(data[place : place + 4])
        elif kind in (b"stts", b"ctts"):
            entries = np.frombuffer(data[start + 8 : end - (end - start) % 8], ">u4")[::2]
            claimed += int(entries.sum(dtype=np.int64))
        if claimed > 2 * _MAX_PACKETS:
            raise RecordError("its tables claim millions of packets", "audio-too-complex")


class _FFmpegClip:
    """The first sound of a file; opened again for each use."""

    def __init__(self, data: bytes, container: str) -> None:
        self._data, self._container = data, container
        with _about_clip():
            self._measure()

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, AudioStream]]:
        import av

        with av.open(io.BytesIO(self._data), "r", format=self._container, options=_OPTIONS) as opened:
            if not opened.streams.audio:
                raise RecordError(f"{what_is(self._data)} without a supported sound", "audio-unsupported")
            stream = opened.streams.audio[0]
            context = stream.codec_context
            if context is None or context.name not in _DECODERS:
                name = context.name if context is not None else "unknown"
                raise RecordError(f"sound of the codec {name} is not supported", "audio-unsupported")
            context.thread_count = 1
            yield opened, stream

    def _measure(self) -> None:
        """Rate (headers may state half of it) and channels from the first frame; length from packets."""
        with self._open() as (opened, stream):
            check_sound(stream.codec_context.channels, stream.codec_context.sample_rate)
            frame = next(opened.decode(stream), None)
            if frame is None:
                raise RecordError("no samples were found in it", "audio-empty")
            self.rate, self.channels = frame.sample_rate, frame.layout.nb_channels
            check_sound(self.channels, self.rate)
        ticks = packets = 0
        with self._open() as (opened, stream):
            for packet in opened.demux(stream):
                ticks += max(0, packet.duration or 0)
                packets += 1
                if packets > _MAX_PACKETS:
                    raise RecordError(f"more than {_MAX_PACKETS} packets", "audio-too-complex")
            self.frames = int(ticks * _tick(stream) * self.rate)

    def read(self, start: int, length: int) -> Wave:
        with _about_clip():
            return self._read(start, length)

    def _read(self, start: int, length: int) -> Wave:
        held: list[Wave] = []
        heard: list[Wave] = []
        with self._open() as (opened, stream):
            for first, samples in self._decoded(opened, stream, start):
                wanted = samples[max(0, start - first) : max(0, start + length - first)]
                if held and (held[0].shape[1] != samples.shape[1] or sum(map(len, held)) > _HELD_SAMPLES):
                    heard.append(mono(np.concatenate(held)))
                    held = []
                held.append(wanted)
                if first + len(samples) >= start + length:
                    break
        if held:
            heard.append(mono(np.concatenate(held)))
        return joined(heard)

    def _decoded(self, opened: InputContainer, stream: AudioStream, start: int) -> Iterator[tuple[int, Wave]]:
        """Number of the first sample, and float32 [samples, channels], of frames from before `start` on."""
        tick = _tick(stream)
        origin: int | None = None  # a recording's sound may begin later than its picture
        place: int | None = None
        for packet in opened.demux(stream):
            if packet.pts is not None:
                origin = max(0, packet.pts) if origin is None else origin
                end_s = (packet.pts - origin + (packet.duration or 0)) * tick
                if start and end_s < start / self.rate - _PREROLL_S:
                    continue
            for frame in packet.decode():
                if frame.sample_rate != self.rate:
                    raise RecordError("its sample rate changes within", "audio-unsupported")
                if place is None:  # from here on counted: time stamps of a WebM are milliseconds
                    place = round(((frame.pts or 0) - (origin or 0)) * tick * self.rate) if start else 0
                yield place, _samples(frame)
                place += frame.samples


def _tick(stream: AudioStream) -> Fraction:
    return stream.time_base or Fraction(0)


def _samples(frame: AudioFrame) -> Wave:
    """Float32 [samples, channels] of a decoded frame, nominally within [-1, 1]."""
    values: npt.NDArray[Any] = frame.to_ndarray()
    by_channel = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    full_scale = 1.0 if values.dtype.kind == "f" else -float(np.iinfo(values.dtype).min)
    samples: Wave = by_channel.astype(np.float32)
    return samples / np.float32(full_scale)


@contextmanager
def _about_clip() -> Iterator[None]:
    """Like `about_record`, for FFmpeg's errors: they have the numbers of system errors.

    Its "Cannot allocate memory" is also about a size that the file claims: if memory is really missing,
    Python and numpy raise their own errors.
    """
    import av

    with about_record(*UNDECODABLE):
        try:
            yield
        except av.FFmpegError as e:
            what = (e.strerror or str(e)).splitlines()[0] if (e.strerror or str(e)) else type(e).__name__
            raise RecordError(f"{UNDECODABLE[0]}: {what}", UNDECODABLE[1]) from e
