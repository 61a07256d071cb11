"""Any clip becomes mono at the model's rate, and its log-mel frames are those of the formula."""

import re
import tracemalloc

import numpy as np
import pytest
from support.damaged import (
    empty_wav,
    flac_claiming_hours,
    garbage,
    loud_wav,
    many_channels_wav,
    nan_wav,
    wav_claiming_bytes,
    wav_claiming_hours,
)
from support.media import clip, encode_audio, tone

from mmray.errors import RecordError
from mmray.preprocess.audio import decode_audio, log_mel
from mmray.preprocess.spec import AudioSpec

YAMNET = AudioSpec()
SMALL = AudioSpec(
    sample_rate=8_000,
    window=200,
    hop=80,
    fft=256,
    mel_bins=20,
    min_hz=60,
    max_hz=3_800,
    patch_frames=10,
    patch_hop=4,
)


def decode(data, spec=YAMNET, max_s=3600.0):
    wave = decode_audio(data, spec, max_s)
    assert wave.ndim == 1
    assert wave.dtype == np.float32
    return wave


def pitch(wave, rate):
    """The loudest frequency in Hz."""
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * rate / len(wave)


@pytest.mark.parametrize(
    ("format", "rate", "channels"),
    [
        *(("WAV", rate, 1) for rate in (1_000, 5_000, 11_025, 16_000, 44_100, 48_000, 192_000, 384_000)),
        *(("WAV", 22_050, channels) for channels in (2, 6, 16)),
        *((format, 44_100, 2) for format in ("FLAC", "OGG", "MP3", "AIFF")),
    ],
)
def test_every_rate_format_and_number_of_channels_becomes_mono_at_the_models_rate(format, rate, channels):
    wave = decode(clip(format, seconds=0.5, rate=rate, hz=300, channels=channels))
    assert len(wave) == pytest.approx(8_000, rel=0.15)  # MP3 and Vorbis pad
    assert pitch(wave, 16_000) == pytest.approx(300, abs=4)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_every_sample_type_of_wav_comes_out_alike(subtype):
    wave = tone(seconds=0.2)
    decoded = decode(encode_audio(wave, subtype=subtype))
    assert np.abs(decoded[: len(wave)] - wave[:, 0]).max() < 0.06


def test_opus_is_read():
    wave = decode(encode_audio(tone(0.5, 48_000, hz=300), 48_000, "OGG", "OPUS"))
    assert pitch(wave, 16_000) == pytest.approx(300, abs=4)


def test_channels_are_averaged():
    wave = tone(seconds=0.1)
    assert np.allclose(decode(encode_audio(np.hstack([wave, 0 * wave]))), wave[:, 0] / 2, atol=1e-4)


@pytest.mark.parametrize("other", [-1, -0.99])
def test_channels_that_cancel_each_other_out_are_no_silence(other):
    wave = tone(seconds=0.5)
    assert np.allclose(decode(encode_audio(np.hstack([wave, other * wave]))), wave[:, 0], atol=1e-3)


@pytest.mark.parametrize("peak", [17, 32_767, 8e6])
def test_floats_that_were_scaled_as_integers_are_refused(peak):
    """By which factor is not said, and the model would hear noise."""
    with pytest.raises(RecordError, match="full scale") as e:
        decode(encode_audio(tone(level=peak), subtype="FLOAT"))
    assert e.value.kind == "audio-not-scaled"
    assert np.abs(decode(encode_audio(tone(level=4), subtype="FLOAT"))).max() == pytest.approx(4, abs=0.1)


def test_resampling_keeps_loudness_and_drops_what_the_new_rate_cannot_hold():
    low, high = (decode(clip(seconds=0.5, rate=48_000, hz=hz, level=0.5))[500:-500] for hz in (440, 15_000))
    assert np.abs(low).max() == pytest.approx(0.5, abs=0.01)
    assert np.abs(high).max() < 0.01


def test_no_more_is_decoded_than_the_model_looks_at():
    """The second half of this FLAC is destroyed; a model that looks at one second never gets there."""
    data = encode_audio(np.random.default_rng(0).uniform(-0.5, 0.5, (64_000, 1)), format="FLAC")
    data = data[: len(data) // 2]
    wave = decode(data, AudioSpec(max_s=1))
    assert len(wave) == 16_000
    with pytest.raises(RecordError):
        decode(data, AudioSpec(max_s=4))


def test_max_s_counts_seconds_at_any_rate():
    assert len(decode(clip(seconds=3, rate=44_100), AudioSpec(max_s=1.5))) == pytest.approx(24_000, abs=2)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (bytes, "audio-empty"),
        (empty_wav, "audio-empty"),
        (garbage, "audio-undecodable"),
        (lambda: clip("OGG")[:200], "audio-undecodable"),
        (lambda: clip("FLAC", seconds=1)[:2000], "audio-undecodable"),
        (lambda: clip("WAV")[:30], "audio-undecodable"),
        (wav_claiming_hours, "audio-too-long"),
        (flac_claiming_hours, "audio-too-long"),
        (nan_wav, "audio-not-finite"),
        (lambda: encode_audio(np.full((100, 1), np.inf), subtype="DOUBLE"), "audio-not-finite"),
        (loud_wav, "audio-not-finite"),
        (many_channels_wav, "audio-unsupported"),
        (lambda: clip(rate=500), "audio-unsupported"),
        (lambda: clip(seconds=0.001, rate=500_000), "audio-unsupported"),
    ],
)
@pytest.mark.timeout(20)
def test_what_cannot_be_used_is_refused_by_kind_and_with_the_same_words_each_time(make, kind):
    reasons = set()
    for _ in range(2):
        with pytest.raises(RecordError) as e:
            decode(make())
        assert e.value.kind == kind
        reasons.add(e.value.reason)
    assert len(reasons) == 1
    assert not re.search("0x[0-9a-f]{6}", reasons.pop())


