"""`make bench` takes no contender that is faster because it is wrong."""

import pyarrow as pa
import pytest
from support.scripts import load_script

CONTEST = load_script("jobs/bench/_contest.py")
OURS = {"shard": ["a", "a"], "key": ["1", "2"], "label": ["cat", "dog"], "score": [0.5, 0.9]}


def check(**columns):
    CONTEST.check_answers("other", pa.table(OURS | columns), pa.table(OURS))


def test_the_same_answers_up_to_rounding_pass():
    check(score=[0.5004, 0.9])


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": ["cat", "cat"]}, "1 of 2 rows have another label"),
        ({"key": ["1", "3"]}, "another key"),
        ({"score": [0.5, 0.91]}, "scores are off by up to 0.01"),
        ({"score": [0.5, float("nan")]}, "scores are off"),
        ({name: values[:1] for name, values in OURS.items()}, "1 predictions, mmray has 2"),
    ],
)
def test_others_are_refused_by_name(columns, reason):
    with pytest.raises(CONTEST.ContestError, match=f"other: .*{reason}"):
        check(**columns)
