"""A CSV or JSONL that names files becomes rows; a row that is broken, or leads nowhere, is a reject."""

import base64
import json
import os

import pytest
from support.media import clip, image_bytes
from support.reading import columns, fault, read_rows, shard_at

from mmray.coverage import Missing
from mmray.sources import ReadOptions, list_shards
from mmray.sources.index import index_of
from mmray.sources.options import FileOptions

PNG = image_bytes()
WAV = clip()


@pytest.fixture
def write(tmp_path):
    """Writes a manifest beside two pictures and a sound; returns its path."""
    (tmp_path / "m" / "media").mkdir(parents=True)
    for name, data in {"1.png": PNG, "2.png": PNG, "1.wav": WAV}.items():
        (tmp_path / "m" / "media" / name).write_bytes(data)

    def act(content, name="list.csv"):
        path = tmp_path / "m" / name
        if isinstance(content, list):
            content = "".join(f"{json.dumps(row)}\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return act


def test_a_row_names_its_files_and_has_its_caption(write):
    path = write("id,image,caption,audio,label\nx,media/1.png,a cat,media/1.wav,3\ny,media/2.png,,,4\n")
    rows = read_rows(path)
    assert columns(rows, "row", "end", "key", "image", "text", "audio", "meta") == [
        (0, False, "x", PNG, b"a cat", WAV, b'{"id": "x", "label": "3"}'),
        (1, True, "y", PNG, None, None, b'{"id": "y", "label": "4"}'),
    ]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("img_path,title", {"image", "text"}),
        ("image_path,caption,url", {"image", "text"}),
        ("file_name,transcription", {"image", "text"}),
        ("PATH,TEXT", {"image", "text"}),
        ("filepath,sentence", {"image", "text"}),
        ("img,label", {"image"}),
    ],
)
def test_near_names_count(write, header, expected):
    names = header.split(",")
    path = write(f"{header}\n" + ",".join(["media/1.png", "words", "http://x/y.jpg"][: len(names)]) + "\n")
    (row,) = read_rows(path)
    assert {column for column in ("image", "text", "audio") if row[column]} == expected


def test_a_file_is_a_sound_by_its_extension(write):
    (row,) = read_rows(write("path,text\nmedia/1.wav,hello\n"))
    assert (row["audio"], row["image"]) == (WAV, None)


def test_configured_columns_come_before_all_names(write):
    path = write("image,picture2,caption,words\n7,media/1.png,no,yes\n")
    (row,) = read_rows(path, columns={"image": ("picture2",), "text": ("words",), "key": ("image",)})
    assert (row["image"], row["text"], row["key"]) == (PNG, b"yes", "7")


def test_a_configured_column_that_is_not_there_is_named(write):
    (row,) = read_rows(write("image,text\nmedia/1.png,x\n"), columns={"image": ("imgg",)})
    assert fault(row) == "columns-missing"
    assert row["error"]["reason"] == "columns.image: none of imgg among the columns image, text"


def test_a_table_without_a_line_of_names_is_told_so(write):
    (row,) = read_rows(write("media/1.png,a cat\nmedia/2.png,a dog\n"))
    assert "add such a line" in row["error"]["reason"]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_whatever_parts_the_columns(write, delimiter):
    path = write(delimiter.join(["image", "text"]) + "\n" + delimiter.join(["media/1.png", "x"]) + "\n")
    assert columns(read_rows(path), "image", "text") == [(PNG, b"x")]


def test_a_tsv(write):
    assert columns(read_rows(write("image\ttext\nmedia/1.png\ta,b\n", "list.tsv")), "text") == [(b"a,b",)]


def test_a_byte_order_mark_and_windows_line_ends(write):
    path = write("\ufeffimage,text\r\nmedia\\1.png,zw\xf6lf\r\n\r\nmedia/2.png,x\r\n")
    assert columns(read_rows(path), "image", "text") == [(PNG, "zw\xf6lf".encode()), (PNG, b"x")]


