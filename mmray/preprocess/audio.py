"""Bytes of one clip → float16 log-mel frames. Decodes only as far as the model will look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soxr

from mmray.align import OutOfStep, Region
from mmray.errors import RecordError, about_record
from mmray.magic import what_is
from mmray.preprocess.clip import open_clip
from mmray.preprocess.fbank import ast_frames, clap_frames, triangles
from mmray.preprocess.spec import AudioSpec
from mmray.preprocess.wave import Wave as Wave
from mmray.preprocess.wave import check_sound

_LOUDEST = 1e9  # float samples in the wrong byte order reach 3e38, whose spectrum overflows float32
# Float samples are nominally within 1, and no mix exceeds that by 24 dB. Larger ones were scaled like
# integers by an unknown factor: a quiet clip of 24 bits looks like a loud one of 16.
_OVER_FULL_SCALE = 16.0
_OFF_RATE = 0.01  # maximum relative error of a header's sample rate; real ones are within 0.0005


@dataclass(frozen=True)
class Excerpt:
    """Decoded samples of a clip, and the longer of the two silences that were added at its ends."""

    wave: Wave  # float32 [samples]
    missing_s: float = 0.0


def decode_audio(data: bytes, spec: AudioSpec, max_s: float) -> Wave:
    """Decode a clip to mono at the spec's sample rate.

    Args:
        data: an encoded clip (WAV, Ogg Vorbis or Opus, FLAC, AIFF, AU or MP3; with the extra `media` also
            AAC and the sound of M4A, MP4 and WebM), detected by its bytes, not by its name.
        spec: sample rate, and how many seconds the model looks at; the rest is not decoded.
        max_s: refuse clips that are longer, in seconds: by their full length, not the decoded part.

    Returns:
        float32 [samples], nominally within [-1, 1].

    Raises:
        RecordError: empty, unreadable, too long, with samples that are not finite or far beyond full
            scale; or not a clip, then the reason says what it is.
    """
    return decode_region(data, spec, max_s, None).wave


def decode_region(data: bytes, spec: AudioSpec, max_s: float, region: Region | None) -> Excerpt:
    """Like `decode_audio`, for a region: only that is decoded, and parts outside the clip are silent.

    Raises:
        OutOfStep: the whole region is outside the clip, or more of it than the tolerance allows.
        RecordError: as above.
    """
    if not data:
        raise RecordError("the audio member is empty", "audio-empty")
    clip = open_clip(data)
    rate, seconds = clip.rate, clip.frames / clip.rate
    if seconds > max_s:
        raise RecordError(f"{seconds:.0f} s, more than limits.audio_s={max_s:g}", "audio-too-long")
    check_sound(clip.channels, rate)
    cut = _cut(region, clip.frames, rate, spec.max_s)
    mono = clip.read(cut.start, cut.length)
    if not len(mono):
        raise RecordError(f"no samples were found in it: {what_is(data)}", "audio-empty")
    _check_loudness(float(np.abs(mono).max()))
    missing_s = 0.0
    if region:
        after = cut.after + cut.length - len(mono)  # a header may claim more than the file has
        missing_s = max(cut.before, after) / rate
        if missing_s > region.tolerance_s:
            raise OutOfStep(f"{missing_s:.3f} s of the window are outside the clip", "audio-out-of-step")
        mono = np.pad(mono, (cut.before, after))
    if rate != spec.sample_rate:
        with about_record("cannot resample the audio", "audio-undecodable"):
            mono = soxr.resample(mono, rate, spec.sample_rate, quality="HQ")
    return Excerpt(mono, missing_s)


def _check_loudness(peak: float) -> None:
    if not peak <= _LOUDEST:  # also true for NaN
        reason = f"the clip has samples that are not finite, or beyond {_LOUDEST:g}"
        raise RecordError(reason, "audio-not-finite")
    if peak > _OVER_FULL_SCALE:
        reason = f"float samples up to {peak:.0f}, where 1 is full scale: divide them (by 32768, of 16 bits)"
        raise RecordError(reason, "audio-not-scaled")


class _Cut(NamedTuple):
    """The part of a clip to read, and the silence before and after it, in samples."""

    start: int
    length: int
    before: int = 0
    after: int = 0


def _cut(region: Region | None, frames: int, rate: int, max_s: float) -> _Cut:
    if region is None:
        return _Cut(0, min(frames, int(max_s * rate)))
    true_rate = region.sample_rate or rate
    if abs(true_rate / rate - 1) > _OFF_RATE:
        reason = f"times.audio.sample_rate is {true_rate:g} Hz, but the clip's header has {rate}"
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
