"""The exact test agrees with SciPy's, and bins hold every value once, however records are cut up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from mmray.drift import Sketch
from mmray.drift.exact import chances

RECORDS = st.integers(1, 3000)


@given(RECORDS, RECORDS, st.floats(0, 1), st.floats(0, 1))
def test_a_chance_is_twice_the_smaller_tail_or_not_worth_a_figure(new_records, old_records, share, other):
    new, old = int(share * new_records), int(other * old_records)
    found = chances(np.array([new]), new_records, np.array([old]), old_records)[0]
    source = hypergeom(new_records + old_records, new + old, new_records)
    exact = min(1.0, 2 * min(source.cdf(new), source.sf(new - 1)))
    assert found == 1.0 or np.isclose(found, exact, rtol=1e-6, atol=1e-300)
    assert found >= exact * (1 - 1e-6)


@given(RECORDS, RECORDS, st.floats(0, 1), st.floats(0, 1))
def test_it_does_not_matter_which_of_the_two_is_called_new(new_records, old_records, share, other):
    new, old = np.array([int(share * new_records)]), np.array([int(other * old_records)])
    there, back = chances(new, new_records, old, old_records), chances(old, old_records, new, new_records)
    assert np.allclose(there, back, rtol=1e-6, atol=1e-300)


@given(st.lists(st.floats(-9, 9), max_size=40), st.sets(st.floats(-9, 9), min_size=1), st.integers(0, 40))
def test_every_size_is_in_one_bin_and_counts_of_parts_add_up(values, edges, cut):
    sketch = Sketch(name="size", edges=tuple(sorted(edges)), counts=())
    bins, sizes = len(edges) + 1, np.array(values)

    def count(some):
        return np.bincount(sketch.places(some), minlength=bins)

    assert (count(sizes[:cut]) + count(sizes[cut:]) == count(sizes)).all()
    for number, edge in enumerate(sketch.edges, start=1):
        assert count(sizes)[:number].sum() == (sizes <= edge).sum()


@given(st.lists(st.integers(0, 20), max_size=40), st.sets(st.integers(0, 20), min_size=1))
def test_every_kind_has_its_bin_and_unknown_ones_share_the_last(values, codes):
    sketch = Sketch(name="kind", codes=tuple(sorted(codes)), counts=())
    found = np.bincount(sketch.places(np.array(values, float)), minlength=len(codes) + 1)
    expected = [values.count(code) for code in sketch.codes]
    assert found.tolist() == [*expected, len(values) - sum(expected)]
