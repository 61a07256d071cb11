"""Samples of a clip from any decoder: interface and limits."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from mmray.errors import RecordError

Wave = npt.NDArray[np.float32]
UNDECODABLE = ("cannot decode the audio", "audio-undecodable")
MAX_CHANNELS = 16  # a header may claim 1,024
RATES = range(1_000, 384_001)  # Hz
# Energy of the channels' mean as a share of their energies' mean: 1 if they are equal, 1/n if uncorrelated.
_CANCELLED = 1e-3
_LOOKED_AT = 512  # samples, spread evenly: using all would cost as much as the mean


class Clip(Protocol):
    """Sound of known rate and length."""

    rate: int
    channels: int
    frames: int

    def read(self, start: int, length: int) -> Wave:
        """Float32 [samples] of the mean of the channels, up to `length` of them from sample `start` on."""


def check_sound(channels: int, rate: int) -> None:
    """Refuse implausible values.

    Raises:
        RecordError: too many channels, or an impossible rate.
    """
    if channels > MAX_CHANNELS or rate not in RATES:
        raise RecordError(f"{channels} channels at {rate} Hz", "audio-unsupported")


def joined(parts: list[Wave]) -> Wave:
    """One after the other."""
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.zeros(0, np.float32)])


def mono(samples: Wave) -> Wave:
    """Mean of the channels of float32 [samples, channels]; numpy's own is slow along such a short axis.

    If the channels cancel each other out (for example by a wrong cable), the mean would be silence: then the
    loudest channel is used.
    """
    mean: Wave = samples[:, 0].copy()
    channels = samples.shape[1]
    if channels == 1:
        return mean
    for channel in range(1, channels):
        mean += samples[:, channel]
    mean /= np.float32(channels)
    every = max(1, len(samples) // _LOOKED_AT)
    few, left = samples[::every], mean[::every]
    if np.vdot(left, left) < _CANCELLED * np.vdot(few, few) / channels:
        mean = samples[:, int(np.square(few).sum(axis=0).argmax())].copy()
    return mean
