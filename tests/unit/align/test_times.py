"""The times that a record states are read strictly: what is not as the schema says is no time at all."""

import json

import pytest

from mmray.align.clock import Clock
from mmray.align.times import MAX_CAPTIONS, OutOfStep, parse_times
from mmray.schema import META_BYTES

FULL = {
    "image": {"at_s": 12.48, "offset_s": 0.31, "drift_ppm": 40, "error_ms": 6},
    "audio": {"start_s": 10, "sample_rate": 44_100.9},
    "text": {"captions": [[11.0, 13.5, "a crow"], [13.5, 15.0, "ein Kätzchen 猫"]]},
}


def meta(times, **others):
    return json.dumps({"label": "bird", "times": times, **others}).encode()


def with_stream(name, **values):
    return meta({name: values})


def kind_of(data):
    with pytest.raises(OutOfStep) as e:
        parse_times(data)
    return e.value.kind


def test_every_stream_comes_with_its_clock_and_its_error():
    times = parse_times(meta(FULL))
    assert (times.image.at_s, times.image.error_ms, times.image.clock) == (12.48, 6, Clock(0.31, 40))
    assert (times.audio.start_s, times.audio.sample_rate, times.audio.clock) == (10, 44_100.9, Clock())
    assert times.text.spans == ((11.0, 13.5), (13.5, 15.0))
    assert times.text.captions[1][2] == "ein Kätzchen 猫"


def test_a_stream_may_be_missing_and_the_text_member_may_have_the_span():
    times = parse_times(with_stream("text", span=[3, 4.5]))
    assert (times.image, times.audio) == (None, None)
    assert (times.text.captions, times.text.spans) == (None, ((3, 4.5),))


@pytest.mark.parametrize("data", [None, b"{}", b'{"times": null}', b"[1]", b"3", b'{"Times": {}}'])
def test_a_record_that_states_no_times_is_told_as_such(data):
    assert kind_of(data) == "times-missing"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe\xfa",
        b'{"times": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        meta([]),
        meta({"video": {"at_s": 1}}),
        with_stream("image"),
        with_stream("image", at_s="12:48"),
        with_stream("image", at_s=True),
        with_stream("image", at_s=None),
        with_stream("image", at_s=1.7e18),  # nanoseconds since 1970
        with_stream("image", at_s=10**400),
        with_stream("image", at=1),
        with_stream("image", at_s=1, error_ms=-1),
        with_stream("image", at_s=1, drift_ppm=1e6),
        b'{"times": {"image": {"at_s": NaN}}}',
        b'{"times": {"image": {"at_s": -Infinity}}}',
        b'{"times": {"image": {"at_s": 1e999}}}',
        with_stream("audio", start_s=1, sample_rate=0),
        with_stream("audio", start_s=1, sample_rate=float("nan")),
        with_stream("text"),
        with_stream("text", span=[1, 2], captions=[]),
        with_stream("text", span=[2, 1]),
        with_stream("text", span=[1]),
        with_stream("text", captions=[[1, 2]]),
        with_stream("text", captions=[[1, 2, 3]]),
        with_stream("text", captions=[[2, 1, "a cat"]]),
        with_stream("text", captions=[[1, 2, "\ud83d"]]),  # half a surrogate pair cannot be a caption
        with_stream("text", captions=[[0, 1, "x"]] * (MAX_CAPTIONS + 1)),
        meta(FULL, padding="x" * META_BYTES),
    ],
    ids=lambda data: data[:60],
)
def test_what_is_not_as_the_schema_says_is_no_time_at_all(data):
    assert kind_of(data) == "times-malformed"


def test_the_reason_names_the_place():
    with pytest.raises(OutOfStep, match=r"times\.text\.captions\.1\.0: input should be a finite number"):
        parse_times(meta({"text": {"captions": [[0, 1, "a"], [float("nan"), 2, "b"]]}}))


def test_what_else_the_json_holds_does_not_matter():
    assert parse_times(b'{"x": "\\ud83d", "y": NaN, "times": {"image": {"at_s": 1}}}').image.at_s == 1
    assert parse_times(b'\xef\xbb\xbf{"times": {"image": {"at_s": 1}}}').image.at_s == 1


def test_times_since_1970_fit():
    assert parse_times(with_stream("image", at_s=1_790_000_000.25)).image.at_s == 1_790_000_000.25


def test_as_many_captions_and_bytes_as_are_allowed_are_read():
    assert (
        len(parse_times(with_stream("text", captions=[[0, 1, "x"]] * MAX_CAPTIONS)).text.spans)
        == MAX_CAPTIONS
    )
    data = meta(FULL)
    assert parse_times(data + b" " * (META_BYTES - len(data))).image.at_s == 12.48
