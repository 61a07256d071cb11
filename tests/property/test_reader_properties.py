"""The reader against the webdataset package, against itself, and against damaged bytes."""

import json
import tarfile
import tempfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reading import fault, read_rows
from support.tars import BLOCK, members_of, smashed_header, tar_bytes

from mmray.coverage import Missing
from mmray.sources import EXTENSIONS
from mmray.sources.tar_header import parse_header

COLUMN_OF = {extension: column for column, extensions in EXTENSIONS.items() for extension in extensions}

word = st.text("abcäé猫0_-", min_size=1, max_size=6)
folder = st.lists(st.text("ab.ü", min_size=1, max_size=5).filter(lambda s: s.strip(".")), max_size=2)
key = st.builds(
    lambda folders, name, tail: "/".join([*folders, name + tail]),
    folder,
    word,
    st.sampled_from(["", "x" * 120]),
)
extension = st.sampled_from([*COLUMN_OF, "JPG", "Txt", "seg.png", "cls", "tar.gz", "meta.json"])
payload = st.one_of(st.binary(max_size=20), st.integers(0, 1500).map(bytes))


def one_member_a_column(extensions):
    """Whether no two of them are the same member or the same modality."""
    lower = [e.lower() for e in extensions]
    known = [COLUMN_OF[e] for e in lower if e in COLUMN_OF]
    return len(set(lower)) == len(lower) and len(set(known)) == len(known)


fields = st.dictionaries(extension, payload, min_size=1, max_size=4).filter(one_member_a_column)
records = st.lists(st.tuples(key, fields), min_size=1, max_size=8, unique_by=lambda record: record[0])
tar_format = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def on_disk(tar):
    """A folder with the tar in it as s.tar."""
    folder = tempfile.TemporaryDirectory()
    Path(folder.name, "s.tar").write_bytes(tar)
    return folder


def package_reads(path):
    """What the webdataset package makes of a shard, in the columns of RECORDS."""
    for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
        row = {"key": sample["__key__"], **dict.fromkeys(EXTENSIONS)}
        row |= {COLUMN_OF[name]: data for name, data in sample.items() if name in COLUMN_OF}
        yield row


@settings(deadline=None, max_examples=60)
@given(records, tar_format, st.integers(1, 4))
def test_sound_shards_are_read_as_the_webdataset_package_reads_them(records, format, block_rows):
    with on_disk(tar_bytes(members_of(records), format)) as folder:
        path = Path(folder, "s.tar")
        rows = read_rows(path, block_rows=block_rows)
        assert not any(row["error"] for row in rows)
        assert [{name: row[name] for name in ("key", *EXTENSIONS)} for row in rows] == list(
            package_reads(path)
        )


def gaps_of(chosen, rows):
    """The Missing intervals that stand for the chosen row numbers, with the offsets of a full read."""
    runs = []
    for row in chosen:
        if runs and runs[-1][-1] == row - 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    stops = [0] + [row["offset"] + row["length"] for row in rows]  # of the row before each
    return [Missing(run[0], run[-1], stops[run[0]]) for run in runs]


@settings(deadline=None, max_examples=60)
@given(records, tar_format, st.data())
def test_any_split_into_missing_rows_reads_what_a_full_read_reads(records, format, data):
    """Whatever a crash left undone, reading it later gives the rows that the first run would have seen.

    Also in a damaged shard: one header may be smashed or zeroed.
    """
    members = members_of(records)
    tar = tar_bytes(members, format)
    if data.draw(st.booleans(), label="damaged"):
        junk = data.draw(st.sampled_from([b"\0", b"\xa5"]))
        tar = smashed_header(tar, data.draw(st.sampled_from(members))[0], junk)
    with on_disk(tar) as folder:
        path = Path(folder, "s.tar")
        rows = read_rows(path)
        owner = [data.draw(st.integers(0, 2)) for _ in rows]
        again = []
        for worker in range(3):
            chosen = [row for row, its in enumerate(owner) if its == worker]
            if chosen:
                gaps = gaps_of(chosen, rows)
                if chosen[-1] == len(rows) - 1 and data.draw(st.booleans(), label="total unknown"):
                    gaps[-1] = gaps[-1]._replace(last=None)
                again += read_rows(path, *gaps, block_rows=data.draw(st.integers(1, 3)))
        # A record's second half, torn off by damage in its middle, is told by its key's first half alone: a
        # walk that begins between the two takes it for a record. Which rows there are does not change.
        torn = {row["row"] for row in rows if fault(row) == "interleaved-members"}
        again.sort(key=lambda row: row["row"])
        assert comparable(again, torn) == comparable(rows, torn)
        assert {row["row"] for row in again if row["end"]} == {len(rows) - 1}


