"""A folder of loose files becomes rows: files of one stem are a record, and none is left out in silence."""

import os

import pytest
from support.media import clip, image_bytes
from support.reading import columns, fault, read_rows, shard_at

from mmray.coverage import Missing
from mmray.errors import ChangedError, InputError
from mmray.sources import ReadOptions, changes, list_shards, read
from mmray.sources.index import index_of, write_index
from mmray.sources.options import FileOptions
from mmray.storage import Location

PNG = image_bytes()
WAV = clip()


@pytest.fixture
def pets(tmp_path):
    """Two classes: a picture, a caption and a sound each; and a picture alone."""
    for name in ("cats", "dogs"):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        for stem in ("1", "Screenshot 2020.01.02"):
            (folder / f"{stem}.png").write_bytes(PNG)
        (folder / "1.txt").write_text(f"one of the {name}")
        (folder / "1.wav").write_bytes(WAV)
    return tmp_path / "pets"


def rows_of(path, **options):
    """Rows of all shards of an input."""
    return [
        row
        for shard in list_shards([str(path)])
        for block in read(shard, ReadOptions(**options))
        for row in block.to_pylist()
    ]


def only(folder, files):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def test_files_of_a_stem_are_a_record_and_a_directory_is_a_shard(pets):
    assert [shard.name for shard in list_shards([str(pets)])] == ["cats", "dogs"]
    rows = rows_of(pets)
    assert columns(rows, "key", "row", "end", "text", "meta") == [
        ("cats/1", 0, False, b"one of the cats", b'{"folder": "cats"}'),
        ("cats/Screenshot 2020.01.02", 1, True, None, b'{"folder": "cats"}'),
        ("dogs/1", 0, False, b"one of the dogs", b'{"folder": "dogs"}'),
        ("dogs/Screenshot 2020.01.02", 1, True, None, b'{"folder": "dogs"}'),
    ]
    assert [row["image"] for row in rows] == [PNG] * 4
    assert [row["audio"] for row in rows] == [WAV, None, WAV, None]


def test_the_folder_joins_the_members_own_metadata(tmp_path):
    only(tmp_path / "a", {"1.png": PNG, "1.json": '{"folder": "mine", "n": 1}', "2.png": PNG, "2.json": "no"})
    metas = [row["meta"] for row in rows_of(tmp_path / "a")]
    assert metas == [b'{"folder": "mine", "n": 1}', b"no"]


def test_files_beside_shards_are_no_records(pets):
    (pets / "s.parquet").write_bytes(b"PAR1")
    assert [shard.name for shard in list_shards([str(pets)])] == ["s.parquet"]


def test_what_is_about_the_folder_or_of_a_system_is_no_record(tmp_path):
    odd = {
        "README.txt": "read",
        "LICENSE": "x",
        ".DS_Store": "x",
        "._1.png": "x",
        "Thumbs.db": "x",
        "n.xml": "x",
    }
    folder = only(tmp_path / "a", {"1.png": PNG, **odd})
    only(tmp_path / "a" / "__MACOSX", {"2.png": PNG})
    only(tmp_path / "a" / ".thumbs", {"3.png": PNG})
    assert columns(rows_of(folder), "key") == [("1",)]


def test_a_directory_without_media_holds_no_shards(tmp_path):
    with pytest.raises(InputError, match="no shards"):
        list_shards([str(only(tmp_path / "a", {"README.md": "x", "main.py": "x"}))])


@pytest.mark.parametrize(
    ("files", "modality"),
    [
        ({"a.jp2": "x"}, "image"),
        ({"a.png": PNG, "a.wma": "x"}, "audio"),
        ({"a.mp4": "x", "a.txt": "x"}, "image"),
        ({"a.png": PNG, "a.mp4": "x"}, None),
        ({"a.png": PNG, "a.cls": "7"}, None),
    ],
)
def test_a_file_that_is_not_read_is_said_with_the_modality_that_it_would_be(tmp_path, files, modality):
    (row,) = rows_of(only(tmp_path / "a", {**files, "b.png": PNG}))[:1]
    (other,) = row["unread"]
    assert (row["key"], fault(row), other["modality"]) == ("a", None, modality)
    assert other["kind"] == f".{other['name'][2:]} files"


