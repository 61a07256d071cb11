"""Train, tune and test: what records state counts, else the hash of their group, and no group is torn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray.evaluation.splits import AS_STATED, BY_HASH, SPLITS, TUNE_OF_TRAIN, assign, group_of

names = st.sampled_from([None, "train", "tune", "test", "validation", "extra", 3])
records = st.lists(st.tuples(names, st.text(max_size=3)), min_size=1, max_size=60)


def test_what_is_stated_counts_under_the_names_that_people_use():
    stated = ["train", "training", "tune", "val", "valid", "validation", "dev", "test", "Test"]
    assigned = assign(stated, [f"g{i}" for i in range(len(stated))])
    assert list(assigned.of) == ["train"] * 2 + ["tune"] * 5 + ["test"] * 2
    assert assigned.rule == AS_STATED


def test_a_name_that_is_no_split_is_left_out():
    assert list(assign(["train", "tune", "unlabeled"], ["a", "b", "c"]).of) == ["train", "tune", ""]


def test_where_nothing_is_stated_groups_are_drawn_by_their_name():
    groups = [f"caption {i}" for i in range(3000)]
    assigned = assign([None] * 3000, groups)
    assert assigned.rule == BY_HASH
    shares = [np.mean(assigned.of == split) for split in SPLITS]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.03)
    alone = assign([None], ["caption 17"]).of[0]
    assert alone == assigned.of[17], "whatever else is read"


def test_where_no_tune_is_stated_a_quarter_of_train_is():
    groups = [f"g{i // 2}" for i in range(2000)]
    stated = ["train" if i < 1600 else "test" for i in range(2000)]
    assigned = assign(stated, groups)
    assert assigned.rule == TUNE_OF_TRAIN
    assert np.mean(assigned.of[:1600] == "tune") == pytest.approx(0.25, abs=0.04)
    assert (assigned.of[1600:] == "test").all()


def test_a_silent_record_goes_with_its_group():
    assert list(assign([None, "test", "tune", None], ["a", "a", "b", "b"]).of) == [
        "test",
        "test",
        "tune",
        "tune",
    ]


@given(records)
def test_no_group_is_torn_where_nothing_is_stated_and_every_record_is_somewhere(pairs):
    stated, groups = zip(*pairs, strict=True)
    silent = assign([None] * len(groups), groups)
    assert all(
        len({side for side, g in zip(silent.of, groups, strict=True) if g == group}) == 1 for group in groups
    )
    assigned = assign(stated, groups)
    assert len(assigned.of) == len(groups)
    assert set(assigned.of) <= {*SPLITS, ""}
    assert all(
        name is None or side for name, side in zip(stated, assigned.of, strict=True) if name in (None, "test")
    )


def test_counts_are_of_records_and_groups_and_tell_of_groups_on_two_sides():
    groups = np.array(["a", "a", "b", "c", "a"])
    card = assign(["train", "train", "tune", "test", "test"], groups.tolist()).counts(groups)
    assert card == {
        "rule": AS_STATED,
        "train": {"records": 2, "groups": 1},
        "tune": {"records": 1, "groups": 1},
        "test": {"records": 2, "groups": 2},
        "groups_in_train_and_test": 1,
    }


def test_a_record_without_a_group_is_one_by_itself():
    assert group_of({"caption_group": 7}, "s", 3) == "7"
    assert group_of({}, "s", 3) != group_of({}, "s", 4)
