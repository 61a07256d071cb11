"""The stand-in for a device is as slow as the real one was."""

import time

import pytest
from support.scripts import load_script

from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec
from mmray.shapes import Shape, job_ladder

stand_in = load_script("jobs/bench/_stand_in.py")
SPEC = PreprocessSpec(image=ImageSpec(), text=TextSpec(), audio=AudioSpec())


@pytest.mark.parametrize("variant", stand_in.RATES)
@pytest.mark.parametrize("rows", [8, 32, 64, 256, 512])
def test_a_batch_takes_as_long_as_on_the_card(variant, rows):
    shape = Shape(rows, rows, rows, stand_in.TOKENS, round(stand_in.PATCHES * rows))
    assert rows / stand_in.work_s(shape, variant) == pytest.approx(stand_in.RATES[variant][rows], rel=0.02)


def test_a_picture_is_most_of_it_and_a_text_the_least():
    rows = 256
    alone = [Shape(rows, images=rows), Shape(rows, texts=rows, tokens=64), Shape(rows, patches=666)]
    image, text, audio = (stand_in.work_s(shape, "fp16") for shape in alone)
    assert image > audio > text > 0
    whole = job_ladder(SPEC).typical
    assert stand_in.work_s(whole, "fp16") > image


def test_another_shape_than_before_costs_planning_each_time(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    device = stand_in.StandIn("fp32")
    a, b = Shape(64, images=64), Shape(64, images=63)
    turns = [device.run(lambda: None, shape) for shape in (a, a, b, a, b, b)]
    assert [s > stand_in.PLANNING_S - 0.1 for s in slept] == [True, False, True, True, True, False]
    assert [turn.changed for turn in turns] == [True, False, True, True, True, False]


def test_copies_take_their_time():
    device = stand_in.StandIn("fp32")
    assert device.copy(lambda: None, 73_000_000) >= 0.01
    assert stand_in.StandIn("fp32", instant=True).copy(lambda: None, 73_000_000_000) < 1
