"""docs/search.md: its programs run as they stand, and find what is alike."""

import pytest
from support.media import clip, encode, photo
from support.pages import blocks, run_blocks
from support.tars import write_shard

PAGE = "search.md"
APPLE = "food-fruit-apple_red"  # the record that the page names


@pytest.fixture
def place(bundle, tmp_path, monkeypatch):
    """A folder with the names that the page uses: 16 records, some without a picture, two of one picture."""
    monkeypatch.chdir(tmp_path)
    records = []
    for number in range(14):
        fields = {"txt": f"record {number}".encode(), "json": b'{"label": "food"}'}
        records.append((f"food-{number}", fields | {"png": encode(photo(60, 40, seed=number))}))
    records[1] = (APPLE, records[1][1])
    records.append(("copy-of-3", dict(records[3][1])))
    write_shard(tmp_path / "data/tuxpaint/test-000000.tar", records)
    unseen = [("only-text", {"txt": b"a red cat"}), ("only-sound", {"wav": clip()})]
    write_shard(tmp_path / "data/tuxpaint/train-000000.tar", unseen)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles/stamps").symlink_to(bundle.path)
    return tmp_path


def test_the_programs_of_the_page_run_as_they_stand(ray_cluster, place, capsys):
    names = {}
    run_blocks(blocks(PAGE), names)
    keys, pictures = names["keys"], names["features"][:, names["picture"]]
    assert len(keys) == 17
    assert len(names["pictures"]) == len(names["large"]) == 15
    assert keys[names["pictures"].search(pictures[keys.index(APPLE)], 1).keys[0]] == APPLE
    twins = names["pairs"](names["pictures"], pictures, 0.9999)
    assert [keys[row] for row in twins[0]] == ["food-3", "copy-of-3"]
    assert "1.00 food-fruit-apple_red" in capsys.readouterr().out
