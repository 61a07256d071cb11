"""Calibration: the range of each activation on real records, for static int8.

One pass over the records, in which the graph itself reduces each activation to its extremes and a sample.
Memory does not grow with the number of records; ONNX Runtime's own calibrators keep every activation of every
record (onnxruntime#10503).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from mmray.batching import Feeds
from mmray.errors import EngineError
from mmray.variants.quantize.histogram import Histogram, Method
from mmray.variants.quantize.targets import sites

#: Lowest and highest value of each activation, by the tensor's name. Zero lies between them.
Ranges = Mapping[str, tuple[float, float]]

_SAMPLE = 8192  # values of each activation that are sampled from a batch
_STRIDE = 2654435761  # a prime larger than any tensor: its multiples reach every element, with no period


def collect_ranges(model: onnx.ModelProto, feeds: Iterable[Feeds], method: Method = "percentile") -> Ranges:
    """Run a graph on records and note the range of every activation that static int8 turns into integers.

    Args:
        model: in float32.
        feeds: batches of records as `mmray.batching.pack` makes them, drawn one at a time. Memory grows with
            the largest batch, not with their number.
        method: how to clip extremes, so that the rest is rounded less. "minmax" clips nothing; "percentile"
            the share TAIL of the values at either end; "entropy" keeps the distribution of the magnitudes
            closest in KL divergence (Migacz, 8-bit inference with TensorRT, GTC 2017).

    Returns:
        A range for each source of a site and each result of a Conv, except those without any value.

    Raises:
        EngineError: there were no records, or an activation was not finite.
    """
    observed = _activations(model.graph)
    if not observed:
        return {}
    found = {name: Histogram() for name in observed}
    batches = 0
    with tempfile.TemporaryDirectory() as folder:
        session = probe_session(_observing(model, observed), Path(folder) / "observing.onnx")
        for batch in feeds:
            outputs = iter(session.run(None, batch))
            for name, histogram in found.items():
                low, high, values = next(outputs), next(outputs), next(outputs)
                if not len(values):
                    continue  # the batch lacks the modality
                try:
                    histogram.add(float(low), float(high), values)
                except ValueError as e:
                    raise EngineError(f"calibration: {e} in {name}; remove such records") from e
            batches += 1
    if not batches:
        raise EngineError("calibration: there are no records; give shards with usable records")
    return {name: histogram.range(method) for name, histogram in found.items() if histogram.count}


def _activations(graph: onnx.GraphProto) -> list[str]:
    names: dict[str, None] = {}
    for site in sites(graph):
        names[site.source] = None
        if site.node.op_type == "Conv":
            names[site.result] = None
    return list(names)


def _observing(model: onnx.ModelProto, observed: Iterable[str]) -> onnx.ModelProto:
    """The model with three outputs for each activation: lowest and highest value, and a sample.

    The nodes of an activation follow the one that makes it, see `probe_session`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    waiting = set(observed)
    places = {"all": [-1], "sample": _SAMPLE, "stride": _STRIDE, "from": 0, "step": 1}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"observe/{name}")
        for name, value in places.items()
    )
    nodes = list(graph.node)
    del graph.node[:], graph.output[:]
    for name in [i.name for i in graph.input if i.name in waiting]:
        graph.node.extend(_observe(name))
    for node in nodes:
        graph.node.append(node)
        for name in node.output:
            if name in waiting:
                graph.node.extend(_observe(name))
    graph.output.extend(
        helper.make_tensor_value_info(f"observe/{name}/{what}", TensorProto.FLOAT, None)
        for name in observed
        for what in ("low", "high", "values")
    )
    return copy


def _observe(name: str) -> Iterator[onnx.NodeProto]:
    """Nodes that reduce an activation of n values; the i-th of its sample is that at i * _STRIDE modulo n."""
    own = f"observe/{name}/"

    def node(op: str, what: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401  (onnx's own)
        return helper.make_node(op, inputs, [own + what], name=own + what, **attributes)

    yield node("Reshape", "flat", name, "observe/all")
    yield node("ReduceMin", "low", own + "flat", keepdims=0)
    yield node("ReduceMax", "high", own + "flat", keepdims=0)
    yield node("Size", "size", own + "flat")
    yield node("Min", "count", own + "size", "observe/sample")
    yield node("Range", "order", "observe/from", own + "count", "observe/step")
    yield node("Mul", "place", own + "order", "observe/stride")
    yield node("Max", "divisor", own + "size", "observe/step")  # a batch may lack the modality
    yield node("Mod", "index", own + "place", own + "divisor")
    yield node("Gather", "values", own + "flat", own + "index")


def probe_session(model: onnx.ModelProto, path: Path) -> ort.InferenceSession:
    """Runs nodes in the order of the graph, so that an activation is dropped as soon as it is reduced.

    In ONNX Runtime's default order all of them are kept to the end: 16 records took 2.2 GB, in this order
    0.45 GB. The layout transformations of the last optimization level move nodes and took 0.9 GB.
    """
    onnx.save(model, path)
    del model
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = os.cpu_count() or 1
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False  # it would fragment when batches differ in size
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
