"""The walk over a tar: what tarfile can read comes out, what is damaged is named, nothing raises or hangs."""

import io
import tarfile

import pytest
from support.reading import SpyFile, names, walk_all
from support.tars import (
    BLOCK,
    cut_before,
    cut_in_header,
    cut_in_payload,
    header_offset,
    overwritten,
    smashed_header,
    tar_bytes,
    without_end_mark,
)

from mmray.sources.tar import ALL_BYTES, Damage, Member, walk

MEMBERS = [("a.txt", b"one"), ("b.txt", b"two" * 300), ("c.txt", b""), ("d.txt", b"four")]


def special(name, kind, size=0, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, linkname
    return info


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_regular_members_come_out_in_order_with_their_bytes(format):
    parts = walk_all(tar_bytes(MEMBERS, format))
    assert [(part.name, part.data, part.size) for part in parts] == [(n, d, len(d)) for n, d in MEMBERS]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_whole(format):
    long = [
        ("x/" * 150 + "name.jpg", b"1"),
        ("kätzchen-猫.txt", b"2"),
        ("y" * 500 + ".txt", b"3"),
        ("z.txt", b"4"),
    ]
    assert names(walk_all(tar_bytes(long, format))) == [name for name, _ in long]


def test_the_byte_range_of_a_member_starts_at_its_first_header():
    """A walk that begins at a member's offset reads that member, long name and all; ranges leave no gap."""
    tar = tar_bytes([("a.txt", b"one"), ("x" * 200 + ".txt", b"two"), ("b.txt", b"three")])
    parts = walk_all(tar)
    assert [part.end for part in parts[:-1]] == [part.offset for part in parts[1:]]
    for i, part in enumerate(parts):
        assert walk_all(tar, start=part.offset) == parts[i:]


def test_what_is_no_regular_file_is_named_with_what_it_stands_for():
    members = [
        special("folder/", tarfile.DIRTYPE),
        MEMBERS[0],
        special("x/link.txt", tarfile.SYMTYPE, linkname="../a.txt"),
        special("x/away.txt", tarfile.SYMTYPE, linkname="../../a.txt"),
        special("x/root.txt", tarfile.SYMTYPE, linkname="/a.txt"),
        special("hard.txt", tarfile.LNKTYPE, linkname="a.txt"),
        special("pipe.txt", tarfile.FIFOTYPE),
        MEMBERS[1],
    ]
    parts = walk_all(tar_bytes(members))
    assert names(parts)[::6] == ["a.txt", "b.txt"]
    targets = [("x/link.txt", "a.txt"), ("x/away.txt", ""), ("x/root.txt", ""), ("hard.txt", "a.txt")]
    assert [(part.name, part.target) for part in parts[1:-1]] == [*targets, ("pipe.txt", None)]


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_the_size_of_a_directory_or_link_is_no_payload(kind):
    """POSIX lets them state a size; taking it for bytes would swallow the members that follow."""
    tar = tar_bytes([special("thing", kind, size=2 * BLOCK), *MEMBERS])
    assert [name for name in names(walk_all(tar)) if name != "thing"] == [name for name, _ in MEMBERS]


def test_unwanted_and_oversized_payloads_are_not_read():
    tar = tar_bytes(
        [("a.txt", b"x" * 5000), ("b.txt", b"y" * 5000), ("c.txt", b"z" * 50_000), ("d.txt", b"w")]
    )
    file = SpyFile(tar)
    parts = list(
        walk(file, len(tar), max_bytes=10_000, wanted=lambda name: ALL_BYTES if name != "a.txt" else 0)
    )
    assert [part.data and len(part.data) for part in parts] == [None, 5000, None, 1]
    assert max(stop - start for start, stop in file.reads if start < parts[-1].end) == 5000
    assert sum(stop - start for start, stop in file.reads) < 5000 + 20 * BLOCK + 20 * BLOCK


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (lambda tar: cut_in_payload(tar, "b.txt"), ["a.txt", "<shard-truncated>"]),
        (lambda tar: cut_in_header(tar, "b.txt"), ["a.txt", "<shard-truncated>"]),
        (lambda tar: cut_before(tar, "b.txt"), ["a.txt", "<shard-truncated>"]),
        (without_end_mark, ["a.txt", "b.txt", "c.txt", "d.txt", "<shard-truncated>"]),
        (lambda _: b"", ["<shard-truncated>"]),
        (lambda _: b"not a tar at all", ["<shard-truncated>"]),
        (lambda tar: smashed_header(tar, "a.txt"), ["<shard-damaged>", "b.txt", "c.txt", "d.txt"]),
        (lambda tar: smashed_header(tar, "b.txt"), ["a.txt", "<shard-damaged>", "c.txt", "d.txt"]),
        (lambda tar: smashed_header(tar, "d.txt"), ["a.txt", "b.txt", "c.txt", "<shard-damaged>"]),
        (lambda tar: smashed_header(tar, "b.txt", b"\0"), ["a.txt", "<shard-damaged>", "c.txt", "d.txt"]),
        (lambda tar: smashed_header(tar, "d.txt", b"\0"), ["a.txt", "b.txt", "c.txt", "<shard-damaged>"]),
        (lambda _: b"\xa5" * BLOCK * 9, ["<shard-damaged>"]),
    ],
    ids=[
        *("in payload", "in header", "between members", "no end mark", "zero bytes", "text"),
        *("first smashed", "middle smashed", "last smashed", "middle zeroed", "last zeroed", "no tar"),
    ],
)
def test_damage_is_named_and_what_lies_around_it_is_read(cut, expected):
    assert names(walk_all(cut(tar_bytes(MEMBERS)))) == expected


