"""Only a region of a clip is decoded; it is what the whole clip holds there, and silent beyond its ends."""

import numpy as np
import pytest
from support.damaged import wav_claiming_bytes
from support.media import encode_audio

from mmray.align import OutOfStep, Region
from mmray.errors import RecordError
from mmray.preprocess.audio import decode_audio, decode_region
from mmray.preprocess.spec import AudioSpec

YAMNET = AudioSpec()
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (64_000, 1)).astype(np.float32)  # 4 s


def hear(data, start_s, end_s, *, tolerance_s=0.0, sample_rate=None, spec=YAMNET):
    return decode_region(data, spec, 3_600, Region(start_s, end_s, tolerance_s, sample_rate))


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 0),
        ("FLAC", None, 0),
        ("AIFF", None, 0),
        ("OGG", "VORBIS", 1e-4),
        ("MP3", None, 0.02),
    ],
)
def test_a_region_is_what_the_whole_clip_holds_there(format, subtype, tolerance):
    data = encode_audio(NOISE, format=format, subtype=subtype)
    whole = decode_audio(data, YAMNET, 3_600)
    for start, end in ((0, 1), (0.5, 1.25), (2.71828, 3.14159), (3, len(whole) / 16_000)):
        first, last = round(start * 16_000), round(start * 16_000) + round((end - start) * 16_000)
        made = hear(data, start, end)
        assert made.missing_s == 0
        assert np.abs(made.wave - whole[first:last]).max() <= tolerance


def test_a_region_of_a_clip_at_another_rate_lasts_as_long():
    for rate in (8_000, 11_025, 44_100, 48_000):
        assert len(hear(encode_audio(NOISE, rate), 0.25, 1.0).wave) == pytest.approx(12_000, abs=1)


def test_no_region_is_the_clip_from_its_beginning():
    data = encode_audio(NOISE)
    assert np.array_equal(decode_region(data, YAMNET, 3_600, None).wave, decode_audio(data, YAMNET, 3_600))


@pytest.mark.parametrize(
    ("start", "end", "missing"), [(-0.2, 1, 0.2), (3.5, 4.2, 0.2), (-0.1, 4.2, 0.2), (-0.2, 4.1, 0.2)]
)
def test_what_lies_outside_the_clip_is_silent_within_the_tolerance(start, end, missing):
    data = encode_audio(NOISE)
    made = hear(data, start, end, tolerance_s=0.2)
    assert made.missing_s == pytest.approx(missing)
    assert len(made.wave) == round(16_000 * (end - start))
    padded = np.pad(decode_audio(data, YAMNET, 3_600), 8_000)
    first = round(16_000 * (start + 0.5))
    assert np.array_equal(made.wave, padded[first : first + len(made.wave)])
    with pytest.raises(OutOfStep, match=r"0\.200 s of the window are outside") as e:
        hear(data, start, end, tolerance_s=0.19)
    assert e.value.kind == "audio-out-of-step"


@pytest.mark.parametrize(("start", "end"), [(-2, 0), (-2, -1), (4, 5), (400, 401), (-1e10, 1 - 1e10)])
def test_a_clip_that_is_silent_throughout_is_out_of_step_whatever_is_tolerated(start, end):
    with pytest.raises(OutOfStep, match="none of them in the window"):
        hear(encode_audio(NOISE), start, end, tolerance_s=1e12)


def test_a_header_that_claims_more_than_is_there_is_not_believed():
    data = wav_claiming_bytes()  # half a second
    assert hear(data, 0.4, 0.7, tolerance_s=0.21).missing_s == pytest.approx(0.2)
    with pytest.raises(OutOfStep):
        hear(data, 0.4, 0.7, tolerance_s=0.19)
    data = encode_audio(NOISE, format="MP3")
    half = data[: len(data) // 2]
    made = hear(half, 1.5, 2.5, tolerance_s=0.7)
    assert 0.4 < made.missing_s < 0.7
    assert len(made.wave) == 16_000
    with pytest.raises(OutOfStep):
        hear(half, 1.5, 2.5, tolerance_s=0.4)


def test_only_the_region_is_decoded():
    """The second half of this FLAC is destroyed; its first second never notices."""
    data = encode_audio(NOISE, format="FLAC")
    data = data[: len(data) // 2]
    assert len(hear(data, 0.5, 1.0).wave) == 8_000
    with pytest.raises(RecordError) as e:
        hear(data, 3.0, 3.5)
    assert not isinstance(e.value, OutOfStep)


def test_a_recorder_that_runs_off_its_nominal_rate_is_heard_at_the_right_time():
    """After 100 s at 8,004 Hz, the header's 8,000 would look 50 ms too early."""
    wave = np.zeros((900_000, 1), np.float32)
    wave[800_400:800_440] = 0.5
    data = encode_audio(wave, 8_000)
    spec = AudioSpec(sample_rate=8_000, max_hz=3_900, window=200)
    assert np.abs(hear(data, 99.99, 100.01, sample_rate=8_004, spec=spec).wave).argmax() in range(75, 90)
    assert not np.abs(hear(data, 99.99, 100.01, spec=spec).wave).any()


def test_a_rate_that_contradicts_the_header_is_not_believed():
    with pytest.raises(OutOfStep) as e:
        hear(encode_audio(NOISE), 1, 2, sample_rate=44_100)
    assert e.value.kind == "times-contradict"


def test_no_more_is_decoded_than_the_model_looks_at():
    assert len(hear(encode_audio(NOISE), 1, 4, spec=AudioSpec(max_s=0.5)).wave) == 8_000
    with pytest.raises(OutOfStep):  # and silence counts as something to look at
        hear(encode_audio(NOISE), -1e6, 1, tolerance_s=1e9, spec=AudioSpec(max_s=0.5))
