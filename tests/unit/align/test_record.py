"""What belongs to an image: the stretch of audio around its time and the caption at its time, by the record's
own clocks, or a reason why there is none."""

import json

import pytest
from pydantic import ValidationError

from mmray.align import Aligner, AlignSpec, OutOfStep

ALL = ("image", "text", "audio")
CAPTIONS = [[0.0, 4.0, "before"], [4.0, 9.0, "now"], [9.5, 12.0, "after"]]


def step(times, present=ALL, used=ALL, audio_max_s=30.0, **spec):
    meta = None if times is None else json.dumps({"times": times}).encode()
    return Aligner(AlignSpec(**spec), used, audio_max_s)(meta, present)


def caption(spans, at_s, **spec):
    return step({"image": {"at_s": at_s}, "text": {"captions": spans}}, ("image", "text"), **spec)


def reasons(made):
    assert all(isinstance(reason, OutOfStep) for reason in made.out.values())
    return {modality: reason.kind for modality, reason in made.out.items()}


# ---- audio ----


def test_the_region_is_the_window_around_the_image_counted_from_the_clips_first_sample():
    made = step(
        {"image": {"at_s": 12}, "audio": {"start_s": 10}}, ("image", "audio"), before_s=0.5, after_s=1
    )
    assert (made.region.start_s, made.region.end_s) == (1.5, 3.0)
    assert made.region.tolerance_s == AlignSpec().tolerance_s
    assert (made.error_ms, made.out, made.caption) == ({"audio": 0}, {}, None)


def test_clocks_are_taken_to_the_common_one_and_back():
    """The picture was taken at 100.01 s, when the recorder's clock, late and slow, said 97.91."""
    times = {
        "image": {"at_s": 70.01, "offset_s": 30},
        "audio": {"start_s": 90, "offset_s": 2, "drift_ppm": 1_000, "sample_rate": 44_098.5},
    }
    region = step(times, before_s=1.001, after_s=0).region
    assert region.end_s == pytest.approx(98.01 / 1.001 - 90)
    assert region.end_s - region.start_s == pytest.approx(1.0)
    assert region.sample_rate == 44_098.5


def test_a_window_longer_than_the_model_hears_is_cut_around_the_image():
    times = {"image": {"at_s": 100}, "audio": {"start_s": 0}}
    region = step(times, before_s=30, after_s=10, audio_max_s=8).region
    assert (region.start_s, region.end_s) == (94, 102)


def test_an_image_that_is_missing_still_has_a_time():
    assert step({"image": {"at_s": 3}, "audio": {"start_s": 0}}, ("audio",)).region.start_s == 2


# ---- text ----


@pytest.mark.parametrize(
    ("at_s", "chosen"),
    [(2, "before"), (3.9, "before"), (4.1, "now"), (6, "now"), (9.2, "now"), (9.3, "after"), (12.9, "after")],
)
def test_the_caption_that_lies_longest_within_the_window_is_the_text(at_s, chosen):
    made = caption(CAPTIONS, at_s)
    assert (made.caption, made.error_ms, made.out) == (chosen, {"text": 0}, {})


@pytest.mark.parametrize(
    ("at_s", "chosen", "off_ms"),
    [(3.9, "before", 0), (4.1, "now", 0), (9.1, "now", 100), (9.4, "after", 100), (12.15, "after", 150)],
)
def test_nearest_looks_at_the_images_time_alone(at_s, chosen, off_ms):
    made = caption(CAPTIONS, at_s, captions="nearest")
    assert made.caption == chosen
    assert made.error_ms["text"] == pytest.approx(off_ms)


def test_of_captions_that_overlap_alike_the_one_around_the_image_counts():
    long = [[0, 60, "chapter"], [9, 13, "line"], [30, 60, "later"]]
    assert caption(long, 11).caption == "line"
    assert caption(long, 11, captions="nearest").caption == "line"
    assert caption(list(reversed(long)), 11).caption == "line"


