"""A fused torch model as one clean ONNX graph, proved equal to the model before anybody uses it."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from mmray.batching import Feeds
from mmray.engine import Engine
from mmray.errors import EngineError
from mmray.models.fused import FEATURES_ONLY, INPUTS, OUTPUTS, input_names
from mmray.models.threads import one_thread
from mmray.preprocess.spec import PreprocessSpec

#: From 23 on the exporter emits an Attention operator whose CPU kernel refuses our mask.
OPSET = 20
#: Largest difference between torch and ONNX Runtime, as a share of the output's largest value.
TOLERANCE = 1e-4

#: Inputs that must not be shared: ONNX Runtime's exact int8 crashes on a zero-point of two nodes, and its
#: quantizer transposes a Gemm's weight in place, once for each.
_OWN = {"DequantizeLinear": 2, "Gemm": 1}

_EXAMPLE = {
    "records": 3,
    "images": 2,
    "texts": 4,
    "tokens": 7,
    "patches": 5,
}  # all differ: none is tied to another


#: What another implementation of the model gives for a batch: arrays by the output's name.
Reference = Callable[[Feeds], Feeds]


def export_graph(
    model: nn.Module, spec: PreprocessSpec, path: Path, outputs: Sequence[str] = OUTPUTS
) -> None:
    """Write the model as an ONNX file with the inputs of `mmray.batching.pack`.

    Free are the numbers of records, images, texts, tokens and patches; any of them but the first may be 0.

    Args:
        model: takes what `mmray.models.fused.FusedModel.forward` takes, by name, and gives `outputs`.
        spec: modalities, and shapes of pixels and patches.
        path: where to.
        outputs: names of what the model gives.

    Raises:
        EngineError: the graph does not have the inputs and outputs that the engine expects.
    """
    records, images, texts, tokens, patches = (torch.export.Dim(name) for name in _EXAMPLE)
    free: dict[str, dict[int, Any]] = {
        "present": {0: records},
        "pixels": {0: images},
        "pixels_row": {0: images},
        "input_ids": {0: texts, 1: tokens},
        "attention_mask": {0: texts, 1: tokens},
        "text_row": {0: texts},
        "log_mel": {0: patches},
        "log_mel_row": {0: patches},
    }
    names = input_names(spec.modalities)
    examples = _example_inputs(spec)
    with _quiet():
        torch.onnx.export(
            model.eval(),
            kwargs={name: examples[name] for name in names},
            f=path,
            input_names=list(names),
            output_names=list(outputs),
            dynamic_shapes={name: free[name] for name in names},
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    proto = onnx.load(path)
    clean(proto)
    found = ([i.name for i in proto.graph.input], [o.name for o in proto.graph.output])
    if found != (list(names), list(outputs)):
        raise EngineError(
            f"{path}: exported with inputs {found[0]} and outputs {found[1]}, not {names}, {outputs}"
        )
    onnx.save(proto, path)


def clean(proto: onnx.ModelProto) -> None:
    """Make a graph small, private and safe for later passes, in place; then check it.

    Raises:
        onnx.checker.ValidationError: the graph is not valid.
    """
    graph = proto.graph
    del graph.value_info[:]  # inferred shapes that quantization would find contradicted
    _drop_unused(graph)
    _split_shared(graph)
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]  # the exporter's stack traces, with paths of the building machine
    onnx.checker.check_model(proto, full_check=True)


def check_parity(model: nn.Module, graph: Path, cases: Mapping[str, Feeds]) -> float:
    """`compare_with` the torch model that the graph was exported from."""

    def run(feeds: Feeds) -> Feeds:
        tensors = {name: torch.from_numpy(a.copy()) for name, a in with_blank_rows(feeds).items()}
        with one_thread(), torch.no_grad():
            given = model(**tensors)
        arrays = [tensor.numpy() for tensor in (given if isinstance(given, tuple) else (given,))]
        return dict(zip(FEATURES_ONLY if len(arrays) == 1 else OUTPUTS, arrays, strict=True))

    return compare_with(run, "torch", graph, cases)


def compare_with(reference: Reference, whose: str, graph: Path, cases: Mapping[str, Feeds]) -> float:
    """Compare the graph on ONNX Runtime's CPU provider with another implementation of the model.

    Args:
        reference: gives every output of the graph.
        whose: what to call the reference.
        graph: ONNX file.
        cases: batches by a name for people, as `mmray.batching.pack` makes them.

    Returns:
        The largest difference found, as a share of the output's largest value.

    Raises:
        EngineError: names the case and the output that differ by more than TOLERANCE.
    """
    engine = Engine(graph, provider="cpu")
    worst = 0.0
    for case, feeds in cases.items():
        expected = reference(feeds)
        for name, found in engine(feeds).items():
            scale = max(1.0, float(np.abs(expected[name]).max()))
            difference = float(np.abs(np.subtract(found, expected[name])).max()) / scale
            if not difference <= TOLERANCE:  # also true for NaN
                shapes = ", ".join(f"{key} {array.shape}" for key, array in feeds.items())
                raise EngineError(
                    f"{graph}: output {name!r} is off {whose}'s by {difference:.2g} on the batch {case!r} "
                    f"({shapes}); the export changed the model"
                )
            worst = max(worst, difference)
    return worst


def with_blank_rows(feeds: Feeds) -> Feeds:
    """The batch with one blank row for each modality that has none: not every torch module takes none."""
    filled = dict(feeds)
    for *names, row in INPUTS.values():
        if row in feeds and not len(feeds[row]):
            for name in (*names, row):
                blank = np.ones if name == "attention_mask" else np.zeros
                filled[name] = blank((1, *feeds[name].shape[1:]), feeds[name].dtype)
    return filled


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's talk about its own internals: what matters is checked afterwards."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _example_inputs(spec: PreprocessSpec) -> dict[str, torch.Tensor]:
    n = _EXAMPLE
    inputs = {"present": torch.ones(n["records"], len(spec.modalities), dtype=torch.bool)}
    if image := spec.image:
        inputs["pixels"] = torch.zeros(n["images"], image.height, image.width, 3, dtype=torch.uint8)
        inputs["pixels_row"] = torch.arange(n["images"]) % n["records"]
    if spec.text:
        inputs["input_ids"] = torch.ones(n["texts"], n["tokens"], dtype=torch.int32)
        inputs["attention_mask"] = torch.ones(n["texts"], n["tokens"], dtype=torch.int32)
        inputs["text_row"] = torch.arange(n["texts"]) % n["records"]
    if audio := spec.audio:
        inputs["log_mel"] = torch.zeros(n["patches"], audio.patch_frames, audio.mel_bins, dtype=torch.float16)
        inputs["log_mel_row"] = torch.arange(n["patches"]) % n["records"]
    return inputs


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = _used(graph)
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _used(graph: onnx.GraphProto) -> set[str]:
    """Names that nodes take, those of subgraphs included, and the graph's outputs."""
    return {output.name for output in graph.output}.union(*(taken_by(node) for node in graph.node))


def taken_by(node: onnx.NodeProto) -> set[str]:
    """Names that a node takes, those that its subgraphs take included."""
    inner = [
        graph
        for attribute in node.attribute
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]
    return set(node.input).union(*(_used(graph) for graph in inner))


def _split_shared(graph: onnx.GraphProto) -> None:
    """A tensor of its own for each input of `_OWN` that several nodes share."""
    initializers = {i.name: i for i in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    for number, node in enumerate(graph.node):
        place = _OWN.get(node.op_type, len(node.input))
        if place < len(node.input) and node.input[place] in initializers and uses[node.input[place]] > 1:
            copy = onnx.TensorProto()
            copy.CopyFrom(initializers[node.input[place]])
            copy.name = f"{node.input[place]}_{number}"
            uses[node.input[place]] -= 1
            node.input[place] = copy.name
            graph.initializer.append(copy)
