"""The standard error of a mean whose records come in groups."""

import numpy as np
import numpy.typing as npt


def clustered_error(values: npt.NDArray[np.bool_ | np.int64 | np.float64], groups: list[str]) -> float:
    """Standard error of a mean if values of one group are not independent (Liang & Zeger 1986)."""
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, values - values.mean())
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values))
