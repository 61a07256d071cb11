"""What is wrong inside a shard is a row with an error, and costs the records that it touches alone."""

from functools import partial

import pytest
from support.damaged import MEMBER_BYTES, damaged_shard
from support.reading import fault, read_rows
from support.tars import (
    THREE,
    cut_before,
    cut_in_header,
    cut_in_payload,
    members_of,
    smashed_header,
    tar_bytes,
    without_end_mark,
    write_tar,
)

from mmray.coverage import Missing


@pytest.fixture
def write(tmp_path):
    return partial(write_tar, tmp_path)


def test_members_of_a_record_that_lie_apart_are_found(write):
    path = write([("a.jpg", b"1"), ("b.txt", b"2"), ("a.txt", b"3"), ("c.txt", b"4")])
    rows = read_rows(path)
    assert [fault(row) for row in rows] == [None, None, "interleaved-members", None]
    assert "row 0 has jpg" in rows[2]["error"]["reason"]
    # Read alone, only a walk from the start of the shard can tell.
    assert read_rows(path, Missing(2, 2, 0)) == rows[2:3]


def test_two_whole_records_may_have_one_key(write):
    """As the package reads them: keys need not be unique in a shard, only neighbours are one record."""
    rows = read_rows(write([("a", {"txt": b"1"}), ("b", {"txt": b"2"}), ("a", {"txt": b"3"})]))
    assert [row["text"] for row in rows] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("second", ["a.txt", "a.caption", "a.TXT"])
def test_a_repeated_member_spoils_its_record_alone(write, second):
    rows = read_rows(write([("a.txt", b"1"), (second, b"2"), ("b.txt", b"3")]))
    assert [fault(row) for row in rows] == ["repeated-member", None]
    assert rows[0]["text"] is None


def test_a_member_over_the_limit_spoils_its_record_alone(write):
    rows = read_rows(
        write([("a", {"jpg": bytes(101), "txt": b"x"}), ("b", {"jpg": bytes(100)})]), member_bytes=100
    )
    assert [fault(row) for row in rows] == ["member-too-large", None]
    assert "limits.member_bytes=100" in rows[0]["error"]["reason"]
    assert rows[0]["text"] is None


def test_an_empty_member_is_there(write):
    """Whether no bytes are an image is for the decoder to say."""
    (row,) = read_rows(write([("a", {"jpg": b""})]))
    assert (row["image"], fault(row)) == (b"", None)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (tar_bytes([]), "shard-empty"),
        (b"", "shard-truncated"),
        (b"\xa5" * 4096, "shard-damaged"),
        (b"hi", "shard-truncated"),
    ],
    ids=["empty tar", "zero bytes", "noise", "text"],
)
def test_a_shard_without_records_is_one_row_with_an_error(write, content, kind):
    (row,) = read_rows(write(content))
    assert (row["row"], row["end"], fault(row)) == (0, True, kind)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (lambda tar: cut_in_payload(tar, "c.png"), [("a", None), ("b", None), ("c", "shard-truncated")]),
        (lambda tar: cut_in_payload(tar, "c.wav"), [("a", None), ("b", None), ("c", "shard-truncated")]),
        # The header that would name the record is gone; "b" may have had more members.
        (lambda tar: cut_in_header(tar, "c.wav"), [("a", None), ("b", "shard-truncated")]),
        (lambda tar: cut_before(tar, "c.wav"), [("a", None), ("b", "shard-truncated")]),
        (without_end_mark, [("a", None), ("b", None), ("c", "shard-truncated")]),
        # Within a record: the others are whole.
        (lambda tar: smashed_header(tar, "a.txt"), [("a", "shard-damaged"), ("b", None), ("c", None)]),
        (lambda tar: smashed_header(tar, "a.txt", b"\0"), [("a", "shard-damaged"), ("b", None), ("c", None)]),
        # At the end of a record: the next one may have lost its first members.
        (
            lambda tar: smashed_header(tar, "a.json"),
            [("a", "shard-damaged"), ("b", "shard-damaged"), ("c", None)],
        ),
        (lambda tar: smashed_header(tar, "b.txt"), [("a", "shard-damaged"), ("c", "shard-damaged")]),
        (
            lambda tar: smashed_header(tar, "a.jpg"),
            [("", "shard-damaged"), ("a", "shard-damaged"), ("b", None), ("c", None)],
        ),
        (lambda tar: smashed_header(tar, "c.png"), [("a", None), ("b", None), ("c", "shard-damaged")]),
    ],
    ids=[
        *("in the last payload", "in a payload", "in a header", "between members", "no end mark", "within"),
        *("within, zeroed", "at the end of one", "a whole record", "the first header", "the last header"),
    ],
)
def test_damage_costs_the_records_that_it_touches_and_no_other(write, cut, expected):
    path = write(cut(tar_bytes(members_of(THREE))))
    rows = read_rows(path)
    assert [(row["key"], fault(row)) for row in rows] == expected
    assert all(row["image"] is row["text"] is row["audio"] is None for row in rows if row["error"])
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert [row["end"] for row in rows] == [False] * (len(rows) - 1) + [True]
    for i, row in enumerate(
        rows
    ):  # wherever a run broke off, going on gives the rows that it would have given
        assert i == 0 or row["offset"] == rows[i - 1]["offset"] + rows[i - 1]["length"]
        assert read_rows(path, Missing(i, None, row["offset"])) == rows[i:]
        assert read_rows(path, Missing(i, i, row["offset"])) == [row]  # nor does a retry make it good


def test_every_kind_of_damage_in_one_shard_is_told_apart(tmp_path):
    expected = {
        key: why for key, why in damaged_shard(tmp_path / "d.tar").items() if why[0] in ("read", "shard")
    }
    rows = read_rows(tmp_path / "d.tar", member_bytes=MEMBER_BYTES)
    found = {row["key"]: (row["error"]["stage"], fault(row)) for row in rows if row["error"]}
    assert found == expected


def test_a_record_that_was_rejected_before_the_shard_breaks_off_hides_none_of_that(write):
    """Nobody knows how many records are lost, whatever else is wrong with the last that is there."""
    tar = tar_bytes(members_of([*THREE, ("d", {"png": bytes(2000), "txt": b"x"})]))
    (*_, last) = read_rows(write(cut_in_header(tar, "d.txt")), member_bytes=1000)
    assert (last["key"], last["end"], fault(last)) == ("d", True, "shard-truncated")


def test_an_upload_that_broke_off_is_a_fault_of_the_shard(write):
    tar = tar_bytes(members_of([(f"k{i:03d}", {"txt": b"a red fire truck"}) for i in range(300)]))
    rows = read_rows(write(tar[: 3 * 1024 + 100]))
    assert [(row["error"] or {}).get("stage") for row in rows] == [None, None, "shard"]
    assert [row["end"] for row in rows] == [False, False, True]


def test_a_record_of_endless_members_is_refused(write):
    members = [(f"a.{i}", b"") for i in range(1100)] + [("b.txt", b"two")]
    rows = read_rows(write(members))
    assert [(row["key"], fault(row)) for row in rows] == [("a", "too-many-members"), ("b", None)]
