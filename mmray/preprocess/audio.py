"""Bytes of one clip → float16 log-mel frames. Decodes only as far as the model will look."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from mmray.align import OutOfStep, Region
from mmray.errors import RecordError, about_record
from mmray.preprocess.fbank import ast_frames, clap_frames, triangles
from mmray.preprocess.spec import AudioSpec

Wave = npt.NDArray[np.float32]

# How the formats that records come in begin; libsndfile's other twenty parsers are attack surface. Of MP3, a
# frame's sync bits (ISO 11172-3, 2.4.1.3) or an ID3 tag.
_BEGINNINGS = re.compile(rb"RIFF|RIFX|RF64|OggS|fLaC|FORM....AIF[FC]|ID3|\xff[\xe2-\xff]", re.DOTALL)
_FORMATS = "WAV, Ogg, FLAC, AIFF, MP3"
_UNDECODABLE = ("cannot decode the audio", "audio-undecodable")

_MAX_CHANNELS = 16  # a header may claim 1,024
_STEP_SAMPLES = 4 << 20  # of all channels, that are decoded together: more than most clips have
_LOUDEST = 1e9  # float samples in the wrong byte order reach 3e38, whose spectrum overflows float32
_RATES = range(1_000, 384_001)  # Hz
_OFF_RATE = 0.01  # share that a recorder's true rate may be off its header's; real ones are within 0.0005


@dataclass(frozen=True)
class Excerpt:
    """What was decoded of a clip, and the longer of the two silences that had to be put in at its ends."""

    wave: Wave  # float32 [samples]
    missing_s: float = 0.0


def decode_audio(data: bytes, spec: AudioSpec, max_s: float) -> Wave:
    """Decode a clip to mono at the spec's sample rate.

    Args:
        data: an encoded clip (WAV, Ogg Vorbis or Opus, FLAC, AIFF or MP3).
        spec: sample rate, and how many seconds the model looks at; the rest is not decoded.
        max_s: refuse clips that claim to be longer, in seconds.

    Returns:
        float32 [samples], nominally within [-1, 1].

    Raises:
        RecordError: empty, unreadable, too long, or with samples that are not finite.
    """
    return decode_region(data, spec, max_s, None).wave


def decode_region(data: bytes, spec: AudioSpec, max_s: float, region: Region | None) -> Excerpt:
    """As `decode_audio`, but of a region: only that is decoded, and what lies outside the clip is silent.

    Raises:
        OutOfStep: all of the region lies outside the clip, or more than its tolerance allows.
        RecordError: as above.
    """
    if not data:
        raise RecordError("the audio member is empty", "audio-empty")
    if not _BEGINNINGS.match(data):
        raise RecordError(f"not audio of type {_FORMATS}", "audio-undecodable")
    with about_record(*_UNDECODABLE):
        clip = soundfile.SoundFile(io.BytesIO(data))
        rate, channels, seconds = clip.samplerate, clip.channels, clip.frames / clip.samplerate
    with clip:
        if seconds > max_s:
            raise RecordError(f"{seconds:.0f} s, more than limits.audio_s={max_s:g}", "audio-too-long")
        if channels > _MAX_CHANNELS or rate not in _RATES:
            raise RecordError(f"{channels} channels at {rate} Hz", "audio-unsupported")
        cut = _cut(region, clip.frames, rate, spec.max_s)
        with about_record(*_UNDECODABLE):
            if cut.start:
                clip.seek(cut.start)
            mono = _read_mono(clip, cut.length)
    if not len(mono):
        raise RecordError("the clip holds no samples", "audio-empty")
    if not np.abs(mono).max() <= _LOUDEST:  # also true for NaN
        reason = f"the clip holds samples that are not finite, or beyond {_LOUDEST:g}"
        raise RecordError(reason, "audio-not-finite")
    missing_s = 0.0
    if region:
        after = cut.after + cut.length - len(mono)  # a header may claim more than is there
        missing_s = max(cut.before, after) / rate
        if missing_s > region.tolerance_s:
            raise OutOfStep(f"{missing_s:.3f} s of the window lie outside the clip", "audio-out-of-step")
        mono = np.pad(mono, (cut.before, after))
    if rate != spec.sample_rate:
        with about_record("cannot resample the audio", "audio-undecodable"):
            mono = soxr.resample(mono, rate, spec.sample_rate, quality="HQ")
    return Excerpt(mono, missing_s)


def _read_mono(clip: soundfile.SoundFile, length: int) -> Wave:
    """Up to so many samples, in one channel; what all channels take together is never held for long."""
    step = _STEP_SAMPLES // clip.channels
    parts = []
    while length > 0:
        samples = clip.read(min(step, length), dtype="float32", always_2d=True)
        parts.append(_mono(samples))
        length -= len(samples)
        if len(samples) < step:
            break
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.zeros(0, np.float32)])


def _mono(samples: Wave) -> Wave:
    """Mean of the channels of float32 [samples, channels]; numpy's own is slow along so short an axis."""
    mono: Wave = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        mono += samples[:, channel]
    mono /= np.float32(samples.shape[1])
    return mono