def test_json_lines(write):
    rows = read_rows(
        write(
            [
                {"key": 5, "image": "media/1.png", "text": "a", "times": {"image": 1}, "tags": [1, 2]},
                {"key": 6, "audio": {"path": "media/1.wav", "bytes": None}, "images": ["media/2.png"]},
                {"key": 7, "image": f"data:image/png;base64,{base64.b64encode(PNG).decode()}", "text": None},
            ],
            "list.jsonl",
        )
    )
    assert columns(rows, "key", "image", "audio", "text") == [
        ("5", PNG, None, b"a"),
        ("6", PNG, WAV, None),
        ("7", PNG, None, None),
    ]
    assert json.loads(rows[0]["meta"]) == {"key": 5, "times": {"image": 1}, "tags": [1, 2]}


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("media/1.png", "row-malformed", "line 3: 1 fields, 2 columns"),
        ("media/1.png,a,b", "row-malformed", "line 3: 3 fields"),
        ('media/1.png,"never closed', "row-malformed", "line 3"),
        ('media/1.png,"a" b', "row-malformed", "line 3"),
        ("media/1.png,\xff", "row-malformed", "UTF-8"),
        ("media/1.png," + "x" * (1 << 20), "row-malformed", "more than"),
        ("media/9.png,x", "file-missing", "media/9.png: not found"),
        ("media/1.png/x,x", "file-missing", "not found"),
        ("media,x", "path-invalid", "not a regular file"),
        ("pipe.png,x", "path-invalid", "pipe.png"),
        ("media/\0.png,x", "path-invalid", "is not a path"),
        ("x" * 5000 + ".png,x", "path-invalid", "too long"),
        ("/etc/passwd,x", "path-outside", "files.allow_outside"),
        ("../out.png,x", "path-outside", "files.allow_outside"),
        ("link.png,x", "path-outside", "files.allow_outside"),
        ("file:///etc/passwd,x", "path-outside", "files.allow_outside"),
        ("s3://bucket/x.png,x", "path-outside", "files.allow_outside"),
    ],
)
def test_a_bad_row_is_a_reject_and_the_next_is_read(write, tmp_path, line, kind, reason):
    (tmp_path / "out.png").write_bytes(PNG)
    (tmp_path / "m" / "link.png").symlink_to(tmp_path / "out.png")
    os.mkfifo(tmp_path / "m" / "pipe.png")
    before, after = "image,text\nmedia/1.png,first\n", "\nmedia/2.png,last\n"
    rows = read_rows(write(f"{before}{line}{after}".encode("latin-1")))
    assert [fault(row) for row in rows] == [None, kind, None]
    assert reason in rows[1]["error"]["reason"]
    assert rows[2]["text"] == b"last"


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "7", '{"image": 7}', '{"image": ["a.png", "b.png"]}', '{"text": {}}', '{"id": "\\ud800"}'],
)
def test_a_bad_line_of_json_is_a_reject(write, line):
    good = '{"image": "media/1.png"}\n'
    rows = read_rows(write(f"{good}{line}\n{good}", "list.jsonl"))
    assert [bool(row["error"]) for row in rows] == [False, True, False]


def test_what_is_allowed_is_read_outside(write, tmp_path):
    (tmp_path / "out.png").write_bytes(PNG)
    path = write(f"image,text\n../out.png,a\n{tmp_path}/out.png,b\nfile://{tmp_path}/out.png,c\n")
    rows = read_rows(path, files=FileOptions(allow_outside=True))
    assert [row["image"] for row in rows] == [PNG] * 3


def test_a_path_may_leave_the_manifests_directory_within_the_input(write, tmp_path):
    (tmp_path / "out.png").write_bytes(PNG)
    write("image,text\n../out.png,a\n")
    (shard,) = list_shards([str(tmp_path)])
    assert shard.name == "m/list.csv"
    assert [row["image"] for row in read_rows(tmp_path)] == [PNG]


def test_another_encoding_is_named(write):
    (row,) = read_rows(write("image,text\nmedia/1.png,x\n".encode("utf-16")))
    assert fault(row) == "shard-unreadable"
    assert "UTF-16" in row["error"]["reason"]


def test_a_manifest_without_rows_is_empty(write):
    (row,) = read_rows(write("image,text\n"))
    assert fault(row) == "shard-empty"


def test_a_manifest_is_cut_where_its_rows_begin(write):
    path = write("image,text\n" + 'media/1.png,"two\nlines"\n' * 100)
    index = index_of(shard_at(path), ReadOptions())
    first, second = index.cut(Missing(0, None, 0), lambda: 64)
    rows = [row for gap in (first, second) for row in read_rows(path, gap)]
    assert columns(rows, "row") == [(i,) for i in range(100)]
    assert rows == read_rows(path)


def test_without_payload_no_file_is_opened(write):
    rows = read_rows(write("image,text\nmedia/9.png,x\n"), payload=False)
    assert columns(rows, "key", "image", "error") == [("media/9.png", None, None)]


class TestWhatIsAShard:
    def test_a_manifest_that_names_files_comes_before_the_files(self, write, tmp_path):
        write("image,text\nmedia/1.png,x\n")
        assert [shard.format for shard in list_shards([str(tmp_path / "m")])] == ["csv"]

    def test_a_table_of_other_things_leaves_the_files_their_place(self, write, tmp_path):
        write("species,weight\ncat,4\n")
        assert [shard.name for shard in list_shards([str(tmp_path / "m")])] == ["media"]

    def test_a_table_beside_shards_is_about_them(self, write, tmp_path):
        write("image,text\nmedia/1.png,x\n")
        (tmp_path / "m" / "a.parquet").write_bytes(b"PAR1")
        for named in (tmp_path / "m", f"{tmp_path}/m/*"):
            assert [shard.name for shard in list_shards([str(named)])] == ["a.parquet"]
        assert [shard.format for shard in list_shards([f"{tmp_path}/m/*.csv"])] == ["csv"]


def test_a_manifest_without_rows_is_not_cut(write):
    assert index_of(shard_at(write("image,text\n")), ReadOptions()) is None