def test_damage_says_where_it_is():
    tar = tar_bytes(MEMBERS)
    damage = walk_all(smashed_header(tar, "b.txt"))[1]
    assert (damage.offset, damage.end) == (header_offset(tar, "b.txt"), header_offset(tar, "c.txt"))
    cut = walk_all(cut_in_payload(tar, "b.txt"))[-1]
    assert (cut.name, cut.offset) == ("b.txt", header_offset(tar, "b.txt"))


def test_an_empty_tar_holds_nothing_and_is_not_damaged():
    assert walk_all(tar_bytes([])) == []


@pytest.mark.parametrize("zeros", [1, 2, 40])
def test_zeros_to_the_end_are_the_end_mark(zeros):
    assert names(walk_all(without_end_mark(tar_bytes(MEMBERS)) + bytes(zeros * BLOCK))) == [
        n for n, _ in MEMBERS
    ]


def test_a_tar_behind_the_end_mark_of_another_is_not_lost_in_silence():
    """`cat a.tar b.tar` is a common mistake; tarfile reads the first half and says nothing."""
    tar = tar_bytes(MEMBERS[:2]) + tar_bytes(MEMBERS[2:])
    assert names(walk_all(tar)) == ["a.txt", "b.txt", "<shard-damaged>", "c.txt", "d.txt"]


def with_size(tar, name, field):
    """Write 12 raw bytes into a member's size field, and the checksum that makes the header valid."""
    start = header_offset(tar, name)
    header = bytearray(tar[start : start + BLOCK])
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return overwritten(tar, start, bytes(header))


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (b"\xff" * 12, "shard-damaged"),  # -1 in base 256
        (b"\xff" + bytes(11), "shard-damaged"),  # the most negative number
        (b"\x80" + b"\xff" * 11, "shard-truncated"),  # 2^88
        (b"77777777777\0", "shard-truncated"),  # 8 GiB
        (b"not a size!\0", "shard-damaged"),
    ],
)
@pytest.mark.timeout(10)
def test_impossible_sizes_neither_hang_nor_allocate(field, kind):
    parts = walk_all(with_size(tar_bytes(MEMBERS), "b.txt", field), max_bytes=1 << 62)
    assert names(parts)[:2] == ["a.txt", f"<{kind}>"]


@pytest.mark.parametrize(
    "record",
    [
        b"19 path=b/path.txt\n",  # sound, for comparison
        b"99 path=b.txt\n",  # longer than it is
        b"0 path=b.txt\n",
        b"1 \n",
        b"-5 path=b.txt\n",
        b"path=b.txt\n",
        b"\xff\xfe",
        b"13 size=-512\n",
        "10 size=²\n".encode(),  # a digit to str.isdigit(), none to int()
        b"5009 size=" + b"9" * 4998 + b"\n",  # more digits than int() takes
        b"30 size=99999999999999999999\n",
    ],
)
@pytest.mark.timeout(10)
def test_malformed_pax_headers_neither_hang_nor_raise(record):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    extra = header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % BLOCK)
    whole = tar_bytes(MEMBERS)
    cut = header_offset(whole, "b.txt")
    parts = names(walk_all(whole[:cut] + extra + whole[cut:]))
    assert parts[0] == "a.txt"
    assert set(parts[1:]) & {"b.txt", "b/path.txt", "<shard-damaged>", "<shard-truncated>"}


def test_a_file_that_is_shorter_than_it_was_listed_is_truncated():
    """A shard may be replaced between the listing and the reading of it."""
    tar = tar_bytes(MEMBERS)
    part = walk_all(cut_in_payload(tar, "b.txt"), size=len(tar))[-1]
    assert isinstance(part, Damage)
    assert (part.kind, part.name) == ("shard-truncated", "b.txt")


def test_tarfile_and_the_walk_agree_on_a_tar_with_everything():
    members = [
        special("d/", tarfile.DIRTYPE),
        ("d/" + "n" * 300 + ".jpg", b"1" * 1000),
        ("d/ü.txt", b"2"),
        *MEMBERS,
    ]
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        tar = tar_bytes(members, format)
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            expected = [(info.name, opened.extractfile(info).read()) for info in opened if info.isreg()]
        parts = walk_all(tar)
        assert all(isinstance(part, Member) for part in parts)
        assert [(part.name, part.data) for part in parts] == expected
