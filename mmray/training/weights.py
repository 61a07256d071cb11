"""Weights on disk: safetensors, with the widths of a model that was pruned beside them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from mmray.training.prune import widths_of, with_widths

_WIDTHS = "widths"


def save_weights(model: nn.Module, file: Path) -> None:
    """All tensors of a module, and the widths of its layers."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, file, metadata={_WIDTHS: json.dumps(widths_of(model))})


def load_weights(model: nn.Module, file: Path) -> None:
    """Take what `save_weights` wrote of a model of the same kind; its layers get the same widths.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it has layers that this model lacks.
        RuntimeError: tensors are missing, or are of other shapes.
    """
    with safe_open(file, "pt") as weights:
        widths = json.loads(weights.metadata()[_WIDTHS])
        if widths != {name: list(pair) for name, pair in widths_of(model).items()}:
            with_widths(model, widths)
        model.load_state_dict({name: weights.get_tensor(name) for name in weights.keys()})  # noqa: SIM118
