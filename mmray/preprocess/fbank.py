"""Log-mel front ends of published audio transformers, equal to their own feature extractors.

A clip is one patch: the rest is ignored. Formulas: the extractors of the `transformers`
package (`ASTFeatureExtractor`, Gong et al. 2021, arXiv:2104.01778; `ClapFeatureExtractor` with `rand_trunc`
and `repeatpad`, Wu et al. 2022, arXiv:2211.06687), which follow Kaldi and librosa.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mmray.preprocess.spec import AudioSpec

Floats = npt.NDArray[np.float32]

_AST_PREEMPHASIS = 0.97
_AST_FLOOR = np.float32(2**-23)  # float32's epsilon, Kaldi's floor of an energy
_CLAP_FLOOR = np.float32(1e-10)


def ast_frames(wave: Floats, spec: AudioSpec) -> Floats:
    """Kaldi's filter bank: natural log of mel energies of pre-emphasized frames without their mean.

    Args:
        wave: float32 [samples] within [-1, 1].
        spec: sizes; `log_offset` and `patch_hop` have no part in it.

    Returns:
        float32 [patch_frames, mel_bins]. Frames beyond the end of the wave are 0, which is loud, not silent:
        the encoder was trained with that.
    """
    heard = wave[: spec.window + (spec.patch_frames - 1) * spec.hop]
    result = np.zeros((spec.patch_frames, spec.mel_bins), np.float32)
    if len(heard) < spec.window:
        return result
    frames = _frames(heard, spec)
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames - np.float32(_AST_PREEMPHASIS) * before
    frames *= np.hanning(spec.window).astype(np.float32)  # symmetric
    import scipy.fft  # .27 s, for those alone who hear

    energies = np.square(np.abs(scipy.fft.rfft(frames, spec.fft, axis=1))) @ _kaldi_filters(spec)
    result[: len(frames)] = np.log(np.maximum(energies, _AST_FLOOR))
    return result


def clap_frames(wave: Floats, spec: AudioSpec) -> Floats:
    """Decibels of mel energies of centred frames. A short clip is repeated while it fits whole, then padded.

    Args:
        wave: float32 [samples >= 1] within [-1, 1].
        spec: sizes, `window` equal to `fft`; `log_offset` and `patch_hop` have no part in it.

    Returns:
        float32 [patch_frames, mel_bins].
    """
    samples = (spec.patch_frames - 1) * spec.hop
    heard = np.zeros(samples, np.float32)
    repeats = max(1, samples // len(wave))
    repeated = np.tile(wave[:samples], repeats)
    heard[: len(repeated)] = repeated
    frames = _frames(np.pad(heard, spec.window // 2, mode="reflect"), spec)
    hann = np.hanning(spec.window + 1)[:-1].astype(np.float32)  # periodic
    import scipy.fft  # .27 s, for those alone who hear

    energies = np.square(np.abs(scipy.fft.rfft(frames * hann, axis=1))) @ _slaney_filters(spec)
    decibels: Floats = 10 * np.log10(np.maximum(energies, _CLAP_FLOOR))
    return decibels


def _frames(wave: Floats, spec: AudioSpec) -> Floats:
    """float32 [frames, window], one each `hop` samples."""
    return np.lib.stride_tricks.sliding_window_view(wave, spec.window)[:: spec.hop]


@lru_cache(maxsize=8)
def _kaldi_filters(spec: AudioSpec) -> Floats:
    """float32 [fft // 2 + 1, mel_bins]: triangles on Kaldi's mel scale, m = 1127 ln(1 + f / 700)."""
    bins = spec.sample_rate / spec.fft * np.arange(spec.fft // 2 + 1)
    mels = [1127.0 * np.log1p(np.asarray(hz) / 700.0) for hz in (bins, spec.min_hz, spec.max_hz)]
    return triangles(mels[0], np.linspace(mels[1], mels[2], spec.mel_bins + 2)).astype(np.float32)


@lru_cache(maxsize=8)
def _slaney_filters(spec: AudioSpec) -> Floats:
    """float32 [fft // 2 + 1, mel_bins]: triangles of equal area (Slaney 1998, "Auditory Toolbox").

    Their edges are evenly spaced on a scale that is linear to 1 kHz (15 mel) and logarithmic above.
    """
    step = np.log(6.4) / 27.0

    def mel(hz: float) -> float:
        return 3.0 * hz / 200.0 if hz < 1000.0 else 15.0 + float(np.log(hz / 1000.0)) / step

    mels = np.linspace(mel(spec.min_hz), mel(spec.max_hz), spec.mel_bins + 2)
    edges = np.where(mels < 15.0, 200.0 * mels / 3.0, 1000.0 * np.exp(step * (mels - 15.0)))
    bins = np.linspace(0, spec.sample_rate // 2, spec.fft // 2 + 1)
    return (triangles(bins, edges) * (2.0 / (edges[2:] - edges[:-2]))).astype(np.float32)


def triangles(bins: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[bins, filters]: each filter rises from its edge to 1 at the next, and falls to 0 at the one after."""
    slopes = edges[None] - bins[:, None]
    widths = np.diff(edges)
    up, down = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return np.maximum(0.0, np.minimum(up, down))