@settings(deadline=None, max_examples=60)
@given(records, st.data())
def test_members_in_any_order_become_the_records_that_they_are_of(records, data):
    """And whichever rows are asked for, as long as no more records are open than the window holds."""
    members = data.draw(st.permutations(members_of(records)))
    first_met = list(dict.fromkeys(name.rpartition("/")[0] + "/" + stem(name) for name, _ in members))
    with on_disk(tar_bytes(members)) as folder:
        path = Path(folder, "s.tar")
        rows = read_rows(path, interleaved="regroup", regroup_rows=len(records))
        assert [row["key"] for row in rows] == [key.removeprefix("/") for key in first_met]
        assert not any(map(fault, rows))
        by_key = {row["key"]: row for row in rows}
        for key, fields in records:
            expected = {COLUMN_OF.get(name.lower()): payload for name, payload in fields.items()}
            assert {column: by_key[key][column] for column in EXTENSIONS} == {
                column: expected.get(column) for column in EXTENSIONS
            }
        gap = data.draw(st.integers(0, len(rows) - 1).map(lambda row: Missing(row, row, row)))
        again = read_rows(path, gap, interleaved="regroup", regroup_rows=len(records))
        assert comparable(again, set()) == comparable(rows[gap.first : gap.first + 1], set())


def stem(name):
    return name.rpartition("/")[2].partition(".")[0]


def comparable(rows, torn):
    """Rows without `end`, promised only where reading went that far; of torn ones the address only."""
    address = ("shard", "row", "key", "offset", "length")
    return [
        {n: v for n, v in row.items() if n in address or (n != "end" and row["row"] not in torn)}
        for row in rows
    ]


FUZZED = [(f"k{i}", {"jpg": bytes([i]) * (200 * i), "txt": b"text %d" % i}) for i in range(8)]
FUZZED_TAR = tar_bytes(members_of(FUZZED))
damage = st.one_of(
    st.tuples(st.just("flip"), st.lists(st.integers(0, len(FUZZED_TAR) - 1), min_size=1, max_size=4)),
    st.tuples(st.just("cut"), st.integers(0, len(FUZZED_TAR) - 1)),
    st.tuples(st.just("zero"), st.tuples(st.integers(0, len(FUZZED_TAR) // BLOCK - 1), st.integers(1, 4))),
)


def broken(kind, where):
    """The damaged tar, and the first and last byte offset of the damage."""
    tar = bytearray(FUZZED_TAR)
    if kind == "cut":
        return bytes(tar[:where]), where, len(tar)
    if kind == "zero":
        first, last = where[0] * BLOCK, (where[0] + where[1]) * BLOCK
        tar[first:last] = bytes(last - first)
        return bytes(tar[: len(FUZZED_TAR)]), first, last
    for position in where:
        tar[position] ^= 0xFF
    return bytes(tar), min(where), max(where)


@pytest.mark.timeout(60)
@settings(deadline=None, max_examples=150)
@given(damage)
def test_no_damage_raises_or_hangs_or_costs_a_record_that_it_does_not_touch(damage):
    """Every record with a whole record between itself and the damage is still there, unchanged."""
    tar, first, last = broken(*damage)
    with on_disk(FUZZED_TAR) as folder:
        whole = read_rows(Path(folder, "s.tar"))
    with on_disk(tar) as folder:
        rows = read_rows(Path(folder, "s.tar"))
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert [row["end"] for row in rows] == [False] * (len(rows) - 1) + [True]
    found = {row["key"]: (row["image"], row["text"]) for row in rows if not fault(row)}
    assert json.dumps([row["error"] for row in rows])
    for i, row in enumerate(whole):
        before = whole[i + 1]["offset"] + whole[i + 1]["length"] if i + 1 < len(whole) else len(FUZZED_TAR)
        after = whole[i - 1]["offset"] if i else -1
        if first >= before or last < after:
            assert found.get(row["key"]) == (row["image"], row["text"])


TYPES = [b"0", b"\0", b"1", b"2", b"5", b"6", b"7", b"S"]
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=90)


@settings(deadline=None, max_examples=200)
@given(NAME, st.integers(0, 1 << 80), st.sampled_from(TYPES), NAME, st.data())
def test_headers_are_read_as_the_standard_library_reads_them(name, size, type, linkname, data):
    """Also damaged ones: what it refuses because of a number that is of no use here may be read."""
    info = tarfile.TarInfo(name[:40])
    info.size, info.type, info.linkname = size, type, linkname[:40]
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")[-512:])
    for _ in range(data.draw(st.integers(0, 2), label="damage")):
        block[data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    block = bytes(block)
    try:
        expected = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except (tarfile.HeaderError, ValueError):
        return
    header = parse_header(block)
    found = (header.name.rstrip("/"), header.size, header.type, header.linkname)
    assert found == (expected.name.rstrip("/"), expected.size, expected.type, expected.linkname)
