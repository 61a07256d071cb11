"""The records that variants are made and judged with: held out, for trials, for calibration; kept apart."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from mmray.batching import Feeds, batches, pack
from mmray.bundle import Bundle
from mmray.errors import InputError
from mmray.optimize.outputs import LabelledTensors, addresses, labelled_tensors, usable_tensors
from mmray.optimize.steps import VariantRecipe

_CALIBRATION_ROWS = 16  # records of one inference while ranges are collected
_TRIAL_ROWS = 64  # records on which a search looks how much changed; 1 s a graph of the stamps


def read_records(parent: Bundle, recipe: VariantRecipe) -> tuple[LabelledTensors, LabelledTensors]:
    """Held-out records, and a few others for trials."""
    wanted = recipe.held_out
    held_out = labelled_tensors(wanted.input, parent, rows=wanted.rows, without="train")
    least = recipe.thresholds.least_rows
    if len(held_out) < least:
        raise InputError(
            f"{' '.join(wanted.input)}: {len(held_out)} held-out records; judging a variant takes {least} "
            "(thresholds.least_rows), better some hundreds"
        )
    if recipe.calibration is None:
        return held_out, held_out.thinned(_TRIAL_ROWS)
    wanted = recipe.calibration
    trial = labelled_tensors(wanted.input, parent, rows=min(_TRIAL_ROWS, wanted.rows), without="test")
    _check_apart(trial.tensors, held_out, "calibration")
    return held_out, trial


def calibration_feeds(parent: Bundle, recipe: VariantRecipe, held_out: LabelledTensors) -> Iterator[Feeds]:
    """Batches of the records for calibration, each read when its turn comes: they need not fit in memory."""
    assert recipe.calibration is not None  # the recipe was checked
    wanted = recipe.calibration
    for tensors in usable_tensors(wanted.input, parent, rows=wanted.rows, without="test"):
        _check_apart(tensors, held_out, "calibration")
        for rows in batches(tensors, _CALIBRATION_ROWS):
            yield pack(tensors.take(rows), parent.spec)


def _check_apart(tensors: pa.Table, held_out: LabelledTensors, use: str) -> None:
    shared = held_out.addresses & addresses(tensors)
    for shard, row in sorted(shared)[:1]:
        raise InputError(
            f"row {row} of {shard} is held out and also used for {use}; give other shards, or state "
            '"split" in the JSON members'
        )
