"""Profiles some batches of a training with PyTorch's profiler."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from torch.profiler import ProfilerActivity, profile

from mmray.training.loop import Alone, train
from mmray.training.run import Training

#: Time outside torch's operators: reading and augmenting records, and Python.
OUTSIDE = "between operators"


@dataclass(frozen=True)
class Operator:
    """All calls of one operator, and the time in it without the operators that it calls: the device's."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class TrainingProfile:
    """The profile of some batches."""

    batches: int
    seconds: float  # wall time
    operators: Sequence[Operator]  # the most expensive first, `OUTSIDE` among them


def profile_training(training: Training, batches: int, trace: Path) -> TrainingProfile:
    """Train on a few batches and discard the result.

    The first batch runs once before, as a warm-up: the first run allocates memory and chooses kernels.

    Args:
        training: all that the training needs; its model is changed.
        batches: how many.
        trace: file to write, for ui.perfetto.dev or chrome://tracing.
    """
    rows = training.recipe.batch_rows
    task = training.task(Alone(), lambda _: None)
    some = task.train[: batches * rows]
    with tempfile.TemporaryDirectory() as folder:
        task = replace(task, train=some, tune=task.tune[:rows], epochs=1, folder=Path(folder) / "first")
        train(replace(task, train=some[:rows]))
        activities = [ProfilerActivity.CPU]
        on_gpu = task.workers.device.type == "cuda"
        if on_gpu:
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as profiler:
            began = perf_counter()
            train(replace(task, folder=Path(folder) / "second"))
            seconds = perf_counter() - began
    profiler.export_chrome_trace(str(trace))
    found = [
        Operator(event.key, microseconds / 1e6, event.count)
        for event in profiler.key_averages()
        if (microseconds := event.self_device_time_total if on_gpu else event.self_cpu_time_total)
    ]
    outside = max(0.0, seconds - sum(operator.seconds for operator in found))
    found.append(Operator(OUTSIDE, outside, len(some) // rows))
    return TrainingProfile(len(some) // rows, seconds, sorted(found, key=lambda operator: -operator.seconds))
