"""Rounds weights for static int8 so that a layer's results, not its weights, change least.

Two steps, neither of which needs labels or training:

* Columns of the input of a matrix product are made more similar: each is divided by the square root of its
  peak, as a share of the largest, and its weights are multiplied by that (Xiao et al.,
  SmoothQuant, 2023, section 4, with no weights in the formula: rounded as below they lose little). A
  transformer has a few columns far above the others, whose step would round the others to nearly nothing.
* Weights are rounded one input at a time, and the remaining weights compensate for the error, by the input's
  second moments (Frantar et al., GPTQ, 2023, section 3). So errors of a convolution's nine or
  25 weights cancel where its input is even, as most of a picture is.

The result is a float32 graph whose weights lie on the grid that `draft.by_channel` will find.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from mmray.variants.quantize.moments import Moments, grouped, ungrouped
from mmray.variants.quantize.targets import name_of, sites

_DAMPING = 0.01  # share of the mean second moment, added to each: as in GPTQ
_LEAST_MOMENT = 1e-9  # for inputs that were always zero
_LEAST_SHARE = 1 / 256  # lower limit of a column's peak, as a share of the largest: new records may exceed it
_LEAST_SCALE = 1e-30  # of weights that are all zero
_BLOCK = 64  # inputs whose errors are propagated together, for speed


@dataclass(frozen=True)
class Rounding:
    """Replacements of a graph's weights and inputs for static int8."""

    weights: Mapping[str, onnx.TensorProto]  # by the output of their node
    divisors: Mapping[str, npt.NDArray[np.float32]]  # [I], of a matrix product's input, by its name

    def on(self, model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
        """A copy in float32 with the weights of the named nodes rounded, and their inputs divided.

        Args:
            model: that the rounding was found for; it is not altered.
            nodes: by name.
        """
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        graph = copy.graph
        chosen = {site.node.output[0]: site for site in sites(graph) if name_of(site.node) in nodes}
        old = list(graph.node)
        del graph.node[:]
        divided: set[str] = set()
        for node in old:
            output = node.output[0]
            if output in chosen and output in self.weights:
                node.input[1] = f"{output}/fitted"
                graph.initializer.add().CopyFrom(self.weights[output])
                graph.initializer[-1].name = node.input[1]
                source = chosen[output].source
                if node.op_type != "Conv" and source in self.divisors:
                    if source not in divided:
                        divided.add(source)
                        factor = numpy_helper.from_array(1 / self.divisors[source], f"{source}/factor")
                        graph.initializer.append(factor)
                        even = f"{source}/even"
                        graph.node.append(helper.make_node("Mul", [source, factor.name], [even], name=even))
                    node.input[0] = f"{source}/even"
            graph.node.append(node)
        return copy


def find_rounding(model: onnx.ModelProto, moments: Mapping[str, Moments]) -> Rounding:
    """Round the weights of every site.

    Args:
        model: in float32; it is not altered.
        moments: of `mmray.variants.quantize.moments.collect_moments` of the same model.
    """
    constants = {i.name: i for i in model.graph.initializer}
    weights: dict[str, onnx.TensorProto] = {}
    divisors: dict[str, npt.NDArray[np.float32]] = {}
    for site in sites(model.graph):
        weight, found = numpy_helper.to_array(constants[site.node.input[1]]), moments[site.node.output[0]]
        rows, products = grouped(site.node, weight), found.products
        if found.peaks is not None:
            divisor = divisors.setdefault(site.source, _divisor(found.peaks))
            rows, products = rows * divisor, products / np.outer(divisor, divisor)
        weights[site.node.output[0]] = ungrouped(site.node, on_grid(rows, products), weight.shape)
    return Rounding(weights, divisors)


def on_grid(rows: npt.NDArray[np.float32], products: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Weights as multiples of a 127th of the largest in their row, which stays as it is.

    Args:
        rows: weights, [groups, O, I].
        products: second moments of their inputs, [groups, I, I].

    Returns:
        [groups, O, I]; of all such weights, nearly those that change rows @ inputs least, in squares.
    """
    inputs = rows.shape[2]
    steps = np.maximum(np.abs(rows).max(axis=2) / 127, _LEAST_SCALE).astype(np.float64)
    power = np.einsum("gii->gi", products)
    # Inputs with the largest moments first: many others remain to compensate for their errors.
    order = np.argsort(-power, axis=1)
    left = np.take_along_axis(rows.astype(np.float64), order[:, None], axis=2)
    damped = (
        products + np.eye(inputs) * np.maximum(_DAMPING * power.mean(axis=1), _LEAST_MOMENT)[:, None, None]
    )
    damped = np.take_along_axis(np.take_along_axis(damped, order[:, :, None], 1), order[:, None], 2)
    carry = np.swapaxes(np.linalg.cholesky(np.linalg.inv(damped)), 1, 2)
    largest = np.abs(left).argmax(axis=2)
    top = 127 * np.sign(np.take_along_axis(left, largest[:, :, None], axis=2))[:, :, 0]
    whole = np.empty_like(left)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = np.empty((*steps.shape, end - start))
        for i in range(start, end):
            rounded = np.rint(left[:, :, i] / steps).clip(-127, 127)
            whole[:, :, i] = np.where(largest == i, top, rounded)
            error = (left[:, :, i] - whole[:, :, i] * steps) / carry[:, None, i, i]
            left[:, :, i + 1 : end] -= error[:, :, None] * carry[:, None, i, i + 1 : end]
            errors[:, :, i - start] = error
        left[:, :, end:] -= errors @ carry[:, start:end, end:]
    found = np.empty_like(whole)
    np.put_along_axis(found, np.broadcast_to(order[:, None], whole.shape), whole * steps[:, :, None], axis=2)
    return found.astype(np.float32)


def _divisor(peaks: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Divisor of each column; 1 for the one with the largest peak."""
    top = peaks.max()
    share = np.maximum(peaks / top, _LEAST_SHARE) if top else np.ones(len(peaks))
    return np.sqrt(share).astype(np.float32)
