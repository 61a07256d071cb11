"""Cuts, flashes and onsets are found where they are, and nothing else is."""

import numpy as np
import pytest

from mmray.align.detect import PictureEvents, SoundEvents

RATE = 16_000


def film(cuts, *, seconds=20.0, fps=25, lost=(), noise=4, flash_s=None):
    """Events of a noisy film whose ground changes at some times, for good or for a moment."""
    random, events = np.random.default_rng(0), PictureEvents()
    for number in range(int(seconds * fps)):
        at = number / fps
        last = max((cut for cut in cuts if cut <= at), default=None)
        lit = last is not None and (flash_s is None or at < last + flash_s)
        ground = (40 * sum(cut <= at for cut in cuts) if flash_s is None else 150 * lit) % 200
        frame = ground + 20 + random.integers(-noise, noise + 1, (24, 32, 3))
        if number not in lost:
            events.add(at, frame.astype(np.uint8))
    return events.train()


def tape(wave, *, chunk_s=1.0, start_s=0.0, lost=()):
    events = SoundEvents(RATE)
    size = int(chunk_s * RATE)
    for number in range(-(-len(wave) // size)):
        if number not in lost:
            events.add(
                start_s + number * chunk_s, wave[number * size : (number + 1) * size].astype(np.float32)
            )
    return events.train()


def hiss(seconds=20.0, level=0.002):
    return level * np.random.default_rng(1).standard_normal(int(seconds * RATE))


def with_bangs(wave, times, level=0.3):
    burst = level * np.random.default_rng(2).standard_normal(RATE // 5)
    for at in times:
        first = round(at * RATE)
        wave[first : first + len(burst)] += burst[: len(wave) - first]
    return wave


CUTS = (2.013, 5.5, 9.99, 14.321)


def test_a_cut_is_between_the_frames_before_and_after_it():
    train = film(CUTS)
    assert train.resolution_s == pytest.approx(0.04)
    assert np.abs(train.at_s - CUTS).max() <= 0.0201


def test_a_flash_is_one_event_when_it_goes_on():
    assert np.abs(film(CUTS, flash_s=0.1).at_s - CUTS).max() <= 0.0201


def test_a_cut_while_frames_were_lost_is_no_event():
    """Nobody knows when it happened."""
    assert len(film(CUTS, lost=range(50, 54)).at_s) == 3


@pytest.mark.parametrize("noise", [1, 15])
def test_noise_is_no_event(noise):
    assert len(film((), noise=noise).at_s) == 0


@pytest.mark.parametrize("frames", [0, 1])
def test_a_film_too_short_for_events_has_none(frames):
    assert len(film((), seconds=frames / 25).at_s) == 0


def test_an_onset_is_found_within_half_a_hop():
    times = np.arange(1, 19) + np.random.default_rng(4).uniform(0, 0.5, 18)
    assert np.abs(tape(with_bangs(hiss(), times)).at_s - times).max() <= 0.0051


@pytest.mark.parametrize("chunk_s", [0.25, 0.937, 7.0])
def test_an_onset_is_found_wherever_the_chunks_are_cut(chunk_s):
    times = (1.0071, 3.3333, 6.999, 12.5)
    train = tape(with_bangs(hiss(), times), chunk_s=chunk_s, start_s=100)
    assert train.resolution_s == 0.01
    assert np.abs(train.at_s - 100 - times).max() <= 0.0151  # a chunk's end shorter than a hop is not heard


def test_an_onset_is_found_beside_another_sound():
    """A steady low hum, and a beep two octaves above it that is softer."""
    at = np.arange(20 * RATE) / RATE
    wave = hiss() + 0.3 * np.sin(2 * np.pi * 150 * at) + 0.05 * np.sin(2 * np.pi * 1_800 * at) * (at > 7.5)
    assert np.abs(tape(wave).at_s - 7.5).max() <= 0.01


@pytest.mark.parametrize("level", [0, 1e-6, 0.01, 0.5])
def test_steady_noise_and_silence_have_no_onsets(level):
    assert len(tape(hiss(level=level)).at_s) == 0


def test_the_end_of_a_gap_is_no_onset():
    """It is louder than what was heard before the gap, but nobody knows since when."""
    wave = hiss(level=0.01)
    wave[6 * RATE :] *= 30
    assert len(tape(wave).at_s) == 1
    assert len(tape(wave, lost=(5, 6, 7)).at_s) == 0


def test_a_chunk_shorter_than_a_hop_and_no_chunk_at_all_have_no_onsets():
    assert len(tape(hiss(0.005)).at_s) == 0
    assert len(SoundEvents(RATE).train().at_s) == 0


@pytest.mark.parametrize("rate", [4_000, 8_000, 22_050, 48_000])
def test_any_rate_is_listened_to(rate):
    wave = 0.001 * np.random.default_rng(3).standard_normal(5 * rate)
    wave[2 * rate :] *= 300
    events = SoundEvents(rate)
    events.add(0.0, wave.astype(np.float32))
    assert np.abs(events.train().at_s - 2).max() <= 0.01
