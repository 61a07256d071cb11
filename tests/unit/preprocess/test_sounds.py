"""A sound is what its bytes are, and it is read to its true end, whatever its header says or leaves out."""

import io
import resource
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from support.damaged import garbage
from support.media import clip, encode_audio, encode_av, id3, image_bytes, tone, unfinished

from mmray.align import Region
from mmray.errors import RecordError
from mmray.preprocess.audio import decode_audio, decode_region
from mmray.preprocess.clip import open_clip
from mmray.preprocess.spec import AudioSpec

LONG = AudioSpec(max_s=600)
RATE = 16_000


def decode(data, max_s=3_600.0, spec=LONG):
    return decode_audio(data, spec, max_s)


def two_tones(rate=44_100, seconds=1.0):
    return [tone(seconds, rate, hz=hz, level=0.3) for hz in (440, 1_760)]


def pitch(wave):
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * RATE / len(wave)


def noisy_mp3(quiet_first, **options):
    """An MP3 of variable rate whose first second is far from its mean."""
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (44_100 * 6, 1)).astype(np.float32)
    silence = np.zeros((44_100 * 6, 1), np.float32)
    parts = (silence[:44_100], noise) if quiet_first else (noise[:44_100], silence)
    # Two encodings at their own constant rates, which is what a variable rate comes to.
    options = {"write_xing": "0", "id3v2_version": "0", **options}
    return b"".join(
        encode_av(part, 44_100, "mp3", "libmp3lame", bit_rate=rate, **options)
        for part, rate in zip(parts, (32_000, 320_000) if quiet_first else (320_000, 32_000), strict=True)
    )


def mp3(seconds=1.0, **options):
    return encode_av(tone(seconds, 44_100), 44_100, "mp3", "libmp3lame", bit_rate=64_000, **options)


BARE = {"write_xing": "0", "id3v2_version": "0"}


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chained_ogg_is_read_to_its_end(subtype):
    tones = two_tones(48_000)
    links = [encode_audio(wave, 48_000, "OGG", subtype) for wave in tones]
    whole = decode(b"".join(links))
    apart = np.concatenate([decode(link) for link in links])
    assert len(whole) == len(apart) == 32_000
    # Resampled together there is no edge at the seam; away from it nothing differs.
    off = np.abs(whole - apart)
    off[15_900:16_100] = 0
    assert off.max() < 1e-4
    assert pitch(whole[:16_000]) == pytest.approx(440, abs=2)
    assert pitch(whole[16_000:]) == pytest.approx(1_760, abs=2)


def test_the_links_of_a_chain_may_differ_in_rate_and_channels():
    first, second = two_tones(44_100)[0], np.repeat(two_tones(22_050)[1], 2, axis=1)
    whole = decode(encode_audio(first, 44_100, "OGG") + encode_audio(second, 22_050, "OGG"))
    assert len(whole) == 32_000
    assert pitch(whole[17_000:31_000]) == pytest.approx(1_760, abs=2)
    assert np.abs(whole[17_000:31_000]).max() == pytest.approx(0.3, abs=0.02)


def test_a_region_is_found_in_any_link():
    data = b"".join(encode_audio(wave, 44_100, "OGG") for wave in two_tones())
    whole = decode(data)
    for start, end in ((0.2, 0.6), (0.8, 1.3), (1.2, 1.9)):
        cut = decode_region(data, LONG, 60, Region(start, end, 0)).wave
        expected = whole[round(start * RATE) : round(end * RATE)]
        assert len(cut) == len(expected)
        assert np.abs(cut - expected)[200:-200].max() < 1e-3


def broken_second_link(kind):
    first, second = (encode_audio(wave, 44_100, "OGG") for wave in two_tones())
    cut = second.rindex(b"OggS")
    return (
        first
        + {
            "headers only": second[:cut],
            "cut in its headers": second[:500],
            "no sound": second[:cut] + second[cut : cut + 60] + bytes(len(second) - cut - 60),
        }[kind]
    )


@pytest.mark.parametrize("kind", ["headers only", "cut in its headers", "no sound"])
def test_a_chain_whose_second_link_is_broken_is_refused(kind):
    with pytest.raises(RecordError) as e:
        decode(broken_second_link(kind))
    assert e.value.kind == "audio-undecodable"


