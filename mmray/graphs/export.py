"""A fused torch model as one clean ONNX graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from mmray.errors import EngineError
from mmray.graphs.cleaning import clean
from mmray.models.fused import OUTPUTS, input_names
from mmray.preprocess.spec import PreprocessSpec

#: From 23 on the exporter emits an Attention operator whose CPU kernel refuses our mask.
OPSET = 20
_EXAMPLE = {
    "records": 3,
    "images": 2,
    "texts": 4,
    "tokens": 7,
    "patches": 5,
}  # all differ, so that no dimension is tied to another


def export_graph(
    model: nn.Module, spec: PreprocessSpec, path: Path, outputs: Sequence[str] = OUTPUTS
) -> None:
    """Write the model as an ONNX file with the inputs of `mmray.batching.pack`.

    The numbers of records, images, texts, tokens and patches are dynamic; any but the first may be 0.

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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's log lines about its internals: the graph is checked afterwards."""
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
