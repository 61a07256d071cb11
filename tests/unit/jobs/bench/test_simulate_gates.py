"""What `jobs/bench/gates.py` takes for the truth is the truth."""

import numpy as np
import pytest
from support.scripts import load_script

simulated = load_script("jobs/bench/_simulated.py")
gates = load_script("jobs/bench/gates.py")


@pytest.mark.parametrize("sizes", simulated.SIZES)
@pytest.mark.parametrize("within", [0.0, 0.5, 1.0])
def test_of_all_records_of_a_population_as_many_are_hit_as_was_said(sizes, within):
    case, random = simulated.Case(200_000, sizes, within), np.random.default_rng(0)
    group, factor = case.draw(random)
    hit = case.latent(random, group) < 0.1 * factor
    assert hit.mean() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("within", [0.0, 0.5, 1.0])
def test_records_of_a_group_are_as_alike_as_was_said(within):
    group = np.repeat(np.arange(50_000), 2)
    case = simulated.Case(50_000, simulated.ANY, within)
    pairs = case.latent(np.random.default_rng(0), group).reshape(-1, 2)
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(within, abs=0.02)


def test_a_threshold_is_lowered_until_the_first_that_is_not_shown():
    bounds = {0.9: 0.01, 0.8: 0.02, 0.7: 0.06, 0.6: 0.03}
    assert simulated.lowest(np.array(list(bounds)), bounds.__getitem__, 0.05) == 0.8
    assert simulated.lowest(np.array(list(bounds)), bounds.__getitem__, 0.001) == 1


def test_bounds_that_do_not_hold_are_seen():
    case = simulated.Case(50, simulated.HIT, 1.0)
    found = simulated.bound_of_loss(case, 0.01, 0.0, 40)
    assert found["new"] > 0.9
    assert found["percentile"] < 0.6


def test_every_part_names_cases_that_its_function_takes():
    for function, calls in gates.case_lists().values():
        assert set(function(*calls[0], 2)) >= {"new"}