def test_a_vorbis_without_sound_that_is_sought_in_ends_no_process():
    """libsndfile died of this seek."""
    data = encode_audio(tone(0.2, 8_000), 8_000, "OGG")
    page = data.rindex(b"OggS")
    table = page + 27
    data = data[:table] + bytes(data[page + 26]) + data[table + data[page + 26] :]
    script = """
import sys
from mmray.align import Region
from mmray.errors import RecordError
from mmray.preprocess.audio import decode_region
from mmray.preprocess.spec import AudioSpec
try:
    decode_region(sys.stdin.buffer.read(), AudioSpec(), 60, Region(0.05, 0.1, 1))
except RecordError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"refused\n"


@pytest.mark.parametrize("quiet_first", [True, False])
def test_an_mp3_of_variable_rate_without_a_length_is_read_to_its_end(quiet_first):
    data = noisy_mp3(quiet_first)
    assert len(decode(data)) / RATE == pytest.approx(7, abs=0.15)
    assert len(decode(data, max_s=7.3)) > 0
    with pytest.raises(RecordError, match=r"limits\.audio_s") as e:
        decode(data, max_s=6.5)
    assert e.value.kind == "audio-too-long"


@pytest.mark.parametrize("options", [{}, BARE], ids=["with Xing", "without"])
def test_mp3s_in_one_file_are_all_heard(options):
    one, two = mp3(1.0, **options), mp3(2.0, **options)
    assert len(decode(one + two + one)) / RATE == pytest.approx(4, abs=0.25)
    assert len(decode(one + bytes(3_000) + two)) / RATE == pytest.approx(3, abs=0.2)


def test_an_mp3_that_states_its_length_is_given_to_libsndfile_as_it_is():
    data = mp3(1.0)
    assert len(decode(data)) == RATE
    assert len(decode(data + b"TAG" + bytes(125))) == RATE


@pytest.mark.parametrize(
    "make",
    {
        "starts within a frame": lambda: mp3(2.0, **BARE)[700:],
        "zeros first": lambda: bytes(512) + mp3(2.0, **BARE),
        "an ID3 tag first": lambda: id3() + mp3(2.0, **BARE),
        "a wrong ID3 tag first": lambda: b"ID3\3\0\0\x7f\x7f\x7f\x7f" + bytes(90) + mp3(2.0, **BARE),
        "junk first": lambda: garbage(2_000) + mp3(2.0, **BARE),
        "an APE tag last": lambda: mp3(2.0, **BARE) + b"APETAGEX" + bytes(500),
        "a newline first": lambda: b"\r\n" + clip(seconds=2),
        "FLAC after ID3": lambda: id3() + clip("FLAC", seconds=2),
        "RIFF after ID3": lambda: id3() + clip(seconds=2),
        "AU": lambda: clip("AU", seconds=2),
        "M4A": lambda: encode_av(tone(2), RATE, "ipod", "aac"),
        "M4A of ALAC": lambda: encode_av(tone(2), RATE, "ipod", "alac"),
        "M4A in fragments": lambda: encode_av(
            tone(2), RATE, "mp4", "aac", piped=True, movflags="frag_keyframe+empty_moov"
        ),
        "AAC": lambda: encode_av(tone(2), RATE, "adts", "aac"),
        "WebM": lambda: encode_av(tone(2, 48_000), 48_000, "webm", "libopus"),
        "WebM as a browser records it": lambda: encode_av(
            tone(2, 48_000), 48_000, "webm", "libopus", piped=True
        ),
        "stereo MKA": lambda: encode_av(tone(2, 48_000, channels=2), 48_000, "matroska", "libopus"),
        "FLAC of unknown length": lambda: encode_av(tone(2), RATE, "flac", "flac", piped=True),
        "FLACs in one file": lambda: 2 * clip("FLAC", seconds=1),
        "WAV of 0 bytes": lambda: unfinished(clip(seconds=2)),
        "WAV of 4 GiB": lambda: encode_av(tone(2), RATE, "wav", "pcm_s16le", piped=True),
        "A-law": lambda: encode_audio(tone(2), subtype="ALAW"),
        "IMA ADPCM": lambda: encode_audio(tone(2), subtype="IMA_ADPCM"),
        "GSM": lambda: encode_audio(tone(2, 8_000), 8_000, subtype="GSM610"),
        "MP3 in a WAV": lambda: encode_av(tone(2), RATE, "wav", "libmp3lame", bit_rate=64_000),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_sound_is_read_by_its_bytes_and_its_data(make):
    """Each lasts two seconds, but for what was cut off, and what encoders pad."""
    wave = decode(make[1]())
    assert len(wave) / RATE == pytest.approx(2, abs=0.15)
    assert pitch(wave) == pytest.approx(440, abs=3)
    assert np.abs(wave[4_000:-6_000]).max() > 0.3


def test_the_length_of_a_flac_is_that_of_its_last_frame():
    for rate, samples in ((16_000, 4_096), (16_000, 32_001), (48_000, 30_000)):
        wave = tone(samples / rate, rate)
        assert open_clip(encode_av(wave, rate, "flac", "flac", piped=True)).frames == len(wave)


@pytest.mark.parametrize(
    "data",
    [encode_av(tone(3), RATE, "ipod", "aac"), encode_av(tone(3, 48_000), 48_000, "webm", "libopus")],
    ids=["m4a", "webm"],
)
def test_a_region_of_what_ffmpeg_reads_is_where_it_is_in_the_whole(data):
    whole = decode(data)
    for start, end in ((0.0, 0.5), (0.7, 1.2), (1.9, 2.9)):
        cut = decode_region(data, LONG, 60, Region(start, end, 0.05)).wave
        expected = whole[round(start * RATE) : round(end * RATE)]
        assert len(cut) == len(expected)
        # A WebM counts in milliseconds, so that it may be off by half of one.
        lag = np.correlate(expected[500:-500], cut[480:-480], "valid").argmax() - 20 if start else 0
        assert abs(lag) <= 9
    assert len(decode(data, spec=AudioSpec(max_s=0.5))) == 8_000


def test_the_length_of_an_m4a_counts_all_of_it():
    data = encode_av(tone(3), RATE, "ipod", "aac")
    assert len(decode(data, max_s=3.2, spec=AudioSpec(max_s=1))) == RATE
    with pytest.raises(RecordError, match=r"limits\.audio_s"):
        decode(data, max_s=2.5, spec=AudioSpec(max_s=1))


def patched(data, box, place, value):
    at = data.index(box) + 4 + place
    return data[:at] + struct.pack(">I", value) + data[at + 4 :]


def bombs():
    """Small files that claim millions of packets, or a day."""
    m4a = encode_av(tone(0.2), RATE, "ipod", "aac")
    fragments = encode_av(tone(0.2), RATE, "mp4", "aac", piped=True, movflags="frag_keyframe+empty_moov")
    constant = patched(patched(m4a, b"stsz", 4, 1), b"stsz", 8, 0x0FFFFFFF)
    return {
        "stsz": constant,
        "stts": patched(m4a, b"stts", 8, 0x0FFFFFFF),
        "trun": patched(fragments, b"trun", 4, 0x0FFFFFFF),
        "a day": patched(m4a, b"stts", 12, 1 << 28),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_small_file_that_claims_much_takes_little_memory(name):
    decode(encode_av(tone(0.2), RATE, "ipod", "aac"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordError) as e:
        decode(bombs()[name])
    assert e.value.kind in ("audio-too-complex", "audio-too-long")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_chain_of_too_many_sounds_is_refused():
    with pytest.raises(RecordError, match="more than 1000 sounds"):
        decode(encode_audio(tone(0.01), RATE, "OGG") * 1_001)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<!doctype html><html><body>404</body></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"#!AMR\n" + bytes(100), "an AMR sound"),
        (b"caff\0\1\0\0" + bytes(100), "a CAF sound"),
        (image_bytes(), "a PNG picture"),
        (bytes(1_000), "nothing but zeros"),
    ],
)
def test_what_is_no_sound_is_refused_by_what_it_is(data, what):
    with pytest.raises(RecordError, match=what) as e:
        decode(data)
    assert e.value.kind == "audio-undecodable"


def test_a_video_without_sound_is_refused_as_such():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as opened:
        stream = opened.add_stream("mpeg4", rate=5, width=32, height=32, pix_fmt="yuv420p")
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        opened.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(RecordError, match="an MP4 video or sound without a supported sound") as e:
        decode(buffer.getvalue())
    assert e.value.kind == "audio-unsupported"


def test_without_the_extra_a_sound_and_a_picture_say_what_they_are_and_need():
    script = """
import io, sys
sys.modules["av"] = sys.modules["pillow_heif"] = None  # as if they were not installed
from mmray.errors import RecordError
from mmray.preprocess.audio import decode_audio
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import AudioSpec, ImageSpec
m4a = b"\\0\\0\\0\\x20ftypM4A " + bytes(100)
heic = b"\\0\\0\\0\\x18ftypheic" + bytes(12) + bytes(100)
for decode in (lambda: decode_audio(m4a, AudioSpec(), 60), lambda: decode_image(heic, ImageSpec(), 10**6)):
    try:
        decode()
    except RecordError as e:
        print(e.kind, "|", e.reason)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    sound, picture = done.stdout.splitlines()
    remedy = "pip install 'mmray[media]'"
    assert sound == f"audio-needs-extra | an M4A sound, which needs the package av: {remedy}"
    assert picture == f"image-needs-extra | an HEIC picture, which needs the package pillow-heif: {remedy}"
