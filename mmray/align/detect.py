"""Detects events for comparing clocks: cuts and flashes in pictures, onsets in sounds.

Both detectors take a stream piece by piece, keep a few bytes for each frame or hop, and return the events at
the end. They are simple on purpose: a missed or false event affects the comparison little.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from mmray.align.clock import Array, Train

HOP_S = 0.01  # bins of 100 Hz are enough to separate the bands
_BANDS_HZ = (100, 400, 1_200, 3_000, 8_000)  # edges: voices, beeps and bangs are loud in different ones
_SILENCE = 1e-7  # mean power of a band that counts as silence, 70 dB below full scale
_CONTEXT = 10  # earlier hops that an onset must exceed
_LEAST_CHANGE = 2.0  # grey levels; sensor noise is below
_LEAST_RISE = 3.0  # nepers of power, all bands together; steady noise rises by 1 by chance
_OUTSTANDING = 6.0  # median deviations above the median
_LEAST_GAP_S = 0.2  # a later event within this time belongs to the same one: a flash goes on and off


class PictureEvents:
    """Cuts and flashes: where a frame differs much from the one before it.

    An event is between two frames, so its time is their middle and its resolution their distance.
    """

    def __init__(self) -> None:
        self._at_s, self._change = array("d"), array("d")
        self._before: npt.NDArray[np.int16] | None = None

    def add(self, at_s: float, pixels: npt.NDArray[np.uint8]) -> None:
        """Take the next frame in time: uint8 [height, width, 3], small, and of one size throughout."""
        frame = pixels.astype(np.int16)
        if self._before is not None:
            self._change.append(float(np.abs(frame - self._before).mean()))
        self._at_s.append(at_s)
        self._before = frame

    def train(self) -> Train:
        """Events of all frames so far."""
        at, change = np.array(self._at_s), np.array(self._change)
        if len(at) < 2:
            return Train(at[:0])
        distance = np.diff(at)
        usual = float(np.median(distance))
        change[distance > 1.5 * usual] = 0.0  # frames were lost, so the time of the event is unknown
        return Train(_outstanding((at[:-1] + at[1:]) / 2, change, _LEAST_CHANGE), usual)


class SoundEvents:
    """Onsets: where some bands are suddenly louder than they were for a tenth of a second.

    This is spectral flux (Bello et al. 2005, IEEE Trans. Speech and Audio Processing 13) of log
    power in four bands, against the loudest of the hops before instead of the last one.

    Args:
        sample_rate: of all waves, in Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._hop = round(HOP_S * sample_rate)
        hz = np.fft.rfftfreq(self._hop, 1 / sample_rate)
        self._edges = np.searchsorted(hz, [f for f in _BANDS_HZ if f <= sample_rate / 2])
        self._hop_s = self._hop / sample_rate
        self._context = np.zeros((0, len(self._edges) - 1))
        self._end_s = -np.inf
        self._at_s: list[Array] = []
        self._rise: list[Array] = []

    def add(self, start_s: float, wave: npt.NDArray[np.float32]) -> None:
        """Take the next chunk: float32 [samples], the first of them recorded at `start_s`."""
        hops = len(wave) // self._hop
        if not hops:
            return
        frames = wave[: hops * self._hop].reshape(hops, self._hop)
        power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / self._hop**2
        bands = np.add.reduceat(power, self._edges, axis=1)[:, : len(self._edges) - 1]
        loud = np.log(bands + _SILENCE)
        if not abs(start_s - self._end_s) < _LEAST_GAP_S:  # a gap: the samples before it are of no use
            self._context = np.repeat(loud[:1], _CONTEXT, axis=0)
        known = np.concatenate([self._context, loud])
        before = np.lib.stride_tricks.sliding_window_view(known[:-1], _CONTEXT, axis=0).max(axis=2)
        rise: Array = np.maximum(0.0, loud - before).sum(axis=1)
        self._rise.append(rise)
        at: Array = start_s + np.arange(0.5, hops, dtype=np.float64) * self._hop_s
        self._at_s.append(at)
        self._context, self._end_s = known[-_CONTEXT:], start_s + len(wave) / self._hop * self._hop_s

    def train(self) -> Train:
        """Onsets of all chunks so far."""
        if not self._at_s:
            return Train(np.zeros(0))
        at, rise = np.concatenate(self._at_s), np.concatenate(self._rise)
        return Train(_outstanding(at, rise, _LEAST_RISE), self._hop_s)


def _outstanding(at_s: Array, strength: Array, least: float) -> Array:
    """Times at which the strength exceeds the rest, and did not just before."""
    middle = np.median(strength)
    spread = np.median(np.abs(strength - middle))
    found = at_s[strength > max(least, float(middle + _OUTSTANDING * spread))]
    return found[np.diff(found, prepend=-np.inf) >= _LEAST_GAP_S]