@pytest.mark.parametrize("captions", ["overlap", "nearest"])
def test_a_caption_beyond_the_tolerance_is_out_of_step_and_one_within_it_is_counted(captions):
    window = {"before_s": 1, "after_s": 1} if captions == "overlap" else {"before_s": 0, "after_s": 9}
    reach = 1 if captions == "overlap" else 0
    near, far = ([[20 + reach + gap, 30, "late"]] for gap in (0.25, 0.26))
    made = caption(near, 20, captions=captions, tolerance_s=0.25, **window)
    assert made.error_ms["text"] == pytest.approx(250)
    assert reasons(caption(far, 20, captions=captions, tolerance_s=0.25, **window)) == {
        "text": "text-out-of-step"
    }


def test_a_caption_without_length_can_be_the_one():
    assert caption([[5, 5, "click"], [9, 10, "other"]], 5.5).caption == "click"


def test_captions_count_on_their_own_clock():
    text = {"captions": CAPTIONS, "offset_s": 100, "drift_ppm": -500}
    assert step({"image": {"at_s": 106}, "text": text}, ("text",)).caption == "now"


def test_the_span_of_a_text_member_decides_whether_it_is_used():
    times = {"image": {"at_s": 5}, "text": {"span": [4, 6]}}
    assert step(times).error_ms == {"text": 0}
    assert step(times).caption is None
    times["image"]["at_s"] = 50
    assert reasons(step(times, ("image", "text"))) == {"text": "text-out-of-step"}


def test_captions_make_a_text_where_there_is_no_member_and_an_empty_list_none():
    assert caption(CAPTIONS, 5).caption == "now"
    times = {"image": {"at_s": 5}, "text": {"captions": []}}
    assert reasons(step(times, ("image", "text"))) == {"text": "text-out-of-step"}
    assert reasons(step(times, ("image",))) == {}
    assert step({"image": {"at_s": 5}, "text": {"captions": CAPTIONS}}, ("image",)).caption == "now"
    assert (
        step({"image": {"at_s": 5}, "text": {"captions": CAPTIONS}}, ("image",), used=("image",)).caption
        is None
    )


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("times", "kind"),
    [
        (None, "times-missing"),
        ({}, "no-image-time"),
        ({"audio": {"start_s": 1}, "text": {"span": [0, 1]}}, "no-image-time"),
        ({"image": {"at_s": "noon"}}, "times-malformed"),
        ({"image": {"at_s": 1}}, "times-missing"),
    ],
)
def test_without_times_everything_but_the_image_is_out_of_step(times, kind):
    assert reasons(step(times)) == {"text": kind, "audio": kind}
    assert reasons(step(times, ("image", "audio"))) == {"audio": kind}
    assert reasons(step(times, ("image",))) == {}


@pytest.mark.parametrize("alone", ["text", "audio"])
def test_alone_and_without_a_time_of_the_image_there_is_nothing_to_be_in_step_with(alone):
    made = step({"audio": {"start_s": 1}}, (alone,))
    assert (made.out, made.region, made.caption, made.error_ms) == ({}, None, None, {})


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_what_is_skipped_is_used_as_it_is(modality):
    times = {"image": {"at_s": 5}, "audio": {"start_s": 0}, "text": {"captions": CAPTIONS}}
    made = step(times, **{modality: "skip"})
    assert set(made.error_ms) == {"text", "audio"} - {modality}
    assert step(None, text="skip", audio="skip").out == {}
    assert reasons(step(None, **{modality: "skip"})).keys() == {"text", "audio"} - {modality}


def test_the_errors_of_the_times_are_counted_and_must_leave_something_of_the_tolerance():
    times = {
        "image": {"at_s": 5, "error_ms": 30},
        "audio": {"start_s": 0, "error_ms": 20},
        "text": {"captions": CAPTIONS, "error_ms": 80},
    }
    made = step(times, tolerance_s=0.1)
    assert made.error_ms == {"audio": 50}
    assert made.region.tolerance_s == pytest.approx(0.05)
    assert reasons(made) == {"text": "times-uncertain"}
    assert step(times, tolerance_s=0.2).error_ms == {"audio": 50, "text": 110}


@pytest.mark.parametrize(
    "values",
    [
        {"before_s": 0, "after_s": 0},
        {"tolerance_s": -1},
        {"audio": "drop"},
        {"image": "mask"},
        {"before_s": 1e9},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(values):
    with pytest.raises(ValidationError):
        AlignSpec(**values)
