"""Are two runs' predictions the same?"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SCORES = ("score", "scores")  # float sums in another order differ in their last digits


def read_predictions(output):
    """All parts of a run directory as one table."""
    return pa.concat_tables(pq.read_table(part) for part in sorted((output / "parts").glob("*.parquet")))


def assert_same_predictions(actual, expected, *, by=("shard", "row")):
    """Scores within 1e-4, and every other column identical.

    Args:
        actual: predictions of a run, in any order.
        expected: those of another.
        by: what names a record in both; ("key",) where they read it from other shards.
    """
    ordered = [(name, "ascending") for name in by]
    actual, expected = actual.sort_by(ordered), expected.sort_by(ordered)
    assert actual.num_rows == expected.num_rows
    assert actual.column_names == expected.column_names
    for name in actual.column_names:
        if name in _SCORES:
            ours, theirs = (np.array(table[name].to_pylist(), np.float64) for table in (actual, expected))
            assert np.abs(ours - theirs).max() < 1e-4, name
        elif name in by or by == ("shard", "row") or name not in ("shard", "row"):
            assert actual[name].to_pylist() == expected[name].to_pylist(), name
