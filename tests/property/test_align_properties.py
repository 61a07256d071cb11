"""Alignment against definitions that anyone can check, on times that nobody chose."""

import json
from contextlib import suppress
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.bundles import SPEC, records_table, small_tokenizer
from support.media import encode_audio, image_bytes

from mmray.align import Aligner, AlignSpec, OutOfStep
from mmray.align.clock import Clock
from mmray.align.join import AsOfJoin, Bounds, Event, Stream
from mmray.align.times import parse_times
from mmray.preprocess import Preprocessor

AUDIO = encode_audio(np.random.default_rng(0).uniform(-0.5, 0.5, (8_000, 1)))  # half a second
MEMBERS = {"image": image_bytes(), "text": b"a dog", "audio": AUDIO}

moments = st.floats(-2, 2).map(lambda at: round(at, 3))
policies = st.sampled_from(["require", "mask", "skip"])
clocks = {
    "offset_s": moments,
    "drift_ppm": st.floats(-500, 500),
    "error_ms": st.sampled_from([0, 0, 5, 80, 400]),
}
spans = st.tuples(moments, st.floats(0, 1)).map(lambda span: (span[0], span[0] + span[1]))
captions = st.lists(spans, max_size=6).map(
    lambda found: [[*span, f"cat {i}"] for i, span in enumerate(found)]
)
times = st.fixed_dictionaries(
    {},
    optional={
        "image": st.fixed_dictionaries({"at_s": moments}, optional=clocks),
        "audio": st.fixed_dictionaries({"start_s": moments}, optional=clocks),
        "text": st.fixed_dictionaries({"captions": captions}, optional=clocks)
        | st.fixed_dictionaries({"span": spans}, optional=clocks),
    },
)
specs = st.builds(
    AlignSpec,
    before_s=st.floats(0.01, 1),
    after_s=st.floats(0, 1),
    captions=st.sampled_from(["overlap", "nearest"]),
    tolerance_s=st.floats(0, 1),
    audio=policies,
    text=policies,
)
#: Anything that JSON can say, with the words of the schema strewn in.
words = st.sampled_from(
    ["times", "image", "audio", "text", "at_s", "start_s", "captions", "span", "offset_s"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values.map(lambda value: json.dumps({"times": value}).encode()) | st.binary(max_size=40))
def test_no_json_does_more_than_lack_times(data):
    with suppress(OutOfStep):
        found = parse_times(data)
        assert all(np.isfinite(edge) for span in (found.text.spans if found.text else ()) for edge in span)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(times, st.sets(st.sampled_from(sorted(MEMBERS)), min_size=1)), min_size=1, max_size=4),
    specs,
)
def test_what_is_predicted_is_within_the_tolerance_and_what_is_not_has_a_reason(drawn, spec):
    rows = [
        {m: MEMBERS[m] for m in there} | {"meta": json.dumps({"times": t}).encode()} for t, there in drawn
    ]
    made = Preprocessor(SPEC, small_tokenizer(), align=spec)(records_table(rows)).to_pylist()
    assert len(made) == len(rows)
    for row, (_, there) in zip(made, drawn, strict=True):
        left = {m for m, c in (("image", "pixels"), ("text", "input_ids"), ("audio", "log_mel")) if row[c]}
        if row["error"]:
            assert row["error"]["stage"] == "align"
            assert row["damaged"]
            assert not left
        else:
            assert there - {"text"} <= left | set(row["damaged"])
            assert not {m for m in row["damaged"] if getattr(spec, m) != "mask"}
            if row["alignment_error_ms"] is not None:
                assert 0 <= row["alignment_error_ms"] <= 1e3 * spec.tolerance_s + 1e-3


@given(captions.filter(len), moments, specs, st.floats(-5, 5), st.floats(-500, 500))
def test_no_other_caption_overlaps_more_or_is_nearer(found, at_s, spec, offset_s, drift_ppm):
    assume(spec.text != "skip")
    text = {"captions": found, "offset_s": offset_s, "drift_ppm": drift_ppm}
    meta = json.dumps({"times": {"image": {"at_s": at_s}, "text": text}}).encode()
    step = Aligner(spec, ("image", "text"), 30.0)(meta, ("image", "text"))
    clock, whole = Clock(offset_s, drift_ppm), spec.captions == "overlap"
    first, last = (at_s - spec.before_s, at_s + spec.after_s) if whole else (at_s, at_s)
    common = [(clock.to_common(start), clock.to_common(end)) for start, end, _ in found]
    overlaps = [max(0.0, min(end, last) - max(start, first)) for start, end in common]
    gaps = [max(start - last, first - end, 0.0) for start, end in common]
    if step.caption is None:
        assert min(gaps) > spec.tolerance_s - 1e-9
        assert step.out["text"].kind == "text-out-of-step"
        return
    chosen = [caption for *_, caption in found].index(step.caption)
    assert overlaps[chosen] == pytest.approx(max(overlaps))
    assert gaps[chosen] == pytest.approx(min(gaps))
    assert step.error_ms["text"] == pytest.approx(1e3 * gaps[chosen])


@given(
    st.lists(st.floats(0, 3), max_size=12),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 5)), max_size=15),
    st.floats(0, 4),
    st.floats(0, 4),
    st.randoms(use_true_random=False),
)
def test_the_join_is_a_loop_over_all_pairs(steps, pieces, before_s, after_s, random):
    """Also where streams arrive out of order within the bound."""
    lateness_s = 2.0
    frames = [Event(at, at, i) for i, at in enumerate(accumulate(steps))]
    starts = accumulate(gap for gap, _ in pieces)
    others = [
        Event(at, at + length, i) for i, (at, (_, length)) in enumerate(zip(starts, pieces, strict=True))
    ]
    expected = {
        frame.value: [
            o.value
            for o in others
            if o.end_s >= frame.start_s - before_s and o.start_s <= frame.start_s + after_s
        ]
        for frame in frames
    }

    def arriving(events):
        arrivals = sorted((e.start_s + random.uniform(0, lateness_s), i) for i, e in enumerate(events))
        return Stream([events[i] for _, i in arrivals], Clock())

    joined = AsOfJoin(Bounds(before_s, after_s, lateness_s))
    found = {
        m.frame.value: sorted(o.value for o in m.near["x"])
        for m in joined(arriving(frames), {"x": arriving(others)})
    }
    assert found == expected
    assert not joined.dropped
