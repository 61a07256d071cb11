"""Names of points: near them, within the drawing, and never over each other while there is room."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray.scorecards.labels import Box, place

ROOM = Box(0, 0, 700, 400)
anchors = st.lists(st.tuples(st.floats(0, 700), st.floats(0, 400)), min_size=1, max_size=6)
sizes = st.tuples(st.floats(10, 110), st.just(12.0))


@given(anchors, st.data())
def test_a_few_names_never_lie_over_each_other_and_stay_inside(anchors, data):
    given_sizes = [data.draw(sizes) for _ in anchors]
    boxes = place(anchors, given_sizes, [Box.at(x, y, 10, 10) for x, y in anchors], [], ROOM)
    assert all(a.overlap(b) == 0 for a, b in combinations(boxes, 2))
    assert all(box.outside(ROOM) == 0 for box in boxes)
    assert [(box.x1 - box.x0, box.y1 - box.y0) for box in boxes] == [pytest.approx(s) for s in given_sizes]


def test_a_name_keeps_off_marks_and_takes_the_side_that_is_free():
    wall = [Box(105, 150, 240, 250)]  # to the right of the point
    (box,) = place([(100, 200)], [(60, 12)], wall, [], ROOM)
    assert box.overlap(wall[0]) == 0


def test_a_name_alone_stands_beside_its_point():
    (box,) = place([(100, 200)], [(60, 12)], [], [], ROOM)
    x, y = box.nearest(100, 200)
    assert abs(x - 100) + abs(y - 200) < 15
