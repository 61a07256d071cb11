"""What `jobs/bench/seeds.py` says before it runs anything."""

import pytest
import typer
from support.scripts import load_script

seeds = load_script("jobs/bench/seeds.py")


def test_ways_with_different_numbers_of_seeds_are_refused(capsys):
    with pytest.raises(typer.Exit) as failure:
        seeds.main(one="a,b", other="c")
    assert failure.value.exit_code == 2
    assert "--one has 2 bundles, --other 1" in capsys.readouterr().out
