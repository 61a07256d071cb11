"""What requests ask for, as one table for the model, and what came of it, for each of them again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mmray.preprocess import Preprocessor
from mmray.schema import Modality
from mmray.serve.answers import left_out
from mmray.serve.bodies import Item, records_of


@dataclass(frozen=True)
class Work:
    """Records of one request that are answered together."""

    items: list[Item]
    explain: bool = False  # also decide with each modality left out; of a single record


@dataclass(frozen=True)
class Answered:
    """What became of a `Work`."""

    rows: list[dict[str, Any]]  # of OUTCOMES, one an item
    without: dict[Modality, dict[str, Any]]  # of OUTCOMES, by the modality that was left out
    preprocess_s: float  # both are of the batch that it shared with others
    model_s: float


@dataclass(frozen=True)
class Prepared:
    """TENSORS of several works: their items in order, then what is to be explained, modality by modality."""

    tensors: pa.Table
    left: list[list[Modality]]  # of each work


def prepare(preprocess: Preprocessor, later: Collection[Modality], works: Sequence[Work]) -> Prepared:
    """Preprocess the records of works; `later` as `Preprocessor.__call__` has it."""
    tensors = preprocess(records_of([item for work in works for item in work.items]), later)
    preprocess.seconds.clear()
    tables, left = [tensors], []
    first = 0
    for work in works:
        without = left_out(tensors.slice(first, 1)) if work.explain else {}
        first += len(work.items)
        tables += without.values()
        left.append(list(without))
    return Prepared(pa.concat_tables(tables) if len(tables) > 1 else tensors, left)


def share_out(
    works: Sequence[Work],
    prepared: Prepared,
    rows: Sequence[dict[str, Any]],
    *,
    preprocess_s: float,
    model_s: float,
) -> list[Answered]:
    """The answer of each work, from the rows of OUTCOMES of what was prepared."""
    remaining = iter(rows)
    own = [[next(remaining) for _ in work.items] for work in works]
    return [
        Answered(mine, {m: next(remaining) for m in left}, preprocess_s, model_s)
        for mine, left in zip(own, prepared.left, strict=True)
    ]
