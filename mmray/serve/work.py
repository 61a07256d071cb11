"""Combines requests into one table for the model, and splits its results by request."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.drift import UNWATCHED
from mmray.preprocess import Preprocessor
from mmray.schema import Modality
from mmray.serve.answers import left_out
from mmray.serve.bodies import Item, records_of


@dataclass(frozen=True)
class Work:
    """Records of one request that are answered together."""

    items: list[Item]
    explain: bool = False  # also predict without each modality; of a single record
    is_ours: bool = False  # a probe, not a request: not counted in drift


@dataclass(frozen=True)
class Answered:
    """Result of a `Work`."""

    rows: list[dict[str, Any]]  # of OUTCOMES, one an item
    without: dict[Modality, dict[str, Any]]  # of OUTCOMES, by the modality that was left out
    preprocess_s: float  # times of the batch, which it shared with others
    model_s: float


@dataclass(frozen=True)
class Prepared:
    """TENSORS of several works: their items in order, then the rows without each modality."""

    tensors: pa.Table
    left: list[list[Modality]]  # of each work
    rows: list[npt.NDArray[np.int64]]  # of each work: its items, then one for each of `left`


def prepare(preprocess: Preprocessor, later: Collection[Modality], works: Sequence[Work]) -> Prepared:
    """Preprocess the records of works; `later` as in `Preprocessor.__call__`."""
    tensors = preprocess(records_of([item for work in works for item in work.items]), later)
    preprocess.seconds.clear()
    tables, left, rows = [tensors], [], []
    first, explained = 0, tensors.num_rows
    for work in works:
        without = left_out(tensors.slice(first, 1)) if work.explain else {}
        own = np.arange(first, first + len(work.items))
        rows.append(np.concatenate([own, np.arange(explained, explained + len(without))]))
        first, explained = first + len(work.items), explained + len(without)
        tables += without.values()
        left.append(list(without))
    made_up = [work.is_ours for work in works for _ in work.items]
    made_up += [True] * (explained - tensors.num_rows)
    every = pa.concat_tables(tables) if len(tables) > 1 else tensors
    return Prepared(every.append_column(UNWATCHED, pa.array(made_up, pa.bool_())), left, rows)


def answer_of(
    work: Work,
    left: Sequence[Modality],
    rows: Sequence[dict[str, Any]],
    *,
    preprocess_s: float,
    model_s: float,
) -> Answered:
    """The answer of a work from its rows of OUTCOMES, in the order of `Prepared.rows`."""
    own = len(work.items)
    return Answered(list(rows[:own]), dict(zip(left, rows[own:], strict=True)), preprocess_s, model_s)
