"""Exact one-sided bounds of a share, from how often something happened (Clopper & Pearson 1934)."""

from __future__ import annotations

from scipy.special import betaincinv


def upper_bound(happened: int, trials: int, confidence: float) -> float:
    """Upper bound of the share, with that confidence, if `happened` of `trials` independent ones did."""
    return 1.0 if happened >= trials else float(betaincinv(happened + 1, trials - happened, confidence))


def lower_bound(happened: int, trials: int, confidence: float) -> float:
    """Lower bound of the share."""
    return 0.0 if happened == 0 else float(betaincinv(happened, trials - happened + 1, 1 - confidence))
