"""Where the time of a training goes: some batches under PyTorch's profiler."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile

from mmray.training.loop import Alone, train
from mmray.training.run import Training

#: Time that no operator of torch took: records read and augmented, and Python.
OUTSIDE = "between operators"


@dataclass(frozen=True)
class Operator:
    """All calls of one operator, and what it did not hand on to others."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class TrainingProfile:
    """What some batches took."""

    batches: int
    seconds: float  # of the clock
    operators: Sequence[Operator]  # the dearest first, `OUTSIDE` among them


def profile_training(training: Training, batches: int, trace: Path) -> TrainingProfile:
    """Train on a few batches and forget what was learnt.

    The first batch runs once before: memory is asked for and kernels are chosen the first time.

    Args:
        training: all that the training needs; its model is changed.
        batches: how many.
        trace: file that is written, for ui.perfetto.dev or chrome://tracing.
    """
    rows = training.recipe.batch_rows
    task = training.task(Alone(), lambda _: None)
    some = task.train[: batches * rows]
    with tempfile.TemporaryDirectory() as folder:
        task = replace(task, train=some, tune=task.tune[:rows], epochs=1, folder=Path(folder) / "first")
        train(replace(task, train=some[:rows]))
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as profiler:
            began = perf_counter()
            train(replace(task, folder=Path(folder) / "second"))
            seconds = perf_counter() - began
    profiler.export_chrome_trace(str(trace))
    found = [
        Operator(event.key, event.self_cpu_time_total / 1e6, event.count)
        for event in profiler.key_averages()
        if event.self_cpu_time_total
    ]
    outside = max(0.0, seconds - sum(operator.seconds for operator in found))
    found.append(Operator(OUTSIDE, outside, len(some) // rows))
    return TrainingProfile(len(some) // rows, seconds, sorted(found, key=lambda operator: -operator.seconds))
