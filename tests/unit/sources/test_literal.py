"""A path that exists is that path, whatever characters of patterns are in it."""

import pytest
from support.tars import write_shard

from mmray.errors import InputError, OutputError
from mmray.sources import ReadOptions, list_shards, read, take_listing
from mmray.sources.apart import check_apart
from mmray.storage import Location

ODD = ["run[1]", "run {b}", "run {a,b}", "what?#50%&ü @x", "x*", "a\\b", "[", "%20"]


def fill(folder, *names):
    for name in names:
        write_shard(folder / name, [(name, {"txt": name.encode()})])


INPUTS = ["{}", "{}/", "{}/a b#1.tar", "{}/*.tar", "{}/{{a b#1,c}}.tar", "{}/[a-c]*.tar"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("input", INPUTS)
def test_a_directory_with_characters_of_a_pattern_is_read(tmp_path, monkeypatch, odd, input):
    fill(tmp_path / odd, "a b#1.tar", "c.tar")
    monkeypatch.chdir(tmp_path)
    expected = 1 if input.endswith("a b#1.tar") else 2
    for text in (input.format(odd), f"{tmp_path}/{input.format(odd)}"):
        assert len(list_shards([text])) == expected
        assert {shard.name for shard in list_shards([text])} <= {"a b#1.tar", "c.tar"}


@pytest.mark.parametrize("odd", [f"{name}.tar" for name in ODD])
def test_a_file_with_characters_of_a_pattern_is_read(tmp_path, odd):
    fill(tmp_path, odd)
    (shard,) = list_shards([str(tmp_path / odd)])
    assert shard.name == odd


def test_the_path_wins_and_what_the_pattern_would_also_match_is_said(tmp_path):
    fill(tmp_path, "run[1]/a.tar", "run1/b.tar")
    listing = take_listing([str(tmp_path / "run[1]")])
    assert [shard.name for shard in listing.shards] == ["a.tar"]
    (note,) = listing.notes
    assert f"{tmp_path}/run[1], not {tmp_path}/run1" in note
    assert take_listing([str(tmp_path / "run1")]).notes == []


def test_a_pattern_that_is_no_path_stays_a_pattern(tmp_path):
    fill(tmp_path, "run1/a.tar", "run2/b.tar")
    assert len(list_shards([f"{tmp_path}/run[12]/*.tar"])) == 2
    assert len(list_shards([f"{tmp_path}/run{{1,2}}"])) == 2
    assert len(list_shards([f"{tmp_path}/run?/?.tar"])) == 2
    with pytest.raises(InputError, match="no shards"):
        list_shards([f"{tmp_path}/run[34]/*.tar"])


def test_braces_may_name_paths_with_brackets(tmp_path):
    fill(tmp_path, "run[1]/a.tar", "run[2]/b.tar")
    found = list_shards([f"{tmp_path}/{{run[1],run[2]}}"])
    assert [shard.name for shard in found] == ["run[1]/a.tar", "run[2]/b.tar"]


@pytest.mark.parametrize("odd", ["run[1]", "run {b}", "what?#50%&ü @x", "%20"])
@pytest.mark.parametrize("input", INPUTS)
def test_on_a_store_as_well(s3, tmp_path, odd, input):
    fill(tmp_path, "a b#1.tar", "c.tar")
    for name in ("a b#1.tar", "c.tar"):
        Location.parse(s3.url(f"{odd}/{name}")).write_atomically((tmp_path / name).read_bytes())
    found = list_shards([s3.url(input.format(odd))])
    assert len(found) == (1 if input.endswith("a b#1.tar") else 2)
    assert all(block.num_rows == 1 for shard in found for block in read(shard, ReadOptions()))


def test_an_output_in_such_a_directory_is_refused(tmp_path):
    fill(tmp_path, "run[1]/a.tar")
    for text in ("run[1]", "run[1]/parts/*.parquet"):
        with pytest.raises(OutputError, match="inside one another"):
            check_apart([str(tmp_path / text)], str(tmp_path / "run[1]"), ("parts",))
