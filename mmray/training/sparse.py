"""Unstructured pruning: the smallest weights of all layers become zero, and stay zero in fine-tuning.

The file is smaller when compressed, but the model is not faster: ONNX Runtime multiplies by the zeros.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer


class Sparsity:
    """Zeros in a model's convolutions and linear layers, by magnitude over all of them (Han et al., 2015).

    To resume or to prune further, make a new one: zero weights are the smallest, so they are chosen again.

    Args:
        model: whose weights are set to zero, in place.
        share: of the weights, 0 to below 1. Tables of embeddings and biases are left alone.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
        gone = torch.zeros_like(sizes, dtype=torch.bool)
        gone[sizes.argsort(stable=True)[: int(share * len(sizes))]] = True
        parts = torch.split(gone, [weight.numel() for weight in weights])
        self._gone = [(weight, part.view_as(weight)) for weight, part in zip(weights, parts, strict=True)]
        self._apply()

    def hold(self, optimizer: Optimizer) -> None:
        """Keep the zeros through all steps of an optimizer."""
        optimizer.register_step_post_hook(lambda *_: self._apply())

    def _apply(self) -> None:
        with torch.no_grad():
            for weight, gone in self._gone:
                weight.masked_fill_(gone, 0.0)
