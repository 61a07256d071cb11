"""What `jobs/bench/seeds.py` says before it runs anything, and how it combines seeds and folds."""

import numpy as np
import pytest
import typer
from support.scripts import load_script

from mmray.errors import InputError

seeds = load_script("jobs/bench/seeds.py")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"one": "a,b", "other": "c"}, "--one has 2 bundles, --other 1"),
        ({"one": "a,b", "other": "c,d", "input": "x,y,z"}, "--input has 3 directories: give one, or one for"),
        ({"one": "a", "other": "c", "input": "nowhere"}, "nowhere: no test-*.tar there"),
    ],
)
def test_bundles_and_inputs_that_do_not_match_are_refused(given, said, capsys):
    with pytest.raises(typer.Exit) as failure:
        seeds.main(**{"input": "data/emoji", "shards": "test-*.tar", **given})
    assert failure.value.exit_code == 2
    assert said in capsys.readouterr().out


def test_seeds_are_averaged_record_by_record_and_folds_are_joined():
    gains = [np.array([1.0, 0.0]), np.array([0.0, -1.0])]
    mean, of = seeds.pooled(gains, [["dog", "cat"], ["dog", "cat"]], is_folds=False)
    assert (mean.tolist(), of) == ([0.5, -0.5], ["dog", "cat"])
    whole, of = seeds.pooled(gains, [["dog", "cat"], ["cat", "owl"]], is_folds=True)
    assert (whole.tolist(), of) == ([1.0, 0.0, 0.0, -1.0], ["dog", "cat", "cat", "owl"])


def test_seeds_that_answered_for_other_records_are_refused():
    with pytest.raises(InputError, match="give each pair its own --input"):
        seeds.pooled([np.zeros(1), np.zeros(1)], [["dog"], ["cat"]], is_folds=False)
