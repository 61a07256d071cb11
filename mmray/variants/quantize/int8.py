"""A float32 graph in int8: activations by ranges from calibration, or each row by its own range.

Weights and tables of embeddings have a symmetric scale for each output channel (Krishnamoorthi, Quantizing
deep convolutional networks for efficient inference, 2018). This module does not use
onnxruntime.quantization, which dequantizes a whole table for each batch, renames nodes and, in dynamic mode,
takes one scale for a whole batch, so that a record's scores depend on its neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from mmray.variants.quantize.calibrate import Ranges
from mmray.variants.quantize.draft import Draft, add_lookup, by_channel
from mmray.variants.quantize.rows import LEAST_STEP, Rows
from mmray.variants.quantize.targets import Site, attributes_of, name_of, sites
from mmray.variants.quantize.wide import Pixels, Wide, pixels_of, regrouped, widened, widths

Flavour = Literal["cpu", "tensorrt"]
Form = Literal["float", "dynamic", "static"]

_BIAS_TOP = 2.0**30  # limit of an int32 bias, which leaves room for the products


def to_static_int8(
    model: onnx.ModelProto, ranges: Ranges, flavour: Flavour = "cpu", exclude: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with its convolutions and matrix products between QuantizeLinear and DequantizeLinear.

    Products of two activations stay in float, and so do nodes whose input is not in `ranges`.

    Args:
        model: in float32; it is not altered.
        ranges: from `collect_ranges` of the same model.
        flavour: "cpu" has activations as uint8, with a zero point, and a convolution's bias and result as
            integers, as the kernels of ONNX Runtime need them, and first convolutions as `quantize.wide`
            makes them; "tensorrt" has activations as int8, symmetric, and biases and results in float.
        exclude: names of nodes that stay in float.

    Returns:
        A checked model of the same inputs and outputs.
    """
    return to_int8(model, lambda name: "float" if name in exclude else "static", ranges, flavour)


