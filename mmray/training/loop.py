"""The training loop: epochs over prepared records, a checkpoint after each; keeps the weights best on tune.

If several workers train one model, each has its share of every batch and gradients are averaged. The loop is
the same; `Workers` holds a worker's rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmray.models.fused import PackedModel
from mmray.training.batches import Batch, Batches
from mmray.training.model import parameter_groups
from mmray.training.objective import Objective, hide
from mmray.training.recipe import TrainRecipe
from mmray.training.sparse import Sparsity
from mmray.training.teacher import Taught
from mmray.training.weights import BEST, load_weights, save_weights

_WARM = 0.1  # share of all steps in which the learning rate rises; then it falls along a cosine
_CLIP = 1.0  # maximum norm of the gradient
_EVALUATED_ROWS = 64
_QUIET_S = 30.0  # a longer epoch reports its progress
_CHECKPOINT = "checkpoint.pt"
#: A line of JSON for each epoch.
HISTORY = "history.jsonl"

Entry = dict[str, Any]


class Workers(Protocol):
    """The workers that train one model together."""

    rank: int
    world: int
    device: torch.device  # of this worker's model and batches

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all workers."""


class Alone:
    """One worker, on this machine's GPU if torch finds one."""

    rank, world = 0, 1

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing to do."""


@dataclass
class Task:
    """What is trained, and on what."""

    recipe: TrainRecipe
    model: PackedModel
    batches: Batches
    train: npt.NDArray[np.intp]
    tune: npt.NDArray[np.intp]
    taught: Taught | None
    folder: Path  # of checkpoint, best weights and history
    epochs: int
    say: Callable[[str], None]
    title: str = "epoch"
    sparsity: Sparsity | None = None  # weights that stay zero
    workers: Workers = field(default_factory=Alone)


def train(task: Task) -> list[Entry]:
    """Train the model; it ends with the weights that were best on tune. Resumes an interrupted call.

    Returns:
        An entry for each epoch: `epoch`, `loss` by part, `tune_loss`, `tune_accuracy`, `seconds`.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    run = _Run(task)
    history = run.resume()
    while len(history) < task.epochs and not _is_over(history, task.recipe.patience):
        began = monotonic()
        loss = run.learn(epoch=len(history))
        tune_loss, accuracy = evaluate(task.model, task.batches, task.tune)
        is_best = accuracy > max((entry["tune_accuracy"] for entry in history), default=-math.inf)
        history.append(
            {
                "epoch": len(history),
                "loss": {name: round(value, 4) for name, value in loss.items()},
                "tune_loss": round(tune_loss, 4),
                "tune_accuracy": round(accuracy, 4),
                "seconds": round(monotonic() - began, 1),
            }
        )
        if task.workers.rank == 0:
            run.keep(history, is_best=is_best)
            task.say(_line(task.title, history, task.epochs))
    load_weights(task.model, task.folder / BEST)
    return history


