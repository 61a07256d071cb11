"""Conversions carry over every member of every record, say which they could not, and destroy nothing."""

import gzip
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import msgpack
import pytest
from support.lmdbs import write_images, write_lmdb, write_members
from support.media import clip, image_bytes
from support.reading import read_rows, shard_at
from support.tars import (
    cut_in_payload,
    good_records,
    members_of,
    smashed_header,
    tar_bytes,
    write_shard,
    write_tar,
)

from mmray.errors import InputError, OutputError, RunError
from mmray.sources import environment, writers
from mmray.sources.convert import convert
from mmray.sources.lmdb import layout_of
from mmray.sources.raw import Lost, read_raw
from mmray.unread import NAMELESS, SYSTEM

PNG = image_bytes()
#: Members that no column takes, in cases and with dots; and one that is empty.
ODD = [("x/a", {"jpg": b"1", "SEG.png": b"2", "cls": b"3"}), ("x/b", {"txt": b"", "pyd": b"\x80\x04."})]


def records_of(path):
    """All records of a shard as {key: {extension: payload}}."""
    records = list(read_raw(shard_at(path)))
    assert not [record for record in records if isinstance(record, Lost)]
    return {record.key.decode(): record.members for record in records}


def run(source, target, to="lmdb", layout="members", workers=1):
    return list(convert([str(source)], str(target), to, layout, workers))


def test_links_are_carried_over_and_what_is_no_record_is_counted(tmp_path):
    hard, lost = tarfile.TarInfo("1.jpg"), tarfile.TarInfo("2.jpg")
    hard.type, hard.linkname = tarfile.LNKTYPE, "0.jpg"
    lost.type, lost.linkname = tarfile.SYMTYPE, "../../blob"
    members = [("._0.jpg", b"\0\5\26\7"), ("0.jpg", b"A"), hard, lost, ("2.txt", b"two"), ("README", b"x")]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/s.tar").write_bytes(tar_bytes(members))
    (one,) = run(tmp_path / "in", tmp_path / "out")
    assert (one.records, one.lost) == (2, 1)
    assert "is there, but not read" in one.reasons["2"]
    assert {kind: count.number for kind, count in one.unread.items()} == {SYSTEM: 1, NAMELESS: 1}
    assert [row["image"] for row in read_rows(tmp_path / "out/s.lmdb")] == [b"A", b"A"]