class _Cut(NamedTuple):
    """What is read of a clip, and what is silent before and after it, in samples."""

    start: int
    length: int
    before: int = 0
    after: int = 0


def _cut(region: Region | None, frames: int, rate: int, max_s: float) -> _Cut:
    if region is None:
        return _Cut(0, min(frames, int(max_s * rate)))
    true_rate = region.sample_rate or rate
    if abs(true_rate / rate - 1) > _OFF_RATE:
        reason = f"times.audio.sample_rate is {true_rate:g} Hz, the clip's header says {rate}"
        raise OutOfStep(reason, "times-contradict")
    start = round(region.start_s * true_rate)
    end = start + min(round((region.end_s - region.start_s) * true_rate), int(max_s * rate))
    first, last = max(0, start), min(frames, end)
    if first >= last:
        raise OutOfStep(
            f"the clip lasts {frames / rate:.3f} s, none of them in the window", "audio-out-of-step"
        )
    return _Cut(first, last - first, first - start, end - last)


def log_mel(wave: Wave, spec: AudioSpec) -> npt.NDArray[np.float16]:
    """Log-mel frames that cover the whole wave in patches.

    The wave is padded with silence until its last patch is complete, as YAMNet's own `pad_waveform` does
    (tensorflow/models, research/audioset/yamnet/features.py).

    Args:
        wave: float32 [samples] at the spec's sample rate.
        spec: window, hop, mel scale and patches.

    Returns:
        float16 [patch_frames + k * patch_hop, mel_bins] for the smallest fitting k >= 0; of the other front
        ends [patch_frames, mel_bins].
    """
    if spec.frontend != "yamnet":
        one_patch = ast_frames if spec.frontend == "ast" else clap_frames
        return one_patch(wave, spec).astype(np.float16)
    first = spec.window + (spec.patch_frames - 1) * spec.hop
    patch_hop = spec.patch_hop * spec.hop
    hops = max(0, -(-(len(wave) - first) // patch_hop))
    padded = np.zeros(first + hops * patch_hop, np.float32)
    padded[: len(wave)] = wave
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.window)[:: spec.hop]
    hann, filters = _hann(spec.window), _mel_filters(spec)
    # scipy keeps float32 throughout.
    import scipy.fft  # .27 s, for those alone who hear

    spectrum = np.abs(scipy.fft.rfft(frames * hann, spec.fft, axis=1))
    frames_by_bins: npt.NDArray[np.float32] = np.log(spectrum @ filters + np.float32(spec.log_offset))
    return frames_by_bins.astype(np.float16)


@lru_cache(maxsize=8)
def _hann(window: int) -> Wave:
    """Periodic Hann window, float32 [window]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)


@lru_cache(maxsize=8)
def _mel_filters(spec: AudioSpec) -> Wave:
    """Triangular filters on the HTK mel scale, m = 2595 log10(1 + f / 700).

    Returns:
        float32 [fft // 2 + 1, mel_bins].
    """

    def mel(hz: float) -> float:
        return float(2595.0 * np.log10(1.0 + hz / 700.0))

    mels = np.linspace(mel(spec.min_hz), mel(spec.max_hz), spec.mel_bins + 2)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)  # Hz
    bins = np.linspace(0.0, spec.sample_rate / 2, spec.fft // 2 + 1)
    return triangles(bins, edges).astype(np.float32)
