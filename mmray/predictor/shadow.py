"""Monitors a cascade: a share of the early exits is also run to the end, and the answers are compared."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.batching import Feeds
from mmray.cascade import in_shadow


def drawn(tensors: pa.Table, leaving: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """Which rows of the early exits go on to be compared; every run picks the same ones."""
    if not share or not len(leaving):
        return np.zeros(0, np.int64)
    shards, numbers = (tensors[name].take(leaving).to_pylist() for name in ("shard", "row"))
    return leaving[in_shadow(shards, numbers, share)]


def agreement(early: npt.NDArray[np.int32], found: npt.NDArray[np.int32]) -> Counter[str]:
    """How many rows were "shadowed", and how many "agreed".

    Args:
        early: [B] class that was answered early, or -1.
        found: [B] class that the last stage gives.
    """
    compared = early >= 0
    same = found[compared] == early[compared]
    return Counter({"shadowed": int(compared.sum()), "agreed": int(same.sum())})


def best(outputs: Feeds, decisive: str) -> npt.NDArray[np.int32]:
    """The class of each row [B]."""
    return np.asarray(outputs[decisive].argmax(axis=1), np.int32)