@pytest.mark.parametrize("layout", ["members", "msgpack"])
@pytest.mark.parametrize("compress", [False, True], ids=["tar", "tar.gz"])
def test_a_tar_becomes_an_lmdb_and_a_tar_again(tmp_path, layout, compress):
    records = [*good_records(12), *ODD]
    path = write_shard(tmp_path / "in/deep/s.tar", records)
    if compress:
        path.with_suffix(".tar.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (one,) = run(tmp_path / "in", tmp_path / "lmdb", layout=layout)
    assert (one.output, one.records, one.lost, one.layout) == ("deep/s.lmdb", 14, 0, layout)
    assert one.payload_bytes == sum(len(data) for _, fields in records for data in fields.values())
    made = tmp_path / "lmdb/deep/s.lmdb"
    assert layout_of(shard_at(made)) == layout
    assert records_of(made) == dict(records)
    run(tmp_path / "lmdb", tmp_path / "again", "webdataset")
    assert records_of(tmp_path / "again/deep/s.tar") == dict(records)
    rows = {row["key"]: row["image"] for row in read_rows(tmp_path / "again/deep/s.tar")}
    assert rows == {row["key"]: row["image"] for row in read_rows(made)}


def test_images_and_their_captions_become_a_tar_and_images_again(tmp_path):
    jpeg = image_bytes("JPEG")
    write_images(
        tmp_path / "in/s.lmdb", [("a", PNG), ("b", jpeg), ("c", PNG)], {"c": "a cat", "a": "ein Hund"}
    )
    run(tmp_path / "in", tmp_path / "tar", "webdataset")
    assert records_of(tmp_path / "tar/s.tar") == {
        "a": {"png": PNG, "txt": b"ein Hund"},
        "b": {"jpg": jpeg},
        "c": {"png": PNG, "txt": b"a cat"},
    }
    run(tmp_path / "tar", tmp_path / "again", layout="images")
    assert (tmp_path / "again/s.lmdb.captions.tsv").read_bytes() == b"a\tein Hund\nc\ta cat\n"
    assert read_rows(tmp_path / "again/s.lmdb")[0]["text"] == b"ein Hund"
    assert read_rows(tmp_path / "again/s.lmdb", payload=False)[-1]["end"]


def test_maps_named_by_column_become_members_with_extensions(tmp_path):
    fields = {
        "image": PNG,
        "text": "a cat",
        "audio": clip("FLAC"),
        "meta": {"n": 1},
        "label": 7,
        "none": None,
    }
    write_lmdb(tmp_path / "in/s.lmdb", [("a", msgpack.packb(fields))])
    run(tmp_path / "in", tmp_path / "tar", "webdataset")
    assert records_of(tmp_path / "tar/s.tar") == {
        "a": {"png": PNG, "txt": b"a cat", "flac": fields["audio"], "json": b'{"n": 1}', "label": b"7"}
    }


def test_lmdbs_of_other_programs_become_tars(tmp_path):
    """Numbered entries, Datums and lists: what they hold, under the extensions that it has."""
    jpeg = image_bytes("JPEG")
    entries = [("image-1", PNG), ("label-1", b"a dog"), ("mask-1", b"m"), ("num-samples", b"1"), ("zz", b"1")]
    write_lmdb(tmp_path / "in/ocr.lmdb", entries)
    write_lmdb(tmp_path / "in/datum.lmdb", [("a", b"\x22%b%b\x28\x03\x38\x01" % (varint(len(jpeg)), jpeg))])
    raw = b"\x08\x01\x10\x02\x18\x02\x22\x04\x01\x02\x03\x04"
    write_lmdb(tmp_path / "in/raw.lmdb", [("a", raw), ("b", raw[:-1])])
    write_lmdb(tmp_path / "in/list.lmdb", [("a", msgpack.packb((jpeg, 3)))])
    done = {one.output: one for one in run(tmp_path / "in", tmp_path / "out", "webdataset")}
    made = {path.name: records_of(path) for path in (tmp_path / "out").glob("*.tar")}
    (bitmap,) = made["raw.tar"]["a"].values()
    assert (made["raw.tar"], bitmap[:2]) == ({"a": {"bmp": bitmap}}, b"BM")
    assert made["ocr.tar"] == {"1": {"png": PNG, "txt": b"a dog", "mask": b"m"}}
    assert made["datum.tar"] == {"a": {"jpg": jpeg, "cls": b"3"}}
    assert made["list.tar"] == {"a": {"jpg": jpeg, "1": b"3"}}
    assert (done["raw.tar"].lost, list(done["raw.tar"].reasons)) == (1, ["b"])
    assert {kind: count.example for kind, count in done["ocr.tar"].unread.items()} == {
        "members without an extension": "zz"
    }


def varint(number):
    return bytes([number & 127 | 128, number >> 7])


def test_an_lmdb_becomes_one_of_another_layout(tmp_path):
    records = good_records(6)
    write_members(tmp_path / "in/s.lmdb", records, subdir=True)
    run(tmp_path / "in", tmp_path / "out", layout="msgpack")
    assert records_of(tmp_path / "out/s.lmdb") == dict(records)


def test_an_lmdb_takes_keys_of_any_bytes_and_a_tar_utf8(tmp_path):
    entries = {b"\xff\xfe.jpg": b"1", b"\xff\xfe.\xe9xt": b"2", "ü.txt".encode(): b"3"}
    write_lmdb(tmp_path / "in/s.lmdb", entries.items())
    run(tmp_path / "in", tmp_path / "again")
    opened = environment.opened(str(tmp_path / "again/s.lmdb"))
    assert {bytes(name): bytes(value) for name, value in opened.walk()} == entries
    (one,) = run(tmp_path / "in", tmp_path / "tar", "webdataset")
    assert list(one.reasons) == ["0xfffe"]
    assert records_of(tmp_path / "tar/s.tar") == {"ü": {"txt": b"3"}}


def test_several_shards_are_converted_at_a_time(tmp_path):
    for i in range(4):
        write_shard(tmp_path / f"in/{i}.tar", good_records(5, prefix=f"s{i}"))
    done = run(tmp_path / "in", tmp_path / "out", workers=2)
    assert sorted(one.output for one in done) == [f"{i}.lmdb" for i in range(4)]
    for i in range(4):
        assert records_of(tmp_path / f"out/{i}.lmdb") == dict(good_records(5, prefix=f"s{i}"))


# What cannot be carried over


def test_damaged_records_are_named_and_all_others_carried_over(tmp_path):
    records = good_records(9)
    tar = tar_bytes(members_of(records))
    kept = len(cut_in_payload(tar, "good-008.json"))
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in", smashed_header(tar, "good-004.json")[:kept])
    rejected = {row["key"] for row in read_rows(tmp_path / "in/s.tar") if row["error"]}
    assert rejected == {"good-004", "good-005", "good-008"}
    (one,) = run(tmp_path / "in", tmp_path / "out")
    assert set(one.reasons) == rejected
    assert one.lost == len(rejected)
    assert "may lack members" in " ".join(one.reasons.values())
    assert records_of(tmp_path / "out/s.lmdb") == {k: v for k, v in records if k not in rejected}


def test_keys_that_come_twice_are_named(tmp_path):
    (tmp_path / "in").mkdir()
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("c.jpg", b"4"), ("c.jpg", b"5")]
    write_tar(tmp_path / "in", members)
    (one,) = run(tmp_path / "in", tmp_path / "out")
    assert one.reasons == {"a": "an earlier record has the same key", "c": "more than one member .jpg"}
    assert set(records_of(tmp_path / "out/s.lmdb")) == {"a", "b"}


