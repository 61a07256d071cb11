"""The same training on several Ray workers, with Ray Train: gradients are averaged by gloo, on GPUs by NCCL.

Every worker sees the same folder of prepared tensors, so on several machines it must lie on a shared disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn


class Together:
    """One of several workers of a torch process group."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all workers, in one message."""
        learnt = [p for p in parameters if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in learnt if p.grad is not None])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        start = 0
        for p in learnt:
            assert p.grad is not None
            p.grad.copy_(flat[start : start + p.grad.numel()].view_as(p.grad))
            start += p.grad.numel()


def run_workers(
    work: Callable[[dict[str, Any]], None], config: dict[str, Any], workers: int, folder: str
) -> None:
    """Run a function on several workers of a Ray cluster; starts one on this machine if there is none.

    Args:
        work: gets `config`; makes its own `Together`.
        config: plain values.
        workers: how many, with a GPU each if the cluster has so many, else with a CPU each.
        folder: where Ray Train keeps its own files.
    """
    if not ray.is_initialized():
        ray.init(include_dashboard=True)  # Ray Train asks the state API, which it has
    has_gpus = ray.cluster_resources().get("GPU", 0) >= workers  # type: ignore[no-untyped-call]
    trainer = TorchTrainer(
        work,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=has_gpus),
        run_config=RunConfig(storage_path=folder, name="ray-train"),
    )
    trainer.fit()
