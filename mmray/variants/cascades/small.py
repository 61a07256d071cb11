"""A graph that looks at images at half their height and width, with its own head.

It has the inputs and the trunks of its base, in the same precision, behind a pool of 2 x 2 pixels. The base's
head would be far less accurate on such features (docs/cascade.md), so a new one is trained on them with
records of the train split (`mmray.heads.train`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmray.engine import Engine
from mmray.errors import ModelError
from mmray.evaluation import LabelledTensors
from mmray.graphs import clean, needed
from mmray.heads import Examples, TrainedHead, train_head
from mmray.schema import Modality
from mmray.variants.cascades.evidence import answers
from mmray.variants.cascades.staging import dependencies

_NEVER = -30.0  # logit of a class without training records


def half_graph(graph: Path, train: Iterable[LabelledTensors], folder: Path, batch_rows: int) -> Path:
    """Write a variant's graph that looks at images at half their height and width.

    Args:
        graph: of the variant. Its features are zero if a modality is absent.
        train: records to train the head on, a few at a time.
        folder: for the graph.
        batch_rows: records of one inference.

    Raises:
        ModelError: the features are of another kind.
        ValueError: too few records are labelled.
        Exception: any that ONNX Runtime raises if a trunk has a fixed height and width.
    """
    pooled, path = _pooled(onnx.load(graph)), folder / f"{graph.stem}-half.onnx"
    onnx.save(pooled, path)
    examples, columns, classes = _examples(Engine(path, provider="cpu"), train, batch_rows)
    onnx.save(_with_head(pooled, train_head(examples), columns, classes), path)
    return path


def _pooled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the rounded mean of 2 x 2 pixels instead of the pixels."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.value_info[:]  # of the whole images
    of = dependencies(graph)
    for node in graph.node:
        node.input[:] = ["half/pixels" if name == "pixels" else name for name in node.input]
    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        # Columns as channels, see quantize.wide.regrouped: it fixes the number of columns.
        name, is_image = node.output[0], of[node.output[0]] == {"image"}
        if is_image and node.op_type == "Reshape" and name.endswith("/places"):
            *kept, places, channels = numpy_helper.to_array(constants[node.input[1]]).tolist()
            shape = np.array([*kept, places // 2, channels], np.int64)
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(shape, node.input[1]))
    steps = [
        helper.make_node("Transpose", ["pixels"], ["half/nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["half/nchw"], ["half/float"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["half/float"], ["half/means"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Round", ["half/means"], ["half/whole"]),
        helper.make_node("Cast", ["half/whole"], ["half/uint8"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["half/uint8"], ["half/pixels"], perm=[0, 2, 3, 1]),
    ]
    _put(graph, [*_named(steps), *graph.node])
    return copy


def _examples(
    engine: Engine, train: Iterable[LabelledTensors], batch_rows: int
) -> tuple[Examples, list[npt.NDArray[np.bool_]], int]:
    """Training data of the head, each modality's columns of the features, and the number of classes."""
    parts: list[Examples] = []
    modalities: tuple[Modality, ...] = ()
    classes = 0
    for records in train:
        modalities, classes = records.spec.modalities, len(records.classes)
        features = {
            m: answers(engine, records, (m,), batch_rows=batch_rows, output="features") for m in modalities
        }
        labels = np.array([f"{label:06d}" for label in records.labels], np.str_)  # sorted like their numbers
        splits = np.full(len(records), "train")
        part = Examples(features, records.present, labels, records.groups, splits)
        parts.append(part.take(records.labels >= 0))
    if not parts:
        raise ValueError("no record of the train split can be used")
    examples = Examples.join(parts)
    columns = [(values != 0).any(axis=0) for values in examples.features.values()]
    absent = [values[~examples.present[:, k]] for k, values in enumerate(examples.features.values())]
    if np.sum(columns, axis=0).max() > 1 or any(values.any() for values in absent):
        raise ModelError("the modalities have no features of their own that are zero where one is absent")
    own = {m: examples.features[m][:, which] for m, which in zip(modalities, columns, strict=True)}
    labelled = Examples(own, examples.present, examples.labels, examples.groups, examples.splits)
    return labelled, columns, classes


def _with_head(
    model: onnx.ModelProto, trained: TrainedHead, columns: list[npt.NDArray[np.bool_]], classes: int
) -> onnx.ModelProto:
    """The graph with `mmray.models.head.SubsetHead` behind its features instead of its own head."""
    head, known = trained.head, np.array(trained.labels, np.intp)
    weights = np.zeros((len(columns[0]), classes), np.float32)
    bias = np.full((len(head.bias), classes), _NEVER, np.float32)
    bias[:, known] = head.bias.detach().numpy()
    for which, weight in zip(columns, head.weights, strict=True):
        weights[np.ix_(which, known)] = weight.detach().numpy().T
    constants = {
        "half/place": head.place.numpy().astype(np.float32),
        "half/gain": head.gain.detach().numpy() @ np.array(columns, np.float32),  # of each feature
        "half/weights": weights,
        "half/bias": bias,
    }
    nodes = [
        helper.make_node("Cast", ["present"], ["half/flags"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["half/flags", "half/place"], ["half/number"]),
        helper.make_node("Cast", ["half/number"], ["half/subset"], to=TensorProto.INT64),
        helper.make_node("Gather", ["half/gain", "half/subset"], ["half/gains"]),
        helper.make_node("Mul", ["features", "half/gains"], ["half/weighed"]),
        helper.make_node("MatMul", ["half/weighed", "half/weights"], ["half/evidence"]),
        helper.make_node("Gather", ["half/bias", "half/subset"], ["half/biases"]),
        helper.make_node("Add", ["half/evidence", "half/biases"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _put(copy.graph, [*needed(copy.graph.node, ["features"]), *_named(nodes)])
    copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    clean(copy)
    return copy


def _named(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    for node in nodes:
        node.name = node.output[0]
    return nodes


def _put(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph; new ones may include old ones."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
