"""Which shards an input names, and that a shard's id comes from its path and size alone."""

import pytest

from mmray.errors import InputError, OutputError
from mmray.sources import Shard, list_shards


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Four tars and a note; the folder is the working directory."""
    for name in ("train/0.tar", "train/1.tar", "test/0.tar", "deep/er/9.tar", "train/readme.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())  # every file another size or name
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(*inputs):
    return [shard.id for shard in list_shards(inputs)]


def test_a_directory_gives_its_tars_at_any_depth_and_nothing_else(data):
    assert ids(str(data)) == ["deep/er/9.tar@13", "test/0.tar@10", "train/0.tar@11", "train/1.tar@11"]


def test_a_file_is_named_by_itself(data):
    assert ids(str(data / "train/0.tar")) == ["0.tar@11"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("train/*.tar", ["0.tar@11", "1.tar@11"]),
        ("train/[1-9].tar", ["1.tar@11"]),
        ("*/0.tar", ["test/0.tar@10", "train/0.tar@11"]),
        ("train/{0..1}.tar", ["0.tar@11", "1.tar@11"]),
        ("{train,test}/0.tar", ["test/0.tar@10", "train/0.tar@11"]),
        ("{train,test}/*.tar", ["test/0.tar@10", "train/0.tar@11", "train/1.tar@11"]),
        ("t{rain,est}", ["test/0.tar@10", "train/0.tar@11", "train/1.tar@11"]),
    ],
)
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_patterns_name_shards_relative_to_their_fixed_directory(data, pattern, expected, relative):
    assert ids(pattern if relative else f"{data}/{pattern}") == expected


def test_a_glob_crosses_directories_only_where_it_says_so(data):
    """`*` does not match a slash."""
    with pytest.raises(InputError, match=r"no shards .* check --input"):
        list_shards([f"{data}/*.tar"])


def test_a_file_url_is_as_good_as_a_path(data):
    assert list_shards([f"file://{data}/train"]) == list_shards([str(data / "train")])


def test_ids_do_not_change_when_inputs_come_or_go(data):
    alone = list_shards(["train"])
    beside = list_shards(["test/0.tar", "train", "deep"])
    assert set(alone) < set(beside)


def test_order_of_inputs_changes_nothing(data):
    assert list_shards(["train", "deep"]) == list_shards(["deep", "train"])


def test_the_same_shard_named_twice_is_one_shard(data):
    assert ids("train", "train/*.tar", "./train/0.tar") == ["0.tar@11", "1.tar@11"]


def test_an_id_changes_with_the_size(data):
    before = ids("train/0.tar")
    (data / "train/0.tar").write_bytes(b"longer than it was")
    assert ids("train/0.tar") != before


def test_two_shards_of_one_id_are_refused(data):
    """Same name and size below two inputs: rows of one would be taken for rows of the other."""
    (data / "test/0.tar").write_bytes(b"train/0.tar")
    with pytest.raises(InputError, match="common directory") as e:
        list_shards(["train", "test"])
    assert "train/0.tar" in str(e.value)
    assert "test/0.tar" in str(e.value)
    assert len(list_shards(["."])) == 4


@pytest.mark.parametrize(
    "nothing", ["empty", "train/*.zip", "nowhere", "nowhere.tar", "train/{5..6}.tar", "none/*.tar"]
)
def test_an_input_that_names_nothing_is_refused_by_name(data, nothing):
    (data / "empty").mkdir()
    with pytest.raises(InputError, match="check --input") as e:
        list_shards(["train", nothing])
    assert nothing.split("{")[0] in str(e.value)


def test_unbalanced_braces_are_refused(data):
    with pytest.raises(InputError, match="unbalanced braces"):
        list_shards(["train/{0..1.tar"])


def test_files_not_yet_in_place_are_no_shards(data):
    (data / "train/.tmp-7-2.tar").write_bytes(b"half")
    assert ids("train") == ["0.tar@11", "1.tar@11"]


def test_a_shards_name_is_its_id_without_the_size():
    assert Shard("a@b/0.tar@11", "/x/a@b/0.tar", 11).name == "a@b/0.tar"


def test_a_shard_comes_back_from_a_plan_and_one_of_another_version_is_refused(data):
    for shard in list_shards([str(data)]):
        assert Shard.from_list(shard.to_list()) == shard
    with pytest.raises(OutputError, match=r"lists a shard as \['a@1', 1\].*choose another --output"):
        Shard.from_list(["a@1", 1])