def test_small_files_are_carried(tmp_path):
    (row,) = rows_of(only(tmp_path / "a", {"a.png": PNG, "a.cls": "7\n"}), carry=("cls",))
    assert (dict(row["fields"]), row["unread"]) == ({"cls": "7"}, None)


def test_files_of_no_record_are_said_with_the_first_one(tmp_path):
    rows = rows_of(only(tmp_path / "a", {"1.png": PNG, "2.png": PNG, "README.md": "x", "n.xml": "x"}))
    kinds = [sorted(thing["kind"] for thing in row["unread"] or ()) for row in rows]
    assert kinds == [[".md files of no record", ".xml files of no record"], []]


@pytest.mark.parametrize("files", [{"a.png": PNG, "a.jpg": PNG}, {"a.png": PNG, "a.PNG": PNG}])
def test_two_files_of_one_modality_reject_their_record(tmp_path, files):
    (row,) = rows_of(only(tmp_path / "a", {**files, "b.png": PNG}))[:1]
    assert (row["key"], fault(row)) == ("a", "repeated-member")


def test_a_large_file_is_a_reject(tmp_path):
    rows = rows_of(only(tmp_path / "a", {"1.png": PNG, "2.png": PNG * 3}), member_bytes=2 * len(PNG))
    assert [fault(row) for row in rows] == [None, "member-too-large"]


def test_a_link_out_of_the_input_is_refused_unless_it_is_allowed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    folder = only(tmp_path / "a", {"1.png": PNG, "3.png": PNG})
    (folder / "1.txt").symlink_to(tmp_path / "secret")
    (folder / "2.png").symlink_to("1.png")
    (folder / "pipe.png").symlink_to("/dev/zero")
    rows = {row["key"]: row for row in rows_of(folder)}
    assert fault(rows["1"]) == "path-outside"
    assert "files.allow_outside" in rows["1"]["error"]["reason"]
    assert rows["2"]["image"] == PNG
    allowed = {row["key"]: row for row in rows_of(folder, files=FileOptions(allow_outside=True))}
    assert allowed["1"]["text"] == b"secret"


def test_rows_are_read_from_any_on(pets):
    shard = shard_at(pets)
    (block,) = read(shard, ReadOptions(), [Missing(1, None, 1)])
    assert block["row"].to_pylist() == [1]
    assert block["end"].to_pylist() == [True]


def test_a_large_folder_is_cut_by_rows(tmp_path):
    folder = only(tmp_path / "a", {f"{i:03}.png": PNG for i in range(130)})
    index = index_of(shard_at(folder), ReadOptions())
    assert list(index.cut(Missing(0, None, 0), lambda: 64)) == [
        Missing(0, 63, 0),
        Missing(64, 127, 64),
        Missing(128, None, 128),
    ]


@pytest.mark.parametrize("change", ["edit", "touch", "add", "remove"])
def test_a_folder_that_changed_is_not_read(pets, change):
    shards = list_shards([str(pets)])
    file = pets / "cats" / "1.txt"
    if change == "edit":
        file.write_text("ONE of the cats")
        os.utime(file, ns=(1, 1))
    elif change == "touch":
        os.utime(file, ns=(1, 1))
    elif change == "add":
        (pets / "cats" / "3.png").write_bytes(PNG)
    else:
        file.unlink()
    assert list(changes(shards)) == [shards[0].id]
    with pytest.raises(ChangedError):
        list(read(shards[0], ReadOptions()))
    assert list(read(shards[1], ReadOptions()))


def test_a_copy_without_times_is_the_same_where_that_is_said(pets):
    before = shard_at(pets).state
    os.utime(pets / "cats" / "1.txt", ns=(1, 1))
    now = shard_at(pets).state
    assert before.difference(now)
    assert not before.difference(now, moved=True)


