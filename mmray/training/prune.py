"""Structured pruning: fewer channels, feed-forward units and attention heads, in steps between fine-tuning.

torch-pruning finds dependent layers (an expansion, its depthwise convolution and the projection behind it)
from one traced batch (Fang et al., DepGraph, 2023, arXiv:2301.12900). The output features of an encoder keep
their width, so that the head still fits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from mmray.batching import INPUTS
from mmray.errors import ConfigError
from mmray.schema import Modality

#: Inputs and outputs of each layer, by its name in the model. Can be stored as JSON.
Widths = Mapping[str, Sequence[int]]

#: Channels stay multiples of 16, which kernels of a CPU with AVX-512 need: EfficientNet-Lite0 in int8 without
#: 30 % of its channels took 1.05 times the time of the whole with multiples of 8, and 0.70 with 16.
_MULTIPLE = 16


class Pruner:
    """Removes the least important channels and heads from a model's encoders, in place.

    Every layer loses the same share. Importance is a first-order Taylor expansion: the sum
    of |weight * gradient| over a channel's weights (Molchanov et al., Importance estimation for neural
    network pruning, 2019, section 3). Prune before norms are folded, and let training estimate them again:
    the remaining channels have other means. Fine-tune after each step: without it, a CNN loses most of its
    accuracy.

    Each step replaces the parameters: make a new optimizer. To resume, make the pruner from the unpruned
    model, then call `with_widths`, then set `done`.

    Args:
        model: unpruned; its `encoders` has the modalities to prune.
        share: of an encoder's channels, feed-forward units and heads to remove in all, by modality.
        steps: number of equal steps in which they are removed.
        batch: any batch of `mmray.batching.pack` as tensors that has rows of these modalities.

    Raises:
        ConfigError: a share out of range, or a modality that the model lacks.
    """

    def __init__(
        self, model: nn.Module, share: Mapping[Modality, float], steps: int, batch: Mapping[str, Tensor]
    ) -> None:
        encoders = dict(model.get_submodule("encoders").named_children())
        for modality, wanted in share.items():
            if not 0 <= wanted < 1:
                raise ConfigError(f"pruning of {modality}: the share is {wanted}; give one from 0 to below 1")
            if modality not in encoders:
                raise ConfigError(f"pruning of {modality}: the model has no such encoder; leave it out")
        self.done = 0
        self._model, self._steps, self._share = model, steps, dict(share)
        self._encoders = {m: encoders[m] for m in share}
        self._full = {m: widths_of(encoders[m]) for m in share}
        self._rows = {m: tuple(batch[name][:2] for name in INPUTS[m][:-1]) for m in share}

    def step(self, losses: Iterable[Tensor]) -> None:
        """Prune to the target of the next step.

        Args:
            losses: of the current model on a few batches; drawn one at a time.

        Raises:
            ConfigError: all steps are done, or there are no losses.
        """
        if self.done == self._steps:
            raise ConfigError(f"pruning: all {self._steps} steps are done; make a new pruner to go on")
        with _differentiable(self._encoders.values()):
            for loss in losses:
                loss.backward()  # type: ignore[no-untyped-call]
            self.done += 1
            for modality, encoder in self._encoders.items():
                if all(parameter.grad is None for parameter in encoder.parameters()):
                    raise ConfigError(
                        f"pruning of {modality}: no loss depends on it; give losses of a few batches"
                    )
                kept = 1 - self._share[modality] * self.done / self._steps
                _prune(encoder, self._rows[modality], self._full[modality], kept)
        self._model.zero_grad()


def _prune(encoder: nn.Module, rows: tuple[Tensor, ...], full: Widths, kept: float) -> None:
    """Prune an encoder with gradients to the share `kept` of its `full` widths; `rows` is its input."""
    names = {module: name for name, module in encoder.named_modules()}
    graph, importance = tp.DependencyGraph(), tp.importance.GroupTaylorImportance()
    graph.build_dependency(encoder, rows)
    for group in list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])):
        if any(not part.dep.target.outputs for part in group):
            continue  # the features, or layers that are added to them
        root, cut = group[0].dep.target.module, group[0].dep.handler
        together = _together(encoder, root)
        now, before = graph.get_out_channels(root), full[names[root]][1]
        gone = (now - _rounded(before * kept, together, before)) // together
        if gone > 0:
            scores = importance(group).view(-1, together).sum(dim=1)
            places = scores.argsort()[:gone, None].cpu() * together + torch.arange(together)
            graph.get_pruning_group(root, cut, places.flatten().tolist()).prune()
    _count_heads(encoder)


def widths_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each layer of a model."""
    found: dict[str, tuple[int, int]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            found[name] = (layer.in_channels, layer.out_channels)
        elif isinstance(layer, nn.Linear):
            found[name] = (layer.in_features, layer.out_features)
        elif isinstance(layer, nn.BatchNorm2d):
            found[name] = (layer.num_features, layer.num_features)
    return found


def with_widths(model: nn.Module, widths: Widths) -> None:
    """Give a model's layers these widths, in place. Load their values from a checkpoint afterwards.

    Args:
        model: unpruned, of the same kind, with its norms folded if they were.
        widths: from `widths_of`.

    Raises:
        ConfigError: the model has other layers.
    """
    layers = {name: layer for name, layer in model.named_modules() if name in widths}
    if lacking := widths.keys() - layers.keys():
        raise ConfigError(
            f"widths of {sorted(lacking)[0]}: the model has no such layer; build the same model"
        )
    for name, (inputs, outputs) in widths.items():
        layer = layers[name]
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1:  # depthwise, the only kind that there is
                layer.groups = inputs
            layer.in_channels, layer.out_channels = inputs, outputs
            _resize(layer, "weight", (outputs, inputs // layer.groups, *layer.kernel_size))
        elif isinstance(layer, nn.Linear):
            layer.in_features, layer.out_features = inputs, outputs
            _resize(layer, "weight", (outputs, inputs))
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features = outputs
            for kind in ("weight", "running_mean", "running_var"):
                _resize(layer, kind, (outputs,))
        _resize(layer, "bias", (outputs,))
    _count_heads(model)


def _resize(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Give a parameter or buffer, if it exists, another shape, filled with zeros."""
    old = getattr(layer, name)
    if old is None or old.shape == shape:
        return
    new = old.new_zeros(shape)
    setattr(layer, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _rounded(width: float, together: int, full: int) -> int:
    """Nearest width that is fast in kernels: whole heads, or a multiple of _MULTIPLE channels."""
    multiple = together if together > 1 else min(_MULTIPLE, full)
    return max(round(width / multiple), 1) * multiple


def _attentions(encoder: nn.Module) -> Iterator[Any]:
    """Modules with `heads` that are `width` wide, made by `query`, `key` and `value`."""
    return (module for module in encoder.modules() if hasattr(module, "heads") and hasattr(module, "query"))


def _together(encoder: nn.Module, layer: nn.Module) -> int:
    """Outputs of a layer that are pruned together: those of a head, or else single ones."""
    for module in _attentions(encoder):
        if any(layer is getattr(module, part) for part in ("query", "key", "value")):
            return int(module.width)
    return 1


def _count_heads(encoder: nn.Module) -> None:
    for module in _attentions(encoder):
        module.heads = module.query.out_features // module.width


@contextmanager
def _differentiable(encoders: Collection[nn.Module]) -> Iterator[None]:
    """Enable gradients of all parameters, in eval mode: importance and torch-pruning's tracing need them."""
    training = [[module.training for module in encoder.modules()] for encoder in encoders]
    asking = [[parameter.requires_grad for parameter in encoder.parameters()] for encoder in encoders]
    for encoder in encoders:
        encoder.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for encoder, modes, asked in zip(encoders, training, asking, strict=True):
            for module, mode in zip(encoder.modules(), modes, strict=True):
                module.training = mode
            for parameter, flag in zip(encoder.parameters(), asked, strict=True):
                parameter.requires_grad_(flag)
