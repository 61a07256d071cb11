"""Exact one-sided bounds of a share, from how often something happened (Clopper & Pearson 1934)."""

from __future__ import annotations

from scipy.special import betaincinv


def upper_bound(happened: int, trials: int, confidence: float) -> float:
    """The share is at most this, with that confidence, where `happened` of `trials` independent ones did."""
    return 1.0 if happened >= trials else float(betaincinv(happened + 1, trials - happened, confidence))


def lower_bound(happened: int, trials: int, confidence: float) -> float:
    """The share is at least this."""
    return 0.0 if happened == 0 else float(betaincinv(happened, trials - happened + 1, 1 - confidence))