class TestTable:
    """The table that Hugging Face's ImageFolder and AudioFolder have beside the files."""

    def test_its_columns_are_caption_and_metadata(self, pets):
        (pets / "metadata.csv").write_text(
            "file_name,text,label\ncats/1.png,a caption,0\ndogs/Screenshot 2020.01.02.png,a dog,1\n"
        )
        rows = {row["key"]: row for row in rows_of(pets)}
        assert rows["cats/1"]["text"] == b"one of the cats"  # a file of its own comes first
        assert rows["cats/1"]["meta"] == b'{"folder": "cats", "label": "0", "text": "a caption"}'
        assert rows["dogs/Screenshot 2020.01.02"]["text"] == b"a dog"

    def test_a_table_of_json_lines(self, tmp_path):
        lines = '{"file_name": "1.wav", "transcription": "hello"}\n'
        (row,) = rows_of(only(tmp_path / "a", {"1.wav": WAV, "metadata.jsonl": lines}))
        assert (row["audio"], row["text"]) == (WAV, b"hello")

    def test_a_row_whose_file_is_missing_is_a_reject(self, pets):
        (pets / "metadata.csv").write_text("file_name,text\ncats/9.png,x\nbirds/1.png,y\n../out.png,z\nbad\n")
        rows = rows_of(pets)
        assert [(row["key"], fault(row)) for row in rows if row["error"]] == [
            ("metadata-55", "row-malformed"),
            ("birds/1", "file-missing"),
            ("../out", "file-missing"),
            ("cats/9", "file-missing"),
        ]
        assert len(rows) == 8

    def test_a_table_that_changed_changes_each_folder_it_describes(self, pets):
        (pets / "metadata.csv").write_text("file_name,text\ncats/1.png,x\n")
        shards = list_shards([str(pets)])
        (pets / "metadata.csv").write_text("file_name,text\ncats/1.png,xy\n")
        assert set(changes(shards)) == {shard.id for shard in shards}

    def test_a_table_that_cannot_be_read_is_a_fault_of_the_folder(self, tmp_path):
        folder = only(tmp_path / "a", {"1.png": PNG, "metadata.csv": "file_name,text\n,\n"})
        (row,) = rows_of(folder)
        assert fault(row) == "shard-unreadable"


def test_a_row_of_a_folder_is_read_again_where_it_was(pets):
    whole = read_rows(pets)
    for row in whole:
        (again,) = read_rows(pets, Missing(row["row"], row["row"], row["offset"]))
        assert again == row


def test_files_of_a_store(s3):
    files = {"cats/1.png": PNG, "cats/1.txt": b"a cat", "dogs/2.png": PNG}
    table = b"file_name,label\ncats/1.png,0\ndogs/9.png,1\n"
    for name, data in {**files, "metadata.csv": table}.items():
        Location.parse(s3.url(f"in/{name}")).write_atomically(data)
    rows = rows_of(s3.url("in"))
    assert columns(rows, "key", "image", "text", "meta") == [
        ("cats/1", PNG, b"a cat", b'{"folder": "cats", "label": "0"}'),
        ("dogs/2", PNG, None, b'{"folder": "dogs"}'),
        ("dogs/9", None, None, None),
    ]
    shards = list_shards([s3.url("in")])
    assert not changes(shards)
    Location.parse(s3.url("in/cats/2.png")).write_atomically(PNG)
    assert list(changes(shards)) == [shards[0].id]
    with pytest.raises(ChangedError):
        list(read(shards[0], ReadOptions()))


def test_a_manifest_of_a_store(s3):
    lines = "image,text\nmedia/1.png,a\n../out.png,b\nmedia/2.png,c\n"
    for name, data in {"in/list.csv": lines.encode(), "in/media/1.png": PNG, "out.png": PNG}.items():
        Location.parse(s3.url(name)).write_atomically(data)
    rows = rows_of(s3.url("in"))
    assert [(row["image"], fault(row)) for row in rows] == [
        (PNG, None),
        (None, "path-outside"),
        (None, "file-missing"),
    ]


def test_what_is_indexed_quickly_gets_no_file(tmp_path):
    folder = only(tmp_path / "a", {"1.png": PNG})
    assert write_index(shard_at(folder)).rows == 1
    assert [file.name for file in tmp_path.rglob("*")] == ["a", "1.png"]