def test_bad_maps_are_named(tmp_path):
    values = {
        "a": msgpack.packb({"txt": b"1"}),
        "b": b"\x81\xa4text",
        "c": msgpack.packb({"image": 7}),
        "d": b"\x80\x04.",
    }
    write_lmdb(tmp_path / "in/s.lmdb", values.items())
    (one,) = run(tmp_path / "in", tmp_path / "out", "webdataset")
    assert set(one.reasons) == {"b", "c", "d"}
    assert records_of(tmp_path / "out/s.tar") == {"a": {"txt": b"1"}}


@pytest.mark.parametrize("layout", ["members", "msgpack"])
def test_keys_beyond_what_lmdb_takes_are_named(tmp_path, layout):
    long = "k" * 512
    write_shard(tmp_path / "in/s.tar", [(long, {"txt": b"1"}), ("k" * 500, {"txt": b"2"})])
    (one,) = run(tmp_path / "in", tmp_path / "out", layout=layout)
    assert list(one.reasons) == [long]
    assert "LMDB takes 511" in one.reasons[long]
    assert set(records_of(tmp_path / "out/s.lmdb")) == {"k" * 500}


def test_names_that_a_tar_would_split_otherwise_are_named(tmp_path):
    entries = [(key, msgpack.packb({"txt": b"1"})) for key in ("a", "b.c", "d/e", "f\0g", "h.i/j")]
    write_lmdb(tmp_path / "in/s.lmdb", [*entries, ("k", msgpack.packb({"": b"1", "txt": b"2"}))])
    (one,) = run(tmp_path / "in", tmp_path / "out", "webdataset")
    assert set(one.reasons) == {"b.c", "f\0g", "k"}
    assert set(records_of(tmp_path / "out/s.tar")) == {"a", "d/e", "h.i/j"}


