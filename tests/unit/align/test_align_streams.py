"""Streams that three devices recorded, with clocks that disagree, become records that are in step."""

import json
import shutil

import numpy as np
import pytest
from support.bundles import SPEC, small_tokenizer
from support.scripts import load_script

from mmray.align import AlignSpec
from mmray.errors import InputError, OutputError
from mmray.preprocess import Preprocessor
from mmray.sources import ReadOptions, list_shards, read

alignment = load_script("jobs/bench/alignment.py")
align_streams, recordings = alignment.align_streams, alignment.recordings
_streams = load_script("datasets/_streams.py")
Options = align_streams.Options


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams") / "recording"
    recordings.record(folder, recordings.Scenario(seconds=120, seed=1))
    return folder


@pytest.fixture(scope="module")
def joined(recording):
    output = recording.with_name("joined")
    align_streams.build(recording, output, Options(step_s=0.25))
    return output


@pytest.fixture(scope="module")
def pairs(recording, joined):
    return list(alignment.pairs(recording, joined))


@pytest.fixture(scope="module")
def minute(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams") / "minute"
    recordings.record(folder, recordings.Scenario(seconds=60, seed=3))
    return folder


@pytest.fixture
def copy(minute, tmp_path):
    """A short recording that a test may spoil."""
    return shutil.copytree(minute, tmp_path / "minute")


def blocks(folder):
    return [block for shard in list_shards([str(folder)]) for block in read(shard, ReadOptions())]


def test_frames_are_paired_with_the_sound_of_their_moment(pairs):
    """Over 99 % within 20 ms, 95 % within what is stated, which is no looser than three times the truth."""
    off = np.abs([pair.error_s for pair in pairs if pair.error_s is not None])
    assert len(off) > 0.85 * len(pairs)  # the recorder lost one chunk in twenty
    assert np.mean(off <= 0.02) >= 0.99
    assert np.mean(off <= pairs[0].stated_s) >= 0.95
    assert pairs[0].stated_s <= 3 * np.quantile(off, 0.95)


def test_frames_are_paired_with_what_is_said_at_their_moment(pairs):
    said = [pair.caption_is_right for pair in pairs if pair.caption_is_right is not None]
    assert len(said) > 150
    assert np.mean(said) >= 0.99


def test_the_clocks_are_those_of_the_devices(recording, joined):
    truth = json.loads((recording / "truth.json").read_text())["clocks"]
    clocks = {name: align_streams.Clock(**values) for name, values in truth.items()}
    told = json.loads((joined / "alignment.json").read_text())["clocks"]
    for name, zero_s, tolerance_s in (("frames", 0.0, 0.01), ("subtitles", recordings.SUBTITLE_ZERO_S, 0.03)):
        found = align_streams.Clock(told[name]["offset_s"], told[name]["drift_ppm"])
        for at_s in (0.0, 60.0, 120.0):
            own = clocks[name].from_common(at_s) + zero_s
            assert found.to_common(own) == pytest.approx(clocks["audio"].from_common(at_s), abs=tolerance_s)


def test_the_records_are_what_align_in_a_run_takes(joined):
    align = AlignSpec(before_s=1, after_s=1, tolerance_s=0.5, text="mask", audio="mask")
    tensors = [Preprocessor(SPEC, small_tokenizer(), align=align)(block) for block in blocks(joined)]
    rows = [row for table in tensors for row in table.to_pylist()]
    assert not [row["error"] for row in rows if row["error"]]
    assert np.mean([row["log_mel"] is not None for row in rows]) > 0.9
    errors = [row["alignment_error_ms"] for row in rows if row["alignment_error_ms"] is not None]
    told = json.loads((joined / "alignment.json").read_text())["clocks"]
    assert min(errors) == pytest.approx(told["frames"]["error_ms"], abs=1)
    assert len(errors) > 0.95 * len(rows)


def test_the_same_streams_give_the_same_bytes_however_they_arrive(minute, copy):
    """A second run, over indices in order of time, makes the same shards."""
    for index in ("frames.csv", "audio.csv"):
        header, *lines = (copy / index).read_text().splitlines()
        lines.sort(key=lambda line: float(line.partition(",")[2]))
        (copy / index).write_text("\n".join([header, *lines]))
    outputs = [copy.with_name(f"out-{number}") for number in range(2)]
    for folder, output in zip((minute, copy), outputs, strict=True):
        align_streams.build(folder, output, Options())
    first, second = ({path.name: path.read_bytes() for path in output.iterdir()} for output in outputs)
    assert first == second


def test_clocks_that_began_in_1970_are_no_different(copy):
    header, *lines = (copy / "frames.csv").read_text().splitlines()
    moved = [f"{name},{float(at) + 1.79e9:.6f}" for name, at in (line.split(",") for line in lines)]
    (copy / "frames.csv").write_text("\n".join([header, *moved]))
    align_streams.build(copy, copy.with_name("out"), Options(step_s=1))
    off = [pair.error_s for pair in alignment.pairs(copy, copy.with_name("out")) if pair.error_s is not None]
    assert np.mean(np.abs(off) <= 0.03) >= 0.99  # a minute has few events to compare


def test_streams_of_different_scenes_are_refused_and_nothing_is_left(recording, copy, tmp_path):
    shutil.copy(recording / "subtitles.srt", copy)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="subtitles and audio: the clocks cannot be compared"):
        align_streams.build(copy, tmp_path / "out", Options())
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_without_subtitles_and_with_damaged_files_the_rest_is_joined(copy):
    (copy / "subtitles.srt").unlink()
    broken = [sorted(copy.glob(pattern))[7] for pattern in ("frames/*.jpg", "audio/*.flac")]
    for path in broken:
        path.write_bytes(b"junk")
    report = align_streams.build(copy, copy.with_name("out"), Options(step_s=1))
    assert report["left_out"] == {"damaged files": 2}
    assert set(report["clocks"]) == {"frames"}
    rows = [row for block in blocks(copy.with_name("out")) for row in block.to_pylist()]
    assert not [row for row in rows if row["text"]]
    used = {name for row in rows for name in [json.loads(row["meta"])["frame"]]}
    assert str(broken[0].relative_to(copy)) not in used


