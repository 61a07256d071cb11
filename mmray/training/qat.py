"""Quantization-aware training: the model rounds as its int8 graph will, and adapts to that.

It rounds what `mmray.variants.quantize.int8.to_static_int8` rounds, in the same way: weights by output
channel, activations by ranges from `collect_ranges`, results of convolutions behind their Relu or Clip (Jacob
et al., Quantization and training of neural networks for integer-arithmetic-only inference, 2018, section 3).
Within the range, gradients pass through the rounding unchanged (Bengio et al., 2013, arXiv:1308.3432).

The graph is then made as without QAT: the plain weights are exported, and `to_static_int8` gets the same
ranges. So it has the same kernels and the same speed, wide first convolutions included, which QuantizeLinear
nodes exported from torch could not have.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from mmray.batching import Feeds
from mmray.errors import ConfigError, EngineError
from mmray.graphs import export_graph
from mmray.models.fused import OUTPUTS
from mmray.preprocess.spec import PreprocessSpec
from mmray.variants.quantize import (
    LEAST_STEP,
    Draft,
    Site,
    collect_ranges,
    pixels_of,
    sites,
    table_of,
    to_static_int8,
)

_ROUNDERS = "rounders"  # submodule of the rounders, by the name of the activation in the graph
#: Attribute of a layer: the rounder of its input, which gives the scale of its bias. Not a submodule, because
#: the state would contain it twice.
_SOURCE = "source"
_TINY = 1e-30  # scale of a channel whose weights are all zero


def prepare(model: nn.Module, spec: PreprocessSpec, feeds: Iterable[Feeds]) -> None:
    """Make a trained model round its weights and activations, in place; batch norms are folded first.

    Folding replaces parameters: make a new optimizer. Products of the head without an `nn.Linear` stay in
    float, here and in the int8 graph.

    Args:
        model: gives `mmray.models.fused.OUTPUTS`.
        spec: of its inputs.
        feeds: batches of records to find the ranges of activations on, a few hundred in all.

    Raises:
        ConfigError: the module around a convolution is not one unit: it, a norm and an activation.
    """
    for module in list(model.modules()):
        if callable(fold := getattr(module, "fold_norms", None)):
            fold()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.requires_grad_(module.weight.requires_grad)  # torch's folding freezes it
    modes = [(module, module.training) for module in model.modules()]
    graph = _exported(model, spec)
    for module, training in modes:
        module.training = training
    ranges, draft, layers = collect_ranges(graph, feeds), Draft(graph), _Layers(model)
    found = [(site, layer) for site in sites(graph.graph) if (layer := layers.of(draft, site.node.input[1]))]
    found = [(site, layer) for site, layer in found if site.source in ranges]
    rounders = {name: Rounder(*ranges[name]) for site, _ in found for name in _rounded(site)}
    ends = {site.result: _end_of(model, site, layer) for site, layer in found if site.node.op_type == "Conv"}
    for result, module in ends.items():
        rounders[result].round_results_of(module)
    for site, layer in found:
        layer.__class__ = _ROUNDING[type(layer)]
        if site.node.op_type != "MatMul":  # whose bias stays in float
            layer.__dict__[_SOURCE] = rounders[site.source]
        if pixels := pixels_of(draft, site.source):
            rounders[site.source].set_step(pixels.step, pixels.zero)  # whole already
        elif site.source not in ends:
            rounders[site.source].round_inputs_of(layer)
    for node in draft.originals:
        if (table := table_of(draft, node)) and (embedding := layers.of(draft, table)):
            embedding.__class__ = _Embedding
    model.add_module(_ROUNDERS, nn.ModuleDict(rounders))


def strip(model: nn.Module) -> None:
    """Undo `prepare`, in place: the module keeps its current weights and folded norms."""
    for module in list(model.modules()):
        if isinstance(module, Rounder):
            module.remove()
        elif plain := _PLAIN.get(type(module)):
            module.__class__ = plain
            module.__dict__.pop(_SOURCE, None)
    del model._modules[_ROUNDERS]


def to_int8(model: nn.Module, spec: PreprocessSpec) -> onnx.ModelProto:
    """The int8 graph of a prepared model; the model is not altered.

    Raises:
        EngineError: the model's graph is not the one that it was prepared with.
    """
    plain = copy.deepcopy(model)
    strip(plain)
    graph = _exported(plain, spec)
    rounders = model.get_submodule(_ROUNDERS).named_children()
    ranges = {name: rounder.range for name, rounder in rounders if isinstance(rounder, Rounder)}
    if lacking := ranges.keys() - {name for site in sites(graph.graph) for name in _rounded(site)}:
        raise EngineError(
            f"int8: the graph has no activation {sorted(lacking)[0]!r}, whose range is known: the model or "
            "torch has changed; prepare the model again"
        )
    return to_static_int8(graph, ranges)


class Rounder(nn.Module):
    """Rounds an activation to uint8 and back, with the fixed range that calibration found.

    Args:
        low: lowest value that is kept, at most 0.
        high: highest.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        step = max((high - low) / 255, LEAST_STEP)
        self.set_step(step, round(-low / step))
        self._hooks: list[RemovableHandle] = []

    def set_step(self, step: float, zero: int) -> None:
        """Scale and zero point."""
        self.register_buffer("step", torch.tensor(step))
        self.register_buffer("zero", torch.tensor(zero, dtype=torch.int32))
        self.step: Tensor
        self.zero: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Round values of any shape."""
        return torch.fake_quantize_per_tensor_affine(x, self.step, self.zero, 0, 255)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value that the integers can represent."""
        step, zero = float(self.step), int(self.zero)
        return -zero * step, (255 - zero) * step

    def round_inputs_of(self, module: nn.Module) -> None:
        """Round the inputs of a module from now on."""
        self._hooks.append(module.register_forward_pre_hook(self._before))

    def round_results_of(self, module: nn.Module) -> None:
        """Round the outputs of a module from now on."""
        self._hooks.append(module.register_forward_hook(self._after))

    def remove(self) -> None:
        """Stop rounding."""
        for hook in self._hooks:
            hook.remove()

    # Methods, not closures: a copy of the model uses the copies of its rounders.
    def _before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:  # noqa: ARG002
        return (self.forward(inputs[0]),)

    def _after(self, module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:  # noqa: ARG002
        return self.forward(result)


class _Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x, *_rounded_parameters(self))
        return out


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *_rounded_parameters(self))


