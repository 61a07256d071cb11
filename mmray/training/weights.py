"""Weights on disk: safetensors, with the widths of a pruned model."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from mmray.errors import ConfigError
from mmray.schema import Modality
from mmray.training.prune import widths_of, with_widths

#: In a training's folder: weights with the best accuracy on tune so far.
BEST = "best.safetensors"
_WIDTHS = "widths"


def save_weights(model: nn.Module, file: Path) -> None:
    """All tensors of a module, and the widths of its layers."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, file, metadata={_WIDTHS: json.dumps(widths_of(model))})


def load_weights(model: nn.Module, file: Path, part: str = "") -> None:
    """Load what `save_weights` wrote of a model of the same kind; the layers get the same widths.

    Args:
        model: what gets the weights.
        file: from `save_weights`.
        part: the submodule of the saved model that `model` is, such as ``encoders.image.``; empty: all.

    Raises:
        ConfigError: the file does not exist, or is of another kind of model.
    """
    try:
        with safe_open(file, "pt") as weights:
            saved = json.loads(weights.metadata()[_WIDTHS])
            widths = {name.removeprefix(part): w for name, w in saved.items() if name.startswith(part)}
            if widths != {name: list(pair) for name, pair in widths_of(model).items()}:
                with_widths(model, widths)
            names = [name for name in weights.keys() if name.startswith(part)]  # noqa: SIM118
            model.load_state_dict({name.removeprefix(part): weights.get_tensor(name) for name in names})
    except FileNotFoundError as e:
        raise ConfigError(f"{file}: no such file; train that recipe first") from e
    except RuntimeError as e:
        raise ConfigError(
            f"{file}: trained with other encoders or another fusion; give this recipe the same ({e})"
        ) from e


def load_encoder(encoder: nn.Module, modality: Modality, file: Path) -> None:
    """Load one encoder's weights from a saved fused model; otherwise as `load_weights`."""
    load_weights(encoder, file, f"encoders.{modality}.")
