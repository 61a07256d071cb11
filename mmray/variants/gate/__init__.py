"""The gate: whether a variant may replace its parent. Decisions compared slice by slice, and the verdict."""

from mmray.variants.gate.comparison import compare, mean_divergence
from mmray.variants.gate.thresholds import Thresholds
from mmray.variants.gate.verdict import FAILED, NOT_ENOUGH, PASSED, Verdict

__all__ = ["FAILED", "NOT_ENOUGH", "PASSED", "Thresholds", "Verdict", "compare", "mean_divergence"]
