"""A fused graph cut into the stages of a cascade.

Each stage is the part of the graph that its own modalities need. Outputs of encoders are passed on to later
stages, so nothing is computed twice. Modalities of later stages are replaced by the values that the graph has
for a record without them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from mmray.batching import Feeds
from mmray.cascade import CARRIED
from mmray.errors import ModelError
from mmray.graphs import clean, needed
from mmray.models.fused import INPUTS
from mmray.variants.cascades.evidence import HALF, modality_of

_Modalities = frozenset[str]


def split_stages(
    model: onnx.ModelProto,
    stages: Sequence[Sequence[str]],
    feeds: Feeds,
    half: onnx.ModelProto | None = None,
) -> list[onnx.ModelProto]:
    """Cut a graph.

    Args:
        model: takes what `mmray.batching.pack` gives; it is not altered.
        stages: modalities of each stage; together they are those of the model. HALF may be in a stage before
            the image's.
        feeds: a batch of several records, to see what is one row a record.
        half: the same model on images at half size (`small.half_graph`), which answers from HALF until a
            stage has looked at the image. Its values for other modalities equal the model's and are passed
            on, too.

    Returns:
        A graph for each stage. It takes `present`, the inputs of its own modalities and tensors that earlier
        stages pass on; it gives the model's outputs and tensors for later stages, whose names begin with
        CARRIED.

    Raises:
        ModelError: the graph cannot be cut between two of the stages.
    """
    cuts = {False: _Cut(model, feeds)} | ({True: _Cut(half, feeds)} if half else {})
    parts = []
    before, was_half = frozenset[str](), False
    for k in range(len(stages)):
        looked = {look for earlier in stages[: k + 1] for look in earlier}
        is_half = HALF in looked and "image" not in looked
        seen = frozenset(modality_of(look) for look in looked)
        # Values from the image at half size are of no use to the graph that looks at full size.
        known = before - {"image"} if was_half and not is_half else before
        kept = seen - {"image"} if is_half and "image" in stages[k + 1] else seen
        parts.append(cuts[is_half].stage(known, seen, kept))
        before, was_half = seen, is_half
    _check_handed_on(parts)
    return parts


def _check_handed_on(parts: Sequence[onnx.ModelProto]) -> None:
    """Check that earlier stages give all inputs: both graphs must be cut at the same tensors."""
    given: set[str] = set()
    for part in parts:
        names = {value.name for value in part.graph.input if value.name.startswith(CARRIED)}
        if lacking := names - given:
            raise ModelError(
                f"a later stage takes {min(lacking)}, which the graph of half images does not give"
            )
        given |= {value.name for value in part.graph.output}


class _Cut:
    """A graph with the modalities that each of its tensors depends on."""

    def __init__(self, model: onnx.ModelProto, feeds: Feeds) -> None:
        self._model = model
        self._feeds = feeds
        self._of = dependencies(model.graph)
        self._all = frozenset(m for found in self._of.values() for m in found)

    def stage(self, before: _Modalities, seen: _Modalities, kept: _Modalities) -> onnx.ModelProto:
        """The graph of the stage that looks at `seen`.

        Earlier stages passed on the tensors of `before`; later ones need those of `kept`.
        """
        taken = self._border(before)
        given = {} if kept == self._all else self._border(kept)
        given = {name: row for name, row in given.items() if name not in taken}
        absent = self._border(self._all - seen)
        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        graph = copy.graph
        outputs = [output.name for output in graph.output]
        nodes = needed(graph.node, [*outputs, *given], {*taken, *absent})
        own = {name for m, names in INPUTS.items() if m in seen - before for name in names}
        inputs = [i for i in graph.input if i.name == "present" or i.name in own]
        del graph.node[:], graph.input[:]
        graph.node.extend([*_absent_nodes(absent), *nodes])
        graph.input.extend([*inputs, *map(self._info, taken)])
        graph.output.extend(map(self._info, given))
        graph.initializer.extend(
            numpy_helper.from_array(row[:1], f"{CARRIED}{name}/absent") for name, row in absent.items()
        )
        graph.initializer.extend(
            numpy_helper.from_array(np.array([value], np.int64), CARRIED + name)
            for name, value in (("first", 0), ("one", 1))
        )
        _rename(graph, {name: CARRIED + name for name in (*taken, *given)})
        clean(copy)
        return copy

    def _border(self, inside: _Modalities) -> dict[str, npt.NDArray[Any]]:
        """Tensors of only these modalities that nodes of others take, with values for records without.

        Raises:
            ModelError: one of them is not one row a record.
        """
        if not inside:
            return {}
        names: dict[str, None] = {}
        for node in self._model.graph.node:
            if self._of[node.output[0]] <= inside:
                continue
            names |= {name: None for name in node.input if self._of.get(name, frozenset()) & inside}
        names = {name: None for name in names if self._of[name] <= inside}
        rows = self._rows_without(inside, list(names))
        for name, values in rows.items():
            records = len(self._feeds["present"])
            if values.ndim < 1 or len(values) != records or not (values == values[:1]).all():
                raise ModelError(
                    f"the graph cannot be cut around {' and '.join(sorted(inside))}: {name} is not one row a "
                    "record; choose other stages"
                )
        return rows

    def _rows_without(self, absent: _Modalities, names: list[str]) -> dict[str, npt.NDArray[Any]]:
        """Values of tensors for records that have none of these modalities."""
        probe = onnx.ModelProto()
        probe.CopyFrom(self._model)
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        feeds = dict(self._feeds)
        columns = [m for m in INPUTS if m in self._all]
        feeds["present"] = np.logical_and(feeds["present"], ~np.isin(columns, list(absent)))
        for modality in columns:
            if modality in absent:
                feeds |= {name: feeds[name][:0] for name in INPUTS[modality]}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.onnx"
            onnx.save(probe, path)
            session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            return dict(zip(names, session.run(names, feeds), strict=True))

    def _info(self, name: str) -> onnx.ValueInfoProto:
        """Declares a tensor that is one row a record."""
        (row,) = self._rows_without(self._of[name], [name]).values()
        kind = helper.np_dtype_to_tensor_dtype(row.dtype)
        return helper.make_tensor_value_info(name, kind, ["records", *row.shape[1:]])


def dependencies(graph: onnx.GraphProto) -> dict[str, _Modalities]:
    """Modalities that each tensor depends on; none for constants and what depends only on `present`."""
    of: dict[str, _Modalities] = {name: frozenset({m}) for m, names in INPUTS.items() for name in names}
    for node in graph.node:
        found = frozenset(m for name in node.input for m in of.get(name, ()))
        of |= dict.fromkeys(node.output, found)
    return of


def _absent_nodes(absent: Mapping[str, npt.NDArray[Any]]) -> list[onnx.NodeProto]:
    """Nodes that give each record the row for a missing modality."""
    if not absent:
        return []
    records = f"{CARRIED}records"
    nodes = [
        helper.make_node("Shape", ["present"], [f"{CARRIED}shape"], name=f"{CARRIED}shape"),
        helper.make_node("Gather", [f"{CARRIED}shape", f"{CARRIED}first"], [records], name=records),
    ]
    for name, row in absent.items():
        shape = f"{CARRIED}{name}/shape"
        ones = [f"{CARRIED}one"] * (row.ndim - 1)
        nodes.append(helper.make_node("Concat", [records, *ones], [shape], name=shape, axis=0))
        nodes.append(helper.make_node("Expand", [f"{CARRIED}{name}/absent", shape], [name], name=name))
    return nodes


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors in all nodes."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