@pytest.mark.parametrize(
    ("index", "content", "message"),
    [
        ("frames.csv", None, "frames.csv: cannot be read"),
        ("audio.csv", "file,time_s\n", "audio.csv: names no file"),
        ("audio.csv", "name,when\na,1\n", "must name the columns file and time_s"),
        ("audio.csv", "file,time_s\na.wav,1\nb.wav,noon\n", "audio.csv, line 3: time_s is 'noon'"),
        ("audio.csv", "file,time_s\na.wav,nan\n", "not a number of seconds"),
        ("audio.csv", "file,time_s\na.wav\n", "not a number of seconds"),
        ("frames.csv", "file,time_s\n../../etc/passwd,1\n", "lies outside the folder"),
        ("frames.csv", "file,time_s\n/etc/passwd,1\n", "lies outside the folder"),
        ("frames.csv", "file,time_s\nframes/none.jpg,1\n", "none.jpg: cannot be read"),
        ("frames.csv", "file,time_s\nnotes.txt,1\n", "notes.txt is no image by its name"),
        ("subtitles.srt", b"\xff\xfe\xfa", "cannot be read as UTF-8"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_by_name_and_line(index, content, message, tmp_path):
    for name in ("frames.csv", "audio.csv"):
        (tmp_path / name).write_text("file,time_s\nx.jpg,0\n")
    if content is None:
        (tmp_path / index).unlink()
    else:
        (tmp_path / index).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        align_streams.build(tmp_path, tmp_path / "out", Options())


def test_what_is_there_is_not_replaced(minute, joined):
    with pytest.raises(OutputError, match="already there"):
        align_streams.build(minute, joined, Options())


def test_subtitles_are_read_in_both_of_their_formats(tmp_path):
    srt, vtt = tmp_path / "a.srt", tmp_path / "a.vtt"
    srt.write_text(
        "\ufeff1\r\n00:00:01,500 --> 00:00:02,750\r\n<i>Hallo</i>,\r\nKätzchen!\r\n\r\n"
        "2\r\n01:00:00,000 --> 01:00:01,000\r\n\r\n3\r\n01:00:02,000 --> 01:00:01,000\r\nbackwards\r\n",
        "utf-8",
    )
    vtt.write_text("WEBVTT\n\nNOTE no cue\n\nname\n00:01.500 --> 00:02.750 align:start\nHello\n", "utf-8")
    found = [[(e.start_s, e.end_s, e.value) for e in _streams.read_subtitles(path)] for path in (srt, vtt)]
    assert found[0] == [(1.5, 2.75, "Hallo, Kätzchen!"), (3602.0, 3602.0, "backwards")]
    assert found[1] == [(1.5, 2.75, "Hello")]


def test_chunks_go_on_where_the_last_one_ended_and_gaps_are_silent():
    second = np.ones(16_000, np.float32)
    chunks = [align_streams.Event(at, at + 1, name) for at, name in ((10.02, "a"), (10.98, "b"), (12.5, "c"))]
    start_s, wave = _streams.splice(chunks, lambda _: second, 16_000)
    assert start_s == pytest.approx((10.02 + 9.98 + 10.02) / 3)
    assert len(wave) == round(16_000 * (12.5 - 10.02 + 1))
    assert not wave[32_000 : round(2.48 * 16_000)].any()
    assert wave[:32_000].all()


def test_keys_of_records_have_no_dots_whatever_the_folder_is_called(tmp_path):
    """A reader would take what follows the first dot for an extension."""
    assert _streams.Recording(tmp_path / "2026.11.24 street", (), (), ()).name == "2026-11-24-street"
