"""Records of each split come as the job reads them; each of them is read when it is needed, and only then."""

import json

import pytest
from support.bundles import LABELS
from support.linear import linear_bundle, write_labelled
from support.tars import write_shard

from mmray.errors import InputError
from mmray.evaluation.records import Records
from mmray.evaluation.splits import SPLITS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return linear_bundle(tmp_path_factory.mktemp("linear") / "bundle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 records of test, 40 of train, 50 of tune."""
    folder = write_labelled(tmp_path_factory.mktemp("records"))
    write_labelled(folder, rows=50, split="tune", seed=2)
    return write_labelled(folder, rows=40, split="train")


def find(folder, bundle, rows=1000):
    return Records([str(folder)], bundle, dict.fromkeys(SPLITS, rows))


def keys(records, split):
    return [key for tensors in records.tensors(split) for key in tensors["key"].to_pylist()]


def test_every_split_has_its_own_records_and_the_scorecard_counts_them(folder, bundle):
    records = find(folder, bundle)
    assert [len(records.load(split)) for split in SPLITS] == [40, 50, 120]
    card = records.splits
    assert card["test"] == {"records": 120, "groups": 80}
    assert card["groups_in_train_and_test"] == 0


def test_labels_and_groups_are_those_of_the_json_member(folder, bundle):
    records = find(folder, bundle).load("test")
    metas = [json.loads(meta) for meta in records.tensors["meta"].to_pylist()]
    assert [LABELS[k] for k in records.labels] == [meta["label"] for meta in metas]
    assert list(records.groups) == [meta["caption_group"] for meta in metas]


@pytest.mark.parametrize("meta", [None, b"", b"not json", b"[1]", b'{"label": "dragon"}', b'{"label": 3}'])
def test_a_record_without_a_label_that_the_bundle_knows_is_kept_unlabelled(tmp_path, bundle, meta):
    fields = [{"txt": b"a cat"} | ({} if meta is None else {"json": meta}) for _ in range(40)]
    write_shard(tmp_path / "s.tar", [(f"r{i}", each) for i, each in enumerate(fields)])
    records = find(tmp_path, bundle)
    loaded = [records.load(split) for split in SPLITS]
    assert sum(map(len, loaded)) == 40
    assert {label for part in loaded for label in part.labels} == {-1}
    assert sum(len(set(part.groups)) for part in loaded) == 40, "each is a group by itself"


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_fewer_rows_are_spread_over_all_shards(tmp_path, bundle, rows):
    for name in "abc":
        meta = json.dumps({"split": "test"}).encode()
        write_shard(
            tmp_path / f"{name}.tar", [(f"{name}{i:02}", {"txt": b"a cat", "json": meta}) for i in range(30)]
        )
    found = keys(find(tmp_path, bundle, rows), "test")
    assert len(found) == rows
    assert found == sorted(found)
    shares = [sum(key[0] == name for key in found) for name in "abc"]
    assert max(shares) - min(shares) <= 1


def test_the_records_used_are_named_by_where_they_lie(folder, bundle):
    records, fewer = find(folder, bundle), find(folder, bundle, 30)
    names = {records.identity(split) for split in SPLITS} | {fewer.identity("test")}
    assert len(names) == 4
    assert find(folder, bundle).identity("test") == records.identity("test")


def test_records_that_cannot_be_used_are_left_out(tmp_path, bundle):
    meta = b'{"split": "test"}'
    records = [("a", {"txt": b"a cat"}), ("b", {"png": b"no picture"}), ("c", {}), ("d", {"txt": b"a dog"})]
    write_shard(tmp_path / "s.tar", [(key, fields | {"json": meta}) for key, fields in records])
    assert find(tmp_path, bundle).load("test").tensors["key"].to_pylist() == ["a", "d"]


def test_no_usable_record_is_an_error_that_names_the_input_the_split_and_the_way_out(tmp_path, bundle):
    write_shard(tmp_path / "s.tar", [("a", {"png": b"no picture", "json": b'{"split": "tune"}'})])
    records = find(tmp_path, bundle)
    for split in SPLITS:
        with pytest.raises(InputError, match=f"{tmp_path}: no usable record of the split '{split}'; add"):
            records.load(split)


def test_batches_for_calibration_are_those_of_the_split(folder, bundle):
    assert sum(len(feeds["present"]) for feeds in find(folder, bundle).feeds("train")) == 40
