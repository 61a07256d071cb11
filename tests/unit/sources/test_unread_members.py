"""Nothing that lies in a tar goes unread in silence: links are followed, and what is passed over is named."""

import bz2
import gzip
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.media import image_bytes
from support.reading import fault, read_rows
from support.tars import tar_bytes

from mmray.coverage import Missing
from mmray.sources.names import split
from mmray.unread import DANGLING, DOTTED, NAMELESS, PACKED_LINK, SPECIAL, SYSTEM

APPLE = bytes.fromhex("00051607000200004d6163204f5320582020202020202020") + bytes(139)


def link(name, target, kind=tarfile.LNKTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def symlink(name, target):
    return link(name, target, tarfile.SYMTYPE)


@pytest.fixture
def rows(tmp_path):
    def write_and_read(*members, name="a.tar", pack=bytes, wanted=(), **options):
        (tmp_path / name).write_bytes(pack(tar_bytes(members)))
        return read_rows(tmp_path / name, *wanted, **options)

    return write_and_read


def unread(row):
    return [(thing["kind"], thing["name"], thing["modality"]) for thing in row["unread"] or ()]


def test_links_are_read_as_what_they_stand_for(rows):
    found = rows(
        ("x/0.jpg", b"A"),
        ("x/0.txt", b"zero"),
        link("x/1.jpg", "x/0.jpg"),
        symlink("x/1.txt", "../x/0.txt"),
        symlink("x/2.jpg", "../y/3.jpg"),  # of a member that follows
        symlink("x/2.txt", "1.txt"),  # of another link
        ("y/3.jpg", b"D"),
    )
    assert [(row["key"], row["image"], row["text"]) for row in found] == [
        ("x/0", b"A", b"zero"),
        ("x/1", b"A", b"zero"),
        ("x/2", b"D", b"zero"),
        ("y/3", b"D", None),
    ]
    assert [unread(row) for row in found] == [[]] * 4


def test_a_link_is_resolved_wherever_reading_begins(rows):
    members = [("0.jpg", b"A"), ("0.txt", b"zero"), link("1.jpg", "0.jpg"), ("1.txt", b"one")]
    second = rows(*members)[1]
    (again,) = rows(*members, wanted=[Missing(1, 1, second["offset"])])
    assert again == second
    assert again["image"] == b"A"


@pytest.mark.parametrize("target", ["../../blobs/abc", "/etc/passwd", "gone.jpg", "0.jpg"])
def test_a_link_to_nothing_is_a_modality_that_was_not_read(rows, target):
    """Also one that leads out of the tar, or to itself."""
    (row,) = rows(symlink("0.jpg", target), ("0.txt", b"zero"))
    assert unread(row) == [(DANGLING, "0.jpg", "image")]
    assert (row["text"], row["image"], row["error"]) == (b"zero", None, None)


def test_links_in_a_circle_end(rows):
    (row,) = rows(symlink("0.jpg", "1.jpg"), symlink("1.jpg", "0.jpg"), ("1.txt", b"one"))[1:]
    assert unread(row) == [(DANGLING, "1.jpg", "image")]


def test_a_link_in_a_compressed_tar_is_named(rows):
    row = rows(
        ("0.jpg", b"A"), link("1.jpg", "0.jpg"), ("1.txt", b"one"), name="a.tar.gz", pack=gzip.compress
    )[1]
    assert unread(row) == [(PACKED_LINK, "1.jpg", "image")]


def test_a_link_to_something_too_large_is_no_way_round_the_limit(rows):
    found = rows(("0.jpg", b"A" * 100), link("1.jpg", "0.jpg"), member_bytes=50)
    assert [fault(row) for row in found] == ["member-too-large"] * 2


@pytest.mark.parametrize(
    ("extension", "data", "modality"),
    [
        ("m4b", b"", "audio"),
        ("jxl", b"", "image"),
        ("dng", b"", "image"),
        ("prompt", b"a dog", "text"),
        ("cls", b"7", None),
        ("bin", image_bytes("PNG"), "image"),
        ("bin", b"fLaC" + bytes(60), "audio"),
        ("left.jpg", b"", "image"),
        ("mp4", b"\0\0\0\x18ftypmp42", None),
    ],
)
def test_a_member_of_another_extension_is_named_with_what_it_would_be(rows, extension, data, modality):
    (row,) = rows((f"0.{extension}", data), ("0.ogg", b"x"))
    assert unread(row) == [(f".{extension} members", f"0.{extension}", modality)]


def test_what_an_operating_system_left_is_no_record(rows):
    found = rows(
        ("train/._0.jpg", APPLE),
        ("train/0.jpg", b"A"),
        ("__MACOSX/train/._0.jpg", APPLE),
        ("train/1.jpg", b"B"),
        ("train/.DS_Store", b"x"),
        ("Thumbs.db", b"x"),
    )
    assert [row["key"] for row in found] == ["train/0", "train/1"]
    assert [len(unread(row)) for row in found] == [1, 3]
    assert {kind for row in found for kind, _, _ in unread(row)} == {SYSTEM}


def test_what_belongs_to_no_record_is_said_once(rows):
    """With the record after it, and at the end with the last one; also when reading begins between."""
    pipe = tarfile.TarInfo("pipe")
    pipe.type = tarfile.FIFOTYPE
    members = [("README", b"x"), ("0.txt", b"a"), pipe, ("1.txt", b"b"), ("LICENSE", b"x")]
    whole = rows(*members)
    assert [[kind for kind, _, _ in unread(row)] for row in whole] == [[NAMELESS], [SPECIAL, NAMELESS]]
    stop = whole[0]["offset"] + whole[0]["length"]
    assert rows(*members, wanted=[Missing(1, None, stop)]) == whole[1:]


def test_what_lies_between_the_members_of_a_record_is_said_with_it(rows):
    members = [("0.jpg", b"A"), ("README", b"x"), ("0.txt", b"a"), ("1.txt", b"b")]
    first, second = rows(*members)
    assert ([kind for kind, _, _ in unread(first)], unread(second)) == ([NAMELESS], [])
    stop = first["offset"] + first["length"]
    assert rows(*members, wanted=[Missing(1, None, stop)]) == [second]


def test_a_shard_of_nothing_but_others_is_empty_and_says_what_they_are(rows):
    (row,) = rows(("README", b"x"))
    assert (fault(row), [kind for kind, _, _ in unread(row)]) == ("shard-empty", [NAMELESS])


def test_names_with_dots_are_said_or_split_at_the_last_one(rows):
    members = [(f"scan.v1.{i}.{e}", b"x") for i in range(2) for e in ("jpg", "txt")] + [("plain.jpg", b"y")]
    merged, plain = rows(*members)
    assert [thing[0::2] for thing in unread(merged)] == [(DOTTED, "image"), (DOTTED, "text")] * 2
    assert (plain["image"], unread(plain)) == (b"y", [])
    apart = rows(*members, key_split="last")
    assert [row["key"] for row in apart] == ["scan.v1.0", "scan.v1.1", "plain"]
    assert all(row["image"] and not unread(row) for row in apart)


@given(st.text(alphabet="ab./_-1", max_size=20))
def test_both_ways_to_split_agree_where_there_is_one_dot(name):
    if name.rpartition("/")[2].count(".") <= 1:
        assert split(name, "first") == split(name, "last")


def test_small_members_are_carried(rows):
    row, other = rows(
        ("0.jpg", b"A"),
        ("0.cls", b"7\n"),
        ("0.url", b"u"),
        ("1.jpg", b"B"),
        ("1.cls", bytes(1 << 17)),
        carry=("cls",),
    )
    assert row["fields"] == [("cls", "7")]
    assert [kind for kind, _, _ in unread(row)] == [".url members"]
    assert (other["fields"], [kind for kind, _, _ in unread(other)]) == (None, [".cls members"])  # too large


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_a_sparse_file_is_refused_by_name(tmp_path, format):
    """What lies in the tar is without its holes: it would be decoded as something else."""
    info = tarfile.TarInfo("0.wav" if format == "gnu" else "./GNUSparseFile.1/0.wav")
    info.size = 1024
    if format == "gnu":
        info.type = tarfile.GNUTYPE_SPARSE
    else:
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "0.wav"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(bytes(1024)))
        other = tarfile.TarInfo("1.txt")
        other.size = 3
        tar.addfile(other, io.BytesIO(b"one"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    first, second = read_rows(tmp_path / "a.tar")
    assert (first["key"], fault(first)) == ("0", "member-sparse")
    assert (second["key"], second["text"]) == ("1", b"one")


def test_a_tar_in_bzip2_is_read(rows):
    found = rows(("0.jpg", b"A"), ("1.txt", b"one"), name="a.tar.bz2", pack=bz2.compress)
    assert [(row["image"], row["text"]) for row in found] == [(b"A", None), (None, b"one")]
