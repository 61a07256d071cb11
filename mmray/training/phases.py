"""Phases of a training, each with a folder, a checkpoint and a share of the epochs: plain, pruning, QAT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from mmray.models.fused import PackedModel
from mmray.schema import Modality
from mmray.training import qat
from mmray.training.loop import Entry, Task, train
from mmray.training.prepared import Prepared
from mmray.training.prune import Pruner
from mmray.training.recipe import Prune, TrainRecipe
from mmray.training.sparse import Sparsity
from mmray.training.weights import BEST, load_weights

#: In the folder of a training for int8: its final graph, for a step `given` of mmray optimize.
INT8 = "int8.onnx"
_RANGE_ROWS, _RANGE_BATCH = 256, 16  # train records that QAT finds its ranges on
_WEIGHED_ROWS, _WEIGHED_BATCH = 256, 32  # train records that show which channels matter


def load_start(model: PackedModel, recipe: TrainRecipe) -> None:
    """Weights of an earlier training, whose model may be narrower than a new one.

    Raises:
        ConfigError: there are none, or they are of another model.
    """
    if recipe.start is not None:
        load_weights(model, Path(recipe.start) / BEST)


def run_phases(task: Task, records: Prepared) -> list[Entry]:
    """All phases of a task's recipe, one after the other.

    Args:
        task: its folder gets a subfolder for each phase, and the best weights of the last phase.
        records: what it trains on.
    """
    recipe = task.recipe
    if recipe.prune:
        return _prune(task, recipe.prune, records)
    if recipe.quantize:
        rows = np.random.default_rng(recipe.seed).permutation(task.train)[:_RANGE_ROWS]
        feeds = (records.feeds(rows[i : i + _RANGE_BATCH]) for i in range(0, len(rows), _RANGE_BATCH))
        qat.prepare(task.model.cpu(), records.spec, feeds)  # exports the model, which a CPU does
        task.model.to(task.workers.device)
        history = train(replace(task, title="QAT, epoch"))
        if task.workers.rank == 0:
            onnx.save(qat.to_int8(task.model.eval().cpu(), records.spec), task.folder / INT8)
        qat.strip(task.model)
        return history
    if recipe.sparsity:
        return train(replace(task, sparsity=Sparsity(task.model, recipe.sparsity), title="sparse, epoch"))
    return train(task)


def _prune(task: Task, wanted: Prune, records: Prepared) -> list[Entry]:
    share: dict[Modality, float] = {m: s for m in records.spec.modalities if (s := getattr(wanted, m))}
    rows = task.train[records.present[task.train].all(axis=1)][:2]
    batch = {name: torch.tensor(a, device=task.workers.device) for name, a in records.feeds(rows).items()}
    pruner = Pruner(task.model, share, wanted.steps, batch)
    history: list[Entry] = []
    for step in range(1, wanted.steps + 1):
        pruner.step(_losses(task))
        is_last = step == wanted.steps
        folder = task.folder if is_last else task.folder / f"step-{step}"
        epochs = task.epochs // wanted.steps + (task.epochs % wanted.steps if is_last else 0)
        title = f"pruned {step}/{wanted.steps}, epoch"
        history += train(replace(task, folder=folder, epochs=max(1, epochs), title=title))
    return history


def _losses(task: Task) -> Iterator[Tensor]:
    """Losses of the current model on a few batches of train."""
    task.model.eval()
    rows = np.random.default_rng(task.recipe.seed).permutation(task.train)[:_WEIGHED_ROWS]
    for batch in task.batches.plain(rows, _WEIGHED_BATCH):
        logits, _ = task.model.decide(task.model.encode(batch.feeds, batch.known), batch.feeds["present"])
        yield F.cross_entropy(logits, batch.targets)