class _Embedding(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return _round(super().forward(ids), _scale(self.weight, axis=1), axis=ids.ndim)


#: Layers that round their weights. They differ only in their class, so that a checkpoint fits both.
_ROUNDING: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _Conv2d,
    nn.Linear: _Linear,
    nn.Embedding: _Embedding,
}
_PLAIN = {rounding: plain for plain, rounding in _ROUNDING.items()}


def _rounded_parameters(layer: nn.Conv2d | nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight in int8 and bias in int32, and back, as in `to_static_int8`; some biases stay in float there."""
    scale, bias = _scale(layer.weight, axis=0), layer.bias
    if bias is not None and (source := layer.__dict__.get(_SOURCE)):
        unit = source.step * scale
        bias = bias + ((bias / unit).round() * unit - bias).detach()
    return _round(layer.weight, scale, axis=0), bias


def _scale(weight: Tensor, axis: int) -> Tensor:
    """Scale of each channel along an axis, as in `mmray.variants.quantize.draft.by_channel`."""
    others = [i for i in range(weight.ndim) if i != axis]
    return (weight.detach().abs().amax(dim=others) / 127).clamp(min=_TINY)


def _round(values: Tensor, scale: Tensor, axis: int) -> Tensor:
    """Values in int8 and back, with a scale for each channel along an axis."""
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(values, scale, zero, axis, -127, 127)


class _Layers:
    """A model's layers by the constants of its graph: by name or, if the export transposed them, by bytes."""

    def __init__(self, model: nn.Module) -> None:
        kinds = (nn.Conv2d, nn.Linear, nn.Embedding)
        self._by_name = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, kinds)}
        self._by_value = {_bytes(layer.weight.detach().numpy()): layer for layer in self._by_name.values()}

    def of(self, draft: Draft, constant: str) -> nn.Module | None:
        if constant in self._by_name:
            return self._by_name[constant]
        value = draft.array(constant)
        return self._by_value.get(_bytes(value.T)) or self._by_value.get(_bytes(value))


def _bytes(value: npt.NDArray[np.float32]) -> tuple[tuple[int, ...], bytes]:
    return value.shape, value.tobytes()


def _end_of(model: nn.Module, site: Site, conv: nn.Module) -> nn.Module:
    """The module that gives a convolution's result: itself, or the unit of it and its activation."""
    if site.result == site.node.output[0]:
        return conv
    name = next(name for name, module in model.named_modules() if module is conv)
    unit = model.get_submodule(name.rpartition(".")[0])
    convolutions = [child for child in unit.modules() if isinstance(child, nn.Conv2d | nn.Linear)]
    if len(convolutions) != 1:
        raise ConfigError(
            f"{name}: cannot tell where its activation ends; put both in a module of their own, as "
            "mmray.models.efficientnet_lite does"
        )
    return unit


def _rounded(site: Site) -> tuple[str, ...]:
    """Activations of a site that become integers."""
    return (site.source, site.result) if site.node.op_type == "Conv" else (site.source,)


def _exported(model: nn.Module, spec: PreprocessSpec) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        export_graph(model, spec, path := Path(folder) / "float.onnx", OUTPUTS)
        return onnx.load(path)
