"""The drawing: every point is in it, it says what it shows, and it is the same each time."""

import re
from xml.etree import ElementTree

import pytest
from support.scorecards import point, setting, tradeoff

from mmray.scorecards.cards import Point
from mmray.scorecards.plot import COLOURS, Frame, draw

WIDE = (720.0, 400.0)
SVG = "{http://www.w3.org/2000/svg}"


def drawn(points, size=WIDE):
    found = [Point.model_validate(p) for p in points]
    return draw(found, [p.name for p in found], Frame.around(found), size)


@pytest.fixture(scope="module")
def svg():
    return drawn(tradeoff())


def texts(svg):
    return {text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}


def test_every_way_to_answer_has_a_name_and_a_mark_and_settings_are_only_on_the_curve(svg):
    few = {f"int8-static {given}" for given in ("text", "image", "audio, .42", "image+text")}
    named = few | {"fp32", "int8-static", "int8-dynamic", "fp16", "cascade"}
    assert named <= texts(svg)
    assert not any("cascade at" in text for text in texts(svg))
    told = [title.text for title in ElementTree.fromstring(svg).iter(f"{SVG}title")]
    assert len(told) == len(named)
    assert (
        "int8-static: 13.6 ms, .916 [.876, .956] on tune (400 records in 310 groups); "
        ".907 [.862, .952] on test (250 records in 190 groups)" in told
    )


def test_the_same_points_give_the_same_bytes_and_no_two_sizes_share_an_id(svg):
    assert drawn(tradeoff()) == svg
    ids = [set(re.findall(r' id="(.*?)"', drawing)) for drawing in (svg, drawn(tradeoff(), (345, 440)))]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_colours_are_the_pages_own_so_that_they_follow_light_and_dark(svg):
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert {name for name in COLOURS if f"var(--{name})" in svg} == set(COLOURS) - {"ink"}


def test_the_axis_is_logarithmic_only_where_times_are_far_apart():
    near = [point("a", "variant", 5.0, 0.9), point("b", "variant", 20.0, 0.9)]
    far = [*near, point("c", "variant", 50.0, 0.9)]
    assert "milliseconds a record" in texts(drawn(near))
    assert "milliseconds a record, log scale" in texts(drawn(far))


def test_a_curve_of_which_no_setting_was_chosen_has_a_name_too():
    curve = [setting(0.5, 5.0, 0.8), setting(0.6, 6.0, 0.9), setting(0.7, 9.0, 0.91)]
    assert "cascade, none chosen" in texts(drawn(curve))
    assert "cascade, none chosen" not in texts(drawn(tradeoff()))


def test_what_is_far_below_does_not_flatten_the_rest():
    good = [point("a", "variant", 5.0, 0.9), point("b", "variant", 6.0, 0.92)]
    found = [Point.model_validate(p) for p in [*good, point("bad", "modality", 2.0, 0.1)]]
    assert Frame.around(found).accuracy[0] > 0.8


@pytest.mark.parametrize("kind", ["modality", "variant", "cascade"])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_one_point_alone_can_be_drawn_whatever_it_is(kind, accuracy):
    alone = point("alone", kind, 0.004, accuracy, chosen=True, low=accuracy, high=accuracy)
    assert any(text.startswith("alone") for text in texts(drawn([alone])))
    assert drawn([alone | {"chosen": False}])


def test_a_name_without_end_is_shortened_and_one_in_any_script_is_kept():
    shown = texts(drawn([point("x" * 300, "variant", 5.0, 0.9), point("小模型", "variant", 9.0, 0.8)]))
    assert "x" * 39 + "…" in shown
    assert "小模型" in shown
