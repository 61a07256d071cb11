"""Runs rows of several calls through one stage of a model, and returns them to their calls.

Rows that are answered at a stage return at once. Open rows wait for the next stage together with those of
other batches, so that early answers do not wait for later stages, and later stages run full batches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.predictor import Step


@dataclass(frozen=True)
class Inferred:
    """Results for the rows of one table of TENSORS."""

    rows: list[dict[str, Any]]  # of OUTCOMES
    decode_s: float  # times of the inferences, which they shared with others
    model_s: float


@dataclass(frozen=True)
class Part:
    """Results of a stage for the rows of one call."""

    rows: list[dict[str, Any]]  # of OUTCOMES, those that are answered
    places: npt.NDArray[np.int64]  # indices of these rows in the call
    open: pa.Table  # for the next stage
    open_places: npt.NDArray[np.int64]
    decode_s: float
    model_s: float


def parts(
    step: Step, rows_of: Sequence[npt.NDArray[np.int64]], *, decode_s: float, model_s: float
) -> list[Part]:
    """The part of each call in a step.

    Args:
        step: of the rows of all calls.
        rows_of: rows of each call, in its own order.
        decode_s: seconds shared by all.
        model_s: the same.
    """
    owner = np.empty(sum(map(len, rows_of)), np.int64)
    place = np.empty_like(owner)
    for call, rows in enumerate(rows_of):
        owner[rows], place[rows] = call, np.arange(len(rows))
    answers = step.answered.to_pylist()
    found = []
    for call in range(len(rows_of)):
        mine = np.flatnonzero(owner[step.answered_rows] == call)
        waiting = np.flatnonzero(owner[step.open_rows] == call)
        found.append(
            Part(
                [answers[i] for i in mine],
                place[step.answered_rows[mine]],
                step.open.take(waiting) if len(waiting) else step.open.slice(0, 0),
                place[step.open_rows[waiting]],
                decode_s,
                model_s,
            )
        )
    return found


async def to_the_end(first: Part, later: Sequence[Callable[[pa.Table], Awaitable[Part]]]) -> Inferred:
    """All rows of a call, from the first stage's results; `later` are the other stages."""
    part, decode_s, model_s = first, first.decode_s, first.model_s
    rows = dict(zip(part.places.tolist(), part.rows, strict=True))
    open_places = part.open_places
    for stage in later:
        if not part.open.num_rows:
            break
        part = await stage(part.open)
        rows |= dict(zip(open_places[part.places].tolist(), part.rows, strict=True))
        open_places = open_places[part.open_places]
        decode_s, model_s = decode_s + part.decode_s, model_s + part.model_s
    return Inferred([rows[i] for i in range(len(rows))], decode_s, model_s)
