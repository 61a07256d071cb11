"""Records whose modalities were recorded apart are brought into step before they are decoded, by policy."""

import json

import numpy as np
import pytest
from support.bundles import SPEC, records_table, small_tokenizer
from support.media import encode_audio, image_bytes

from mmray.align import AlignSpec, Region
from mmray.preprocess import Preprocessor
from mmray.preprocess.audio import decode_audio, decode_region, log_mel
from mmray.schema import TENSORS, error

AUDIO = encode_audio(np.random.default_rng(0).uniform(-0.5, 0.5, (160_000, 1)))  # 10 s
TIMES = {
    "image": {"at_s": 105},
    "audio": {"start_s": 98, "offset_s": 2},
    "text": {"captions": [[90, 104, "a dog"], [104, 110, "a red cat"]]},
}
ALIGN = AlignSpec(before_s=0.5, after_s=0.5, tolerance_s=0.1)
CAT = [2, 4, 7, 5, 3]  # "a red cat" with [CLS] and [SEP]
DOG = [2, 4, 6, 3]


def record(times=TIMES, **members):
    stored = {"image": image_bytes(), "text": b"a dog", "audio": AUDIO, **members}
    return {**stored, "meta": None if times is None else json.dumps({"times": times}).encode()}


def changed(stream, **values):
    return {**TIMES, stream: {**TIMES[stream], **values}}


def preprocess(*rows, align=ALIGN, **options):
    table = Preprocessor(SPEC, small_tokenizer(), align=align, **options)(records_table(rows))
    assert table.schema.equals(TENSORS)
    return table.to_pylist()


def kind(row):
    return row["error"] and f"{row['error']['stage']}/{row['error']['type']}"


def used(row):
    columns = {"image": "pixels", "text": "input_ids", "audio": "log_mel"}
    return [m for m, column in columns.items() if row[column] is not None]


def test_the_model_gets_the_window_of_the_audio_and_the_caption_of_the_moment():
    (row,) = preprocess(record())
    cut = decode_region(AUDIO, SPEC.audio, 60, Region(4.5, 5.5, 0)).wave
    assert row["log_mel"] == log_mel(cut, SPEC.audio).tobytes()
    assert row["input_ids"] == CAT
    assert (row["alignment_error_ms"], row["error"], row["damaged"]) == (0, None, [])


def test_without_a_spec_nothing_changes_whatever_the_record_states():
    (row,) = preprocess(record(), align=None)
    assert row["log_mel"] == log_mel(decode_audio(AUDIO, SPEC.audio, 60), SPEC.audio).tobytes()
    assert row["input_ids"] == DOG
    assert row["alignment_error_ms"] is None


OUT = {
    "audio": changed("audio", start_s=0),
    "text": changed("text", captions=[[0, 1, "a dog"]]),
}


@pytest.mark.parametrize("modality", OUT)
def test_a_required_modality_that_is_out_of_step_costs_the_record(modality):
    (row,) = preprocess(record(OUT[modality]))
    assert kind(row) == f"align/{modality}-out-of-step"
    assert (used(row), row["damaged"], row["alignment_error_ms"]) == ([], [modality], None)


@pytest.mark.parametrize("modality", OUT)
def test_a_masked_modality_that_is_out_of_step_is_left_out(modality):
    (row,) = preprocess(record(OUT[modality]), align=ALIGN.model_copy(update={modality: "mask"}))
    assert (kind(row), row["damaged"], row["alignment_error_ms"]) == (None, [modality], 0)
    assert used(row) == [m for m in ("image", "text", "audio") if m != modality]


@pytest.mark.parametrize("modality", OUT)
def test_a_skipped_modality_is_used_as_it_is(modality):
    (row,) = preprocess(record(OUT[modality]), align=ALIGN.model_copy(update={modality: "skip"}))
    (plain,) = preprocess(record(), align=None)
    column = {"audio": "log_mel", "text": "input_ids"}[modality]
    assert row[column] == plain[column]
    assert kind(row) is None


