"""Second moments of the input of each convolution and matrix product, summed over real records, for rounding.

One pass, in which the graph itself multiplies and adds: only a matrix for each site is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmray.batching import Feeds
from mmray.errors import EngineError
from mmray.variants.quantize.calibrate import probe_session
from mmray.variants.quantize.targets import Site, attributes_of, sites

#: Records of one inference: each value of a picture is there 25 times. 16 records took 3.6 GB.
MOMENT_ROWS = 4


@dataclass(frozen=True)
class Moments:
    """Moments of a site's input, over all places of its windows."""

    products: npt.NDArray[np.float64]  # [groups, I, I], sum of each value times each other
    peaks: npt.NDArray[np.float64] | None  # [I], largest magnitudes; none for a convolution


def collect_moments(model: onnx.ModelProto, feeds: Iterable[Feeds]) -> Mapping[str, Moments]:
    """Run a graph on records and add up the second moments of each site's input.

    Args:
        model: in float32; it is not altered.
        feeds: as of `mmray.variants.quantize.calibrate.collect_ranges`.

    Returns:
        Moments by the output of the site's node. They are zero if no record reached a site.

    Raises:
        EngineError: there were no records, or a value was not finite.
    """
    probe = _Probe(model)
    if not probe.keys:
        return {}
    sums: dict[str, npt.NDArray[np.float64]] = {}
    with tempfile.TemporaryDirectory() as folder:
        session = probe_session(probe.model, Path(folder) / "moments.onnx")
        names = [output.name for output in session.get_outputs()]
        for batch in feeds:
            for name, value in zip(names, session.run(None, batch), strict=True):
                if not np.isfinite(value).all():
                    raise EngineError(
                        f"calibration: a value is not finite in {name.split('/')[1]}; remove such records"
                    )
                known = sums.get(name, np.float64(0))
                sums[name] = np.maximum(known, value) if name.endswith("/peaks") else known + value
    if not sums:
        raise EngineError("calibration: there are no records; give shards with usable records")
    return {
        output: Moments(sums[f"moments/{key}/products"], sums.get(f"moments/{key}/peaks"))
        for output, key in probe.keys.items()
    }


def grouped(node: onnx.NodeProto, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The weight of a site as [groups, outputs of a group, I], whose order is that of `Moments`."""
    if node.op_type == "Conv":
        groups = attributes_of(node).get("group", 1)
        return weight.reshape(groups, len(weight) // groups, -1)
    return (weight if attributes_of(node).get("transB") else weight.T)[None]


def ungrouped(
    node: onnx.NodeProto, rows: npt.NDArray[np.float32], shape: tuple[int, ...]
) -> onnx.TensorProto:
    """The inverse of `grouped`, as a constant."""
    if node.op_type == "Conv":
        weight = rows.reshape(shape)
    else:
        weight = rows[0] if attributes_of(node).get("transB") else rows[0].T
    return numpy_helper.from_array(np.ascontiguousarray(weight, np.float32))


class _Probe:
    """A model that gives the moments instead of its outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.keys: dict[str, str] = {}  # of the moments, by a node's output
        graph = self.model.graph
        shapes = {i.name: tuple(i.dims) for i in graph.initializer}
        of = {site.node.output[0]: site for site in sites(graph)}
        nodes = list(graph.node)
        del graph.node[:], graph.output[:]
        for node in nodes:
            if site := of.get(node.output[0]):
                key = _key(site, shapes[node.input[1]])
                if key not in self.keys.values():
                    graph.node.extend(self._observe(site, key, shapes[node.input[1]]))
                self.keys[node.output[0]] = key
            graph.node.append(node)

    def _observe(self, site: Site, key: str, weight: tuple[int, ...]) -> Iterator[onnx.NodeProto]:
        own = f"moments/{key}/"

        def node(op: str, what: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401  (onnx's own)
            return helper.make_node(op, inputs, [own + what], name=own + what, **attributes)

        def constant(what: str, value: npt.ArrayLike, kind: npt.DTypeLike = np.int64) -> str:
            self.model.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), own + what))
            return own + what

        first = constant("first", [0])
        wanted = ["products"]
        if site.node.op_type == "Conv":
            stated = attributes_of(site.node)
            groups, window = stated.get("group", 1), prod(weight[2:])
            columns = weight[1] * window
            # A channel for each place of a window: it takes only that value.
            one = np.eye(window).reshape(window, 1, *weight[2:])
            kernel = constant(
                "kernel", np.tile(one, (weight[1] * groups, *[1] * (len(weight) - 1))), np.float32
            )
            same = {k: stated[k] for k in ("strides", "pads", "dilations", "auto_pad") if k in stated}
            yield node("Conv", "places", site.source, kernel, group=groups * weight[1], **same)
            yield node("Flatten", "flat", own + "places", axis=2)
            yield node("Shape", "rows", own + "places", start=0, end=1)
            yield node("Shape", "width", own + "flat", start=1)
            inner = constant("inner", [groups, columns])
            yield node("Concat", "shape", own + "rows", inner, own + "width", axis=0)
            # Not with -1: a batch may lack the modality.
            yield node("Reshape", "values", own + "flat", own + "shape", allowzero=1)
            yield node("Transpose", "turned", own + "values", perm=[0, 1, 3, 2])
            yield node("MatMul", "each", own + "values", own + "turned")
        else:
            columns = weight[1] if attributes_of(site.node).get("transB") else weight[0]
            yield node("Flatten", "flat", site.source, axis=-1)
            # One more row, of zeros: a batch may lack the modality.
            zeros = constant("zeros", np.zeros((1, columns)), np.float32)
            yield node("Concat", "values", own + "flat", zeros, axis=0)
            yield node("Abs", "magnitudes", own + "values")
            yield node("ReduceMax", "peaks", own + "magnitudes", first, keepdims=0)
            yield node("Transpose", "turned", own + "values", perm=[1, 0])
            yield node("MatMul", "all", own + "turned", own + "values")
            yield node("Unsqueeze", "each", own + "all", constant("axes", [0, 1]))
            wanted.append("peaks")
        yield node("ReduceSum", "products", own + "each", first, keepdims=0)
        self.model.graph.output.extend(
            helper.make_tensor_value_info(own + what, TensorProto.FLOAT, None) for what in wanted
        )


def _key(site: Site, weight: tuple[int, ...]) -> str:
    """The key is equal for sites with equal moments: they take the same values in the same windows."""
    if site.node.op_type != "Conv":
        return site.source
    stated = attributes_of(site.node)
    known = (weight[1:], *(stated.get(k) for k in ("group", "strides", "pads", "dilations", "auto_pad")))
    return f"{site.source}/{known}"
