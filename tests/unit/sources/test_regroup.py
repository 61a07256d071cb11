"""Members of a record that lie apart: brought together within a window, where that is asked for."""

from functools import partial

import pytest
from support.reading import columns, fault, read_rows
from support.tars import BLOCK, smashed_header, tar_bytes, write_tar

from mmray.coverage import Missing

#: All images first, then all captions.
APART = [(f"k{i}.jpg", b"%d" % i) for i in range(4)] + [(f"k{i}.txt", b"text %d" % i) for i in range(4)]


@pytest.fixture
def write(tmp_path):
    return partial(write_tar, tmp_path)


def regrouped(path, *wanted, regroup_rows=4, **options):
    return read_rows(path, *wanted, interleaved="regroup", regroup_rows=regroup_rows, **options)


def test_members_that_lie_apart_become_one_record(write):
    rows = regrouped(write(APART))
    assert columns(rows, "row", "key", "image", "text") == [
        (i, f"k{i}", b"%d" % i, b"text %d" % i) for i in range(4)
    ]
    assert columns(rows, "end") == [(False,), (False,), (False,), (True,)]
    assert not any(map(fault, rows))


def test_without_being_asked_for_they_are_rejects_that_say_how_to_ask(write):
    rows = read_rows(write(APART))
    assert [fault(row) for row in rows] == [None] * 4 + ["interleaved-members"] * 4
    assert "interleaved=regroup" in rows[-1]["error"]["reason"]


def test_rows_are_numbered_by_their_first_members(write):
    rows = regrouped(write([("b.jpg", b"B"), ("a.jpg", b"A"), ("b.txt", b"b"), ("a.txt", b"a")]))
    assert columns(rows, "row", "key", "text") == [(0, "b", b"b"), (1, "a", b"a")]


def test_a_member_beyond_the_window_is_a_reject_that_names_the_window(write):
    rows = regrouped(write(APART), regroup_rows=3)
    assert rows[0]["text"] is None
    late = [row for row in rows if fault(row)]
    assert {fault(row) for row in late} == {"interleaved-members"}
    assert "more than 3 records before; raise regroup_rows" in late[0]["error"]["reason"]


@pytest.mark.parametrize("gap", [Missing(0, 0, 0), Missing(2, 2, 2 * 2 * BLOCK), Missing(1, None, 2 * BLOCK)])
def test_a_resume_finds_members_that_lie_before_where_it_would_start(write, gap):
    path = write(APART)
    whole = regrouped(path)
    wanted = whole[gap.first : None if gap.last is None else gap.last + 1]
    assert columns(regrouped(path, gap), "row", "key", "image", "text") == columns(
        wanted, "row", "key", "image", "text"
    )


def test_repeated_members_are_rejects_also_across_the_window(write):
    rows = regrouped(write([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]))
    assert [fault(row) for row in rows] == ["repeated-member", None]


def test_damage_costs_every_record_that_was_open_and_the_next(write):
    """Nobody can tell whose member lay there."""
    rows = regrouped(write(smashed_header(tar_bytes(APART), "k1.txt")))
    assert [fault(row) for row in rows] == ["shard-damaged"] * 4
    alone = [(f"k{i}.jpg", b"x") for i in range(6)]
    rows = regrouped(write(smashed_header(tar_bytes(alone), "k3.jpg")), regroup_rows=2)
    assert [(row["key"], fault(row)) for row in rows] == [
        ("k0", None),
        ("k1", "shard-damaged"),
        ("k2", "shard-damaged"),
        ("k4", "shard-damaged"),
        ("k5", None),
    ]
