"""Preprocessed shards on disk: the same tensors as the job's, made once."""

import numpy as np
import pytest
from support.bundles import SPEC, small_tokenizer

from mmray.batching import pack
from mmray.errors import InputError
from mmray.preprocess import Preprocessor
from mmray.sources import ReadOptions, list_shards, read
from mmray.training.prepared import prepare


@pytest.fixture(scope="module")
def prepared(shards, tmp_path_factory):
    said = []
    found = prepare(
        list_shards([str(shards)]),
        SPEC,
        small_tokenizer(),
        tmp_path_factory.mktemp("prepared"),
        least_records=5,
        say=said.append,
    )
    assert said[-1] == "preprocessed 8 of 8 shards"
    return found


def test_rows_are_what_the_job_would_pack(prepared, shards):
    first = next(read(list_shards([str(shards)])[0], ReadOptions(block_rows=8)))
    expected = pack(Preprocessor(SPEC, small_tokenizer())(first), SPEC)
    found = prepared.feeds(np.arange(8))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_rows_come_in_the_order_that_is_asked_for(prepared):
    rows = np.array([201, 3, 90, 4])
    together = prepared.tensors(rows)["pixels"].to_pylist()
    assert together == [prepared.tensors(np.array([row]))["pixels"][0].as_py() for row in rows]


def test_present_says_what_feeds_hold(prepared):
    rows = np.arange(len(prepared))[::7]
    np.testing.assert_array_equal(prepared.present[rows], prepared.feeds(rows)["present"])


def test_what_is_there_is_not_made_again_and_what_was_cut_short_goes_on(shards, tmp_path):
    listed, said = list_shards([str(shards)]), []

    def once():
        return prepare(listed, SPEC, small_tokenizer(), tmp_path, least_records=5, say=said.append)

    whole = once()
    files = sorted(tmp_path.rglob("*.arrow"))
    files[-1].rename(files[-1].with_suffix(".partial"))
    said.clear()
    again = once()
    assert said == ["preprocessed 8 of 8 shards"]
    assert again.identity == whole.identity
    np.testing.assert_array_equal(again.labels, whole.labels)


def test_rare_labels_are_left_out(prepared, shards, tmp_path):
    names, counts = np.unique(prepared.labels, return_counts=True)
    least = int(np.sort(counts)[len(counts) // 2])
    found = prepare(
        list_shards([str(shards)]), SPEC, small_tokenizer(), tmp_path, least_records=least, say=lambda _: None
    )
    assert set(found.labels) == set(names[counts >= least])


def test_shards_without_labels_are_refused_by_name(tmp_path):
    from support.tars import good_records, write_shard

    write_shard(tmp_path / "in" / "a.tar", good_records(3))
    with pytest.raises(InputError, match=r"a\.tar.*`label`"):
        prepare(
            list_shards([str(tmp_path / "in")]),
            SPEC,
            small_tokenizer(),
            tmp_path,
            least_records=5,
            say=lambda _: None,
        )