def test_extensions_that_a_map_would_take_for_columns_are_named(tmp_path):
    write_shard(tmp_path / "in/s.tar", [("a", {"text": b"1"}), ("b", {"txt": b"1"})])
    (one,) = run(tmp_path / "in", tmp_path / "out", layout="msgpack")
    assert list(one.reasons) == ["a"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"png": PNG, "json": b"{}"}, r"in/s.tar: record 'a': member .json cannot be converted"),
        ({"png": PNG, "jpg": PNG}, r"record 'a': member .png cannot"),
        ({"png": PNG, "wav": b"1"}, r"member .wav cannot .* choose --layout members or msgpack"),
    ],
)
def test_records_with_more_than_an_image_and_a_caption_are_refused_as_images(tmp_path, fields, said):
    write_shard(tmp_path / "in/s.tar", [("a", fields)])
    with pytest.raises(InputError, match=said):
        run(tmp_path / "in", tmp_path / "out", layout="images")
    assert not list((tmp_path / "out").glob("**/*.lmdb*"))


def test_images_and_captions_that_have_no_place_are_named(tmp_path):
    records = [
        ("a", {"png": PNG, "txt": b"two\nlines"}),
        ("b\tc", {"png": PNG}),
        ("d", {"txt": b"no image"}),
        ("e", {"jpg": b"no image either"}),
        ("f", {"png": PNG, "txt": b""}),
    ]
    write_shard(tmp_path / "in/s.tar", records)
    (one,) = run(tmp_path / "in", tmp_path / "out", layout="images")
    assert set(one.reasons) == {"a", "b\tc", "d", "e"}
    assert read_rows(tmp_path / "out/s.lmdb")[0]["text"] == b""


