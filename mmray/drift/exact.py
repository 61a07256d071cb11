"""Fisher's exact test of whether something is as frequent among some records as among others.

Where both are drawn from the same source, and `pooled` records of all have it, how many of the first have it
follows the hypergeometric distribution, whatever the source is (Fisher 1935, "The Logic of Inductive
Inference").
No approximation: a chance of 1e-9 is 1e-9.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_SCREEN = 3.0  # standard deviations: nearer to the mean, no exact figure is needed

Numbers = npt.NDArray[np.int64]


def chances(new: Numbers, new_records: int, old: Numbers, old_records: int) -> npt.NDArray[np.float64]:
    """Two-sided p-value of each of k events, twice the smaller tail.

    Args:
        new: [k], how many of the new records have each event.
        new_records: how many there are, at least one.
        old: [k], the same of the reference.
        old_records: how many there are, at least one.

    Returns:
        [k]; 1 within three standard deviations of what is expected, which is never too small.
    """
    pooled, records = new + old, new_records + old_records
    mean = new_records * pooled / records
    spread = mean * (1 - pooled / records) * old_records / max(1, records - 1)
    found = np.ones(len(new))
    for i in np.flatnonzero(np.abs(new - mean) > _SCREEN * np.sqrt(spread)):
        found[i] = min(1.0, 2 * _tail(int(new[i]), new_records, int(pooled[i]), records))
    return found


def _tail(happened: int, drawn: int, pooled: int, records: int) -> float:
    """The chance of `happened` or of any count further from the mean on the same side.

    Args:
        happened: how many of the drawn ones have it.
        drawn: how many are drawn.
        pooled: how many of all records have it.
        records: all.
    """
    least, most = max(0, drawn + pooled - records), min(drawn, pooled)
    if happened * records >= drawn * pooled:
        n = np.arange(happened, most + 1)
    else:
        n = np.arange(least, happened + 1)
    log = _log_factorials(1 << records.bit_length())

    def choose(of: int, some: Numbers | int) -> npt.NDArray[np.float64]:
        return np.asarray(log[of] - log[some] - log[of - some])

    logs = choose(pooled, n) + choose(records - pooled, drawn - n) - choose(records, drawn)
    return float(np.exp(logs).sum())


@lru_cache(maxsize=2)
def _log_factorials(most: int) -> npt.NDArray[np.float64]:
    """Logarithms of 0! to most!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