@torch.no_grad()
def evaluate(model: PackedModel, batches: Batches, rows: npt.NDArray[np.intp]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on records as they are."""
    model.eval()
    loss = right = 0.0
    for batch in batches.plain(rows, _EVALUATED_ROWS):
        logits, _ = model.decide(model.encode(batch.feeds, batch.known), batch.feeds["present"])
        loss += float(F.cross_entropy(logits, batch.targets, reduction="sum"))
        right += int((logits.argmax(dim=1) == batch.targets).sum())
    return loss / len(rows), right / len(rows)


class _Run:
    """Optimizer and checkpoint of one task."""

    def __init__(self, task: Task) -> None:
        self._task, recipe, taught = task, task.recipe, task.taught
        wants_features = recipe.distil is not None and recipe.distil.features > 0
        width = taught.features.shape[1] if taught and wants_features else 0
        torch.manual_seed(recipe.seed)
        self._objective = Objective(recipe, sum(task.model.dims), width).to(task.workers.device)
        own = {"params": list(self._objective.parameters()), "lr": recipe.learning_rate}
        self._optimizer = torch.optim.AdamW([*parameter_groups(task.model, recipe), own], fused=True)
        if task.sparsity:
            task.sparsity.hold(self._optimizer)
        self._steps = max(1, len(task.train) // recipe.batch_rows)
        total = self._steps * task.epochs
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: _rate(step / total))

    def learn(self, epoch: int) -> dict[str, float]:
        """One epoch; the mean of each part of the loss."""
        task, recipe = self._task, self._task.recipe
        seed = recipe.seed * 1000 + epoch
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        task.model.train()
        sums: dict[str, Tensor] = {}
        began = said = monotonic()
        workers = task.workers
        drawn = task.batches.epoch(
            task.train, recipe.batch_rows, seed, rank=workers.rank, world=workers.world
        )
        for number, batch in enumerate(drawn, start=1):
            parts = self._loss(batch, generator)
            self._optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
            learnt = [p for group in self._optimizer.param_groups for p in group["params"]]
            workers.average(learnt)
            nn.utils.clip_grad_norm_(learnt, _CLIP)
            self._optimizer.step()
            self._schedule.step()
            for name, value in parts.items():
                known = value.detach()  # not read here, which would wait for a GPU
                sums[name] = sums[name] + known if name in sums else known
            if workers.rank == 0 and number < self._steps and monotonic() - said > _QUIET_S:
                said = monotonic()
                left = (said - began) / number * (self._steps - number)
                task.say(f"{task.title} {epoch + 1}: {number} of {self._steps} batches, {left:.0f} s left")
        return {name: float(value) / self._steps for name, value in sums.items()}

    def keep(self, history: list[Entry], *, is_best: bool) -> None:
        """Write the checkpoint to resume from; each file is replaced atomically."""
        folder = self._task.folder
        if is_best:
            _replace(folder / BEST, lambda path: save_weights(self._task.model, path))
        state = {
            "model": self._task.model.state_dict(),
            "objective": self._objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": {"last_epoch": self._schedule.last_epoch},
            "history": history,
        }
        _replace(folder / _CHECKPOINT, lambda path: torch.save(state, path))
        lines = "".join(json.dumps(entry) + "\n" for entry in history)
        _replace(folder / HISTORY, lambda path: path.write_text(lines))

    def resume(self) -> list[Entry]:
        """Load the checkpoint into model and optimizer; returns the history so far."""
        file = self._task.folder / _CHECKPOINT
        if not file.exists():
            return []
        state = torch.load(file, weights_only=True, map_location="cpu")
        self._task.model.load_state_dict(state["model"])
        self._objective.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.last_epoch = state["schedule"]["last_epoch"]
        history: list[Entry] = state["history"]
        self._task.say(f"resumes after {len(history)} epochs in {self._task.folder}")
        return history

    def _loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        model, present = self._task.model, batch.feeds["present"]
        encoded = model.encode(batch.feeds, batch.known)
        logits, features = model.decide(encoded, present)
        looks = [logits]
        if self._task.recipe.drop_modality and present.shape[1] > 1:
            hidden = hide(present, self._task.recipe.drop_modality, generator)
            looks.append(model.decide(encoded, hidden)[0])
        taught = self._task.taught
        teacher = {}
        if taught:
            answers = {"logits": taught.logits[batch.rows], "features": taught.features[batch.rows]}
            teacher = {name: torch.from_numpy(a).to(logits.device) for name, a in answers.items()}
        found: dict[str, Tensor] = self._objective(looks, features, batch.targets, teacher)
        return found


def _rate(done: float) -> float:
    """Factor of the learning rate at a share of all steps: linear rise, then a cosine to zero."""
    if done < _WARM:
        return (done + 1e-3) / _WARM
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARM) / (1 - _WARM))))


def _is_over(history: list[Entry], patience: int) -> bool:
    """Whether the best epoch was `patience` epochs ago or more."""
    found = [entry["tune_accuracy"] for entry in history]
    return bool(found) and len(found) - 1 - found.index(max(found)) >= patience


def _line(title: str, history: list[Entry], epochs: int) -> str:
    last = history[-1]
    loss = ", ".join(f"{name} {value:.3f}" for name, value in last["loss"].items())
    seconds = sum(entry["seconds"] for entry in history) / len(history)
    left = seconds * (epochs - len(history))
    return (
        f"{title} {len(history)}/{epochs}  loss {loss}  tune {last['tune_accuracy']:.3f}  "
        f"{last['seconds']:.0f} s, {left / 60:.1f} min left"
    )


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    partial = file.with_name(f"{file.name}.partial")
    write(partial)
    partial.replace(file)