def to_dynamic_int8(model: onnx.ModelProto, exclude: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with its matrix products in integers, each row of an activation by its own largest magnitude.

    Needs no calibration. One scale for each row (token), as in ZeroQuant (Yao et al., 2022), is more exact
    than DynamicQuantizeLinear's single scale, and a record's scores do not depend on its batch. Convolutions
    stay in float: their integer kernels have no scale for each channel.

    Args:
        model: in float32; it is not altered.
        exclude: names of nodes that stay in float.

    Returns:
        A checked model of the same inputs and outputs.
    """
    return to_int8(model, lambda name: "float" if name in exclude else "dynamic")


def to_int8(
    model: onnx.ModelProto,
    form_of: Callable[[str], Form],
    ranges: Ranges | None = None,
    flavour: Flavour = "cpu",
) -> onnx.ModelProto:
    """The graph with each node in its given form.

    Args:
        model: in float32; it is not altered.
        form_of: form by a node's name.
        ranges: for static nodes, as of `to_static_int8`.
        flavour: of static nodes.

    Returns:
        A checked model of the same inputs and outputs.
    """
    draft, ranges = Draft(model), ranges or {}
    static: dict[str, Site] = {}
    dynamic: set[str] = set()
    for site in sites(draft.graph):
        form, output = form_of(name_of(site.node)), site.node.output[0]
        if form == "static" and site.source in ranges:
            static[output] = site
        elif form == "dynamic" and site.node.op_type != "Conv":
            dynamic.add(output)
    activations, rows = _Activations(draft, ranges, flavour), Rows(draft)
    # Integer convolutions give integers; nodes behind them take those.
    results = {
        site.result
        for site in static.values()
        if flavour == "cpu" and site.node.op_type == "Conv" and site.result in ranges
    }
    wide = _wide_ones(draft, [site for site in static.values() if site.result in results])
    done = {site.result for name, site in static.items() if name in wide}
    for node in draft.originals:
        output = node.output[0]
        given = static.get(output)
        if output in wide:
            assert given
            _add_wide(draft, given, wide[output], activations)
            continue
        if output in done:  # the Relu or Clip that was fused into a wide convolution
            continue
        for i, name in enumerate(node.input):
            if name in results or (given and i == 0):
                node.input[i] = activations.through_int8(name)
        if given:
            _add_weighted(draft, node, activations.step(given.source), whole_bias=flavour == "cpu")
        elif output in dynamic:
            rows.multiply(node)
        elif form_of(name_of(node)) == "float" or not add_lookup(draft, node, before=flavour == "tensorrt"):
            draft.add(node)
    return draft.finish()


class _Activations:
    """QuantizeLinear and DequantizeLinear of activations, by their ranges or directly from pixels."""

    def __init__(self, draft: Draft, ranges: Ranges, flavour: Flavour) -> None:
        self._draft, self._ranges, self._flavour = draft, ranges, flavour
        self._users: Counter[str] = Counter()
        self._pixels: dict[str, Pixels | None] = {}
        self._made: set[str] = set()

    def step(self, name: str) -> float:
        """Scale of an activation's integers."""
        if pixels := self._pixels_of(name):
            return pixels.step
        low, high = self._ranges[name]
        return max((high - low) / 255 if self._flavour == "cpu" else max(-low, high) / 127, LEAST_STEP)

    def scale(self, name: str) -> list[str]:
        """Constants that an activation is quantized with: scale and zero point."""
        step = self.step(name)
        zero = round(-self._ranges[name][0] / step) if self._flavour == "cpu" else 0
        if pixels := self._pixels_of(name):
            zero = pixels.zero
        return [
            self._draft.constant(f"{name}/scale", step, np.float32),
            self._draft.constant(f"{name}/zero", zero, np.uint8 if self._flavour == "cpu" else np.int8),
        ]

    def integers(self, name: str) -> str:
        """Name of an activation's integers, which are added at first use."""
        integers = f"{name}/int"
        if name not in self._made:
            self._made.add(name)
            if pixels := self._pixels_of(name):
                self._draft.node("Transpose", [pixels.source], integers, perm=pixels.order)
            else:
                self._draft.node("QuantizeLinear", [name, *self.scale(name)], integers)
        return integers

    def are_there(self, name: str) -> None:
        """Declare that another node gives the integers, under the name used here."""
        self._made.add(name)

    def through_int8(self, name: str) -> str:
        """Name of an activation after rounding; a new name for each call."""
        integers = self.integers(name)
        self._users[name] += 1
        rounded = f"{name}/rounded_{self._users[name]}"
        return self._draft.node("DequantizeLinear", [integers, *self.scale(name)], rounded)

    def _pixels_of(self, name: str) -> Pixels | None:
        if name not in self._pixels:
            wanted = self._flavour == "cpu"
            self._pixels[name] = pixels_of(self._draft, name) if wanted else None
        return self._pixels[name]


def _wide_ones(draft: Draft, candidates: Collection[Site]) -> Mapping[str, Wide]:
    """Convolutions that are faster in wide form, by their output."""
    outputs = {value.name for value in draft.graph.output}
    few = [s for s in candidates if draft.array(s.node.input[1]).shape[1] % 4 and s.result not in outputs]
    known = widths(draft) if few else {}
    found = {
        site.node.output[0]: widened(draft, site.node, known[site.source])
        for site in few
        if site.source in known
    }
    return {name: wide for name, wide in found.items() if wide}


def _add_wide(draft: Draft, site: Site, wide: Wide, activations: _Activations) -> None:
    """Add a convolution in its wide form, and the Relu or Clip behind it, all on integers."""
    name, result = f"{site.node.output[0]}/wide", site.result
    places = regrouped(draft, activations.integers(site.source), f"{name}/int", wide.place)
    source = draft.node("DequantizeLinear", [places, *activations.scale(site.source)], f"{name}/source")
    inputs = [source, draft.constant(f"{name}/float", wide.weight, np.float32)]
    if wide.bias is not None:
        inputs.append(draft.constant(f"{name}/float_bias", wide.bias, np.float32))
    conv = helper.make_node("Conv", inputs, [name], name=name_of(site.node), **wide.attributes)
    _add_weighted(draft, conv, activations.step(site.source), whole_bias=True)
    if result != site.node.output[0]:
        follower = next(node for node in draft.originals if result in node.output)
        name = draft.node(follower.op_type, [name, *follower.input[1:]], f"{result}/wide")
    integers = draft.node("QuantizeLinear", [name, *activations.scale(result)], f"{result}/wide/result")
    regrouped(draft, integers, f"{result}/int", wide.column)
    activations.are_there(result)


def _add_weighted(draft: Draft, node: onnx.NodeProto, step: float, *, whole_bias: bool) -> None:
    """Add a Conv, MatMul or Gemm with an int8 weight; `step` is that of its activations.

    Its bias becomes int32 in units of step * weight's scale. ONNX Runtime (1.31) would do that too, but lets
        it overflow. If that unit is too small for the bias, the weight's scale is raised.
    """
    weight, name = draft.array(node.input[1]), node.output[0]
    axis = 0 if node.op_type == "Conv" or attributes_of(node).get("transB") else 1
    least: npt.ArrayLike = 0.0
    bias = draft.array(node.input[2]) if len(node.input) > 2 and draft.is_float(node.input[2]) else None
    if bias is not None and bias.shape == (weight.shape[axis],):
        least = np.abs(bias) / (step * _BIAS_TOP)
    integers, scale = by_channel(weight, axis, least)
    if whole_bias and bias is not None and bias.shape == scale.shape:
        unit = np.float32(step) * scale
        whole = draft.integers(f"{name}/bias", np.rint(bias / unit).astype(np.int32), unit)
        node.input[2] = draft.node("DequantizeLinear", whole, f"{name}/bias", axis=0)
    small = draft.integers(f"{name}/weight", integers, scale)
    node.input[1] = draft.node("DequantizeLinear", small, f"{name}/weight", axis=axis)
    draft.add(node)