@pytest.mark.parametrize(
    ("times", "reason"),
    [(None, "times-missing"), ({"image": {"at_s": "noon"}}, "times-malformed"), ({}, "no-image-time")],
)
def test_times_that_are_missing_or_malformed_are_a_matter_of_policy(times, reason):
    mask = AlignSpec(audio="mask", text="mask")
    (rejected,), (masked,) = preprocess(record(times)), preprocess(record(times), align=mask)
    assert kind(rejected) == f"align/{reason}"
    assert (kind(masked), used(masked), masked["alignment_error_ms"]) == (None, ["image"], None)


def test_a_record_with_nothing_left_in_step_is_rejected_whatever_the_policy():
    (row,) = preprocess(record({}, image=None), align=AlignSpec(audio="mask", text="mask"))
    assert kind(row) == "align/all-out-of-step"
    assert row["damaged"] == ["text", "audio"]


def test_what_could_not_be_bridged_is_told_with_the_error_that_the_times_state():
    late = changed("audio", start_s=102.55)  # begins 50 ms after the window
    assert preprocess(record(late))[0]["alignment_error_ms"] == pytest.approx(50, abs=0.1)
    uncertain = {**late, "image": {"at_s": 105, "error_ms": 20}}
    assert preprocess(record(uncertain))[0]["alignment_error_ms"] == pytest.approx(70, abs=0.1)
    worse = {**uncertain, "text": {"captions": [[105.57, 106, "a red cat"]], "error_ms": 5}}
    assert preprocess(record(worse))[0]["alignment_error_ms"] == pytest.approx(95, abs=0.1)
    assert kind(preprocess(record({**worse, "image": {"at_s": 105, "error_ms": 61}}))[0]).startswith("align/")


def test_only_modalities_that_are_used_count_for_the_error():
    masked = {"on_damaged": "mask", "align": ALIGN}
    late = changed("audio", start_s=102.55)
    (row,) = preprocess(record(late, audio=AUDIO[:20]), **masked)
    assert (used(row), row["damaged"], row["alignment_error_ms"]) == (["image", "text"], ["audio"], 0)
    (row,) = preprocess(record(late), modalities=["image", "text"])
    assert row["alignment_error_ms"] == 0


def test_damage_is_still_damage():
    (row,) = preprocess(record(audio=AUDIO[:20]))
    assert kind(row) == "preprocess/audio-undecodable"


def test_a_caption_is_bound_by_the_limits_of_text():
    times = changed("text", captions=[[104, 110, "x" * 200_000]])
    assert kind(preprocess(record(times))[0]) == "preprocess/text-too-long"


def test_captions_stand_for_a_text_member_that_is_missing():
    assert preprocess(record(text=None))[0]["input_ids"] == CAT


def test_a_modality_alone_needs_no_times():
    rows = preprocess({"text": b"a dog"}, {"audio": AUDIO}, {"image": image_bytes()})
    assert [kind(row) for row in rows] == [None] * 3
    assert [row["alignment_error_ms"] for row in rows] == [None] * 3
    assert rows[0]["input_ids"] == DOG


def test_failed_records_pass_through_and_neighbours_are_not_mixed_up():
    failure = error("read", "shard-damaged", "was so before")
    rows = preprocess(record(), {**record(), "error": failure}, record(OUT["audio"]), record())
    assert [kind(row) for row in rows] == [None, "read/shard-damaged", "align/audio-out-of-step", None]
    assert rows[0]["log_mel"] == rows[3]["log_mel"]
    assert rows[1]["alignment_error_ms"] is None


def test_the_seconds_of_alignment_are_counted():
    run = Preprocessor(SPEC, small_tokenizer(), align=ALIGN)
    run(records_table([record()]))
    assert run.seconds["align"] > 0