def test_the_limit_is_on_what_the_header_claims_and_inclusive():
    assert len(decode(clip(seconds=2), max_s=2.0)) == 32_000
    with pytest.raises(RecordError, match=r"more than limits\.audio_s=1\.9"):
        decode(clip(seconds=2), max_s=1.9)


def test_a_header_that_claims_more_than_is_there_gives_what_is_there():
    assert len(decode(wav_claiming_bytes())) == 8_000
    with pytest.raises(RecordError):  # libsndfile refuses to seek in this one; a fault, not a crash
        decode(flac_claiming_hours(), max_s=1e9)


def by_hand(wave, spec):
    """The formula, frame by frame, in float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window) / spec.window)
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (spec.min_hz, spec.max_hz))
    edges = 700 * (10 ** (np.linspace(low, high, spec.mel_bins + 2) / 2595) - 1)
    bins = np.arange(spec.fft // 2 + 1) * spec.sample_rate / spec.fft
    filters = np.stack([np.interp(bins, edges[i : i + 3], [0, 1, 0]) for i in range(spec.mel_bins)], axis=1)
    frames = []
    for start in range(0, len(wave) - spec.window + 1, spec.hop):
        spectrum = np.abs(
            np.fft.rfft(wave[start : start + spec.window].astype(np.float64) * window, spec.fft)
        )
        frames.append(np.log(spectrum @ filters + spec.log_offset))
    return np.array(frames)


@pytest.mark.parametrize("spec", [YAMNET, SMALL], ids=["yamnet", "small"])
@pytest.mark.parametrize("what", ["noise", "tone", "click", "quiet"])
def test_log_mel_is_the_formula(spec, what):
    random = np.random.default_rng(1)
    size = spec.window + (spec.patch_frames + 3 * spec.patch_hop - 1) * spec.hop
    wave = {
        "noise": random.uniform(-1, 1, size),
        "tone": np.sin(np.arange(size) * 0.3),
        "click": np.eye(1, size, size // 2)[0],
        "quiet": random.uniform(-1e-4, 1e-4, size),
    }[what].astype(np.float32)
    got = log_mel(wave, spec)
    assert got.dtype == np.float16
    expected = by_hand(wave, spec)
    assert got.shape == expected.shape
    # float16 has steps of up to 0.004 here; beside a loud tone, float32 leaves noise in the quiet bins.
    assert np.abs(got - expected).max() < (0.02 if what == "tone" else 0.006)


@pytest.mark.parametrize(
    "spec", [YAMNET, SMALL, AudioSpec(patch_frames=5, patch_hop=9)], ids=["yamnet", "small", "gaps"]
)
def test_frames_are_the_fewest_whole_patches_that_cover_the_wave(spec):
    for size in (0, 1, spec.window, 15_599, 15_600, 15_601, 16_000, 23_280, 23_281, 100_000):
        frames, bins = log_mel(np.zeros(size, np.float32), spec).shape
        assert bins == spec.mel_bins
        hops, rest = divmod(frames - spec.patch_frames, spec.patch_hop)
        assert rest == 0
        assert spec.window + (frames - 1) * spec.hop >= size
        assert hops == 0 or spec.window + (frames - spec.patch_hop - 1) * spec.hop < size


def test_a_yamnet_patch_is_975_milliseconds():
    assert [len(log_mel(np.zeros(size, np.float32), YAMNET)) for size in (15_600, 15_601)] == [96, 144]


def test_silence_and_padding_are_the_logarithm_of_the_offset():
    assert np.allclose(log_mel(np.zeros(4_000, np.float32), YAMNET), np.log(0.001), atol=0.004)
    padded = log_mel(tone(seconds=0.1)[:, 0], YAMNET)
    assert np.allclose(padded[12:], np.log(0.001), atol=0.004)
    assert (padded[:8].max(axis=1) > 0).all()


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_clip_of_one_sample_is_a_patch(rate):
    data = encode_audio(np.ones((1, 1)) / 2, rate)
    assert log_mel(decode(data), YAMNET).shape == (96, 64)


def test_the_loudest_sound_that_is_allowed_gives_finite_frames():
    assert np.isfinite(log_mel(np.full(16_000, 1e9, np.float32), YAMNET)).all()


def test_many_channels_are_mixed_as_they_are_decoded():
    """Silence of many channels packs to nothing: a small clip would take hundreds of megabytes."""
    rate, seconds, channels = 48_000, 40, 8
    data = encode_audio(np.zeros((rate * seconds, channels), np.float32), rate, format="FLAC")
    assert len(data) < 1 << 20
    spec = YAMNET.model_copy(update={"max_s": float(seconds), "sample_rate": rate})
    tracemalloc.start()
    wave = decode(data, spec)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(wave) == rate * seconds
    assert peak_bytes < 4 * rate * seconds * channels / 1.5  # what all the samples together have as float32