def test_a_shard_that_cannot_be_read_stops_no_other(tmp_path):
    write_members(tmp_path / "in/a.lmdb", good_records(3))
    data = (tmp_path / "in/a.lmdb").read_bytes()
    (tmp_path / "in/a.lmdb").write_bytes(data[: len(data) // 2])
    write_members(tmp_path / "in/b.lmdb", good_records(3))
    with pytest.raises(RunError, match=r"1 shard not converted, all others are; a.lmdb: .*truncated"):
        run(tmp_path / "in", tmp_path / "out", "webdataset")
    assert records_of(tmp_path / "out/b.tar") == dict(good_records(3))


@pytest.mark.parametrize("kind", ["tfrecord", "parquet"])
def test_other_formats_are_refused(tmp_path, kind):
    (tmp_path / f"s.{kind}").write_bytes(b"anything")
    with pytest.raises(InputError, match=f"a {kind} cannot be converted; give tars or LMDBs"):
        run(tmp_path / f"s.{kind}", tmp_path / "out")


# What is there already


def test_what_is_converted_is_not_converted_again(tmp_path):
    for i in range(2):
        write_shard(tmp_path / f"in/{i}.tar", good_records(3))
    first = run(tmp_path / "in", tmp_path / "out")
    states = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert sorted(map(str, run(tmp_path / "in", tmp_path / "out"))) == sorted(map(str, first))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == states
    (tmp_path / "out/1.lmdb").unlink()
    run(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/0.lmdb").stat().st_mtime_ns == states[tmp_path / "out/0.lmdb"]
    assert records_of(tmp_path / "out/1.lmdb") == dict(good_records(3))


def test_another_content_of_the_same_size_is_not_taken_for_converted(tmp_path):
    path = write_shard(tmp_path / "in/s.tar", [("a", {"txt": b"one"})])
    run(tmp_path / "in", tmp_path / "out")
    size = path.stat().st_size
    assert write_shard(path, [("a", {"txt": b"two"})]).stat().st_size == size
    with pytest.raises(OutputError, match="not from the same conversion of s"):
        run(tmp_path / "in", tmp_path / "out")


def test_foreign_outputs_are_never_overwritten(tmp_path):
    write_shard(tmp_path / "in/s.tar", good_records(3))
    (tmp_path / "out").mkdir()
    for name in ("s.lmdb", "s.lmdb.captions.tsv"):
        (tmp_path / "out" / name).write_bytes(b"precious")
        with pytest.raises(
            OutputError, match=f"out/{name}: exists, but is not from the same conversion of s.tar@"
        ):
            run(tmp_path / "in", tmp_path / "out")
        assert (tmp_path / "out" / name).read_bytes() == b"precious"
        (tmp_path / "out" / name).unlink()


def test_outputs_of_another_state_layout_or_size_are_not_overwritten(tmp_path):
    write_shard(tmp_path / "in/s.tar", good_records(3))
    run(tmp_path / "in", tmp_path / "out")
    with pytest.raises(OutputError, match="delete it, or choose another"):
        run(tmp_path / "in", tmp_path / "out", layout="msgpack")
    made = (tmp_path / "out/s.lmdb").read_bytes()
    (tmp_path / "out/s.lmdb").write_bytes(made + bytes(4096))
    with pytest.raises(OutputError, match="delete it, or choose another"):
        run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out/s.lmdb").write_bytes(made)
    write_shard(tmp_path / "in/s.tar", good_records(40))
    with pytest.raises(OutputError, match="delete it, or choose another"):
        run(tmp_path / "in", tmp_path / "out")


def test_two_shards_that_would_become_one_are_refused(tmp_path):
    path = write_shard(tmp_path / "in/s.tar", good_records(2))
    path.with_suffix(".tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(
        OutputError, match=r"out/s.lmdb: would be the output of both .*in/s.tar.* and .*in/s.tar"
    ):
        run(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("before", ["captions", "output"])
def test_a_crash_before_a_rename_leaves_nothing_that_counts_and_nothing_in_the_way(
    tmp_path, monkeypatch, before
):
    """Even with a journal whose last line broke off, from an earlier crash."""
    write_shard(tmp_path / "in/s.tar", [("a", {"png": PNG, "txt": b"one"})])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/convert.jsonl").write_text('{"source": "torn')
    replace = type(tmp_path).replace

    def dying(path, target):
        if str(target).endswith("captions.tsv") == (before == "captions"):
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "in", tmp_path / "out", layout="images")
    assert not (tmp_path / "out/s.lmdb").exists()
    for _ in range(2):
        (one,) = run(tmp_path / "in", tmp_path / "out", layout="images")
        assert one.records == 1
    assert read_rows(tmp_path / "out/s.lmdb")[0]["text"] == b"one"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "convert.jsonl",
        "s.lmdb",
        "s.lmdb.captions.tsv",
    ]


# How it is written


def test_a_map_that_is_full_grows(tmp_path, monkeypatch):
    """As for compressed shards, whose size says little."""
    monkeypatch.setattr(writers, "_BATCH_BYTES", 1 << 20)
    path = write_shard(tmp_path / "s.tar", [(f"{i:03d}", {"txt": bytes(1 << 20)}) for i in range(60)])
    (tmp_path / "in").mkdir()
    (tmp_path / "in/s.tar.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    (one,) = run(tmp_path / "in", tmp_path / "out")
    assert (one.records, one.lost) == (60, 0)
    assert len(read_rows(tmp_path / "out/s.lmdb", payload=False)) == 60


def test_what_is_read_back_otherwise_is_not_put_in_place(tmp_path, monkeypatch):
    write_shard(tmp_path / "in/s.tar", good_records(3))
    real = writers.LmdbWriter.commit

    def forgetful(writer):
        writer._batch.pop(next(iter(writer._batch), None), None)
        real(writer)

    monkeypatch.setattr(writers.LmdbWriter, "commit", forgetful)
    with pytest.raises(RunError, match=r"out/s.lmdb: record .* was (read back differently|not read back)"):
        run(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


# The command


def test_the_command_prints_a_table_and_names_what_is_lost(tmp_path):
    write_shard(tmp_path / "in/a.tar", good_records(3))
    (tmp_path / "more").mkdir()
    write_tar(tmp_path / "more", [("b.jpg", b"1"), ("b.jpg", b"2")])
    command = ["convert", tmp_path / "in", tmp_path / "more", tmp_path / "out", "--to", "lmdb"]
    done = subprocess.run(
        [Path(sys.executable).with_name("mmray"), *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "a.lmdb" in done.stdout
    assert "record 'b': more than one member .jpg" in done.stdout
    assert "1 record not converted" in done.stderr
    noted = [json.loads(line) for line in (tmp_path / "out/convert.jsonl").read_text().splitlines()]
    assert sorted((one["output"], one["records"], one["lost"]) for one in noted) == [
        ("a.lmdb", 3, 0),
        ("s.lmdb", 0, 1),
    ]
