"""The original encoder behind its adapter: it is tried, and the fused graph is compared with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from mmray.batching import Feeds
from mmray.errors import ModelError
from mmray.importing.description import EncoderFile, Pool
from mmray.importing.fuse import Adapter, adapter_model
from mmray.importing.interface import expected_inputs
from mmray.importing.load import one_line, open_session
from mmray.importing.pooling import pool_array
from mmray.models.fused import INPUTS
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality

DYNAMIC = "export it with a dynamic batch (of torch.onnx.export: dynamic_shapes, or dynamic_axes)"


class Original:
    """Runs it."""

    def __init__(
        self,
        encoder: Path | onnx.ModelProto,
        given: EncoderFile,
        output: str,
        adapter: Adapter,
        modality: Modality,
        spec: PreprocessSpec,
    ) -> None:
        self._output, self._pool = output, given.pool
        *self._names, _ = INPUTS[modality]
        model = adapter_model(adapter, modality, spec)
        self._adapter = open_session(model, f"adapter of {modality}")
        self._encoder = open_session(encoder, str(given.graph))
        self._inputs = [output.name.removeprefix("to/") for output in model.graph.output]

    def hidden(self, feeds: Feeds) -> npt.NDArray[Any]:
        """Outputs of the graph for the modality's rows in a batch. Raises what ONNX Runtime raises."""
        tensors = self._adapter.run(None, {name: feeds[name] for name in self._names})
        (found,) = self._encoder.run([self._output], dict(zip(self._inputs, tensors, strict=True)))
        return np.asarray(found)

    def __call__(self, feeds: Feeds) -> npt.NDArray[np.float32]:
        """Embeddings float32 [N, D] of the modality's rows in a batch. Raises what ONNX Runtime raises."""
        mask = feeds["attention_mask"] if "attention_mask" in self._names else None
        pooled = pool_array(self.hidden(feeds), self._pool, mask)
        return pooled.astype(np.float32)


def blank(modality: Modality, spec: PreprocessSpec, rows: int) -> Feeds:
    """Inputs of so many rows."""
    tokens = min(8, spec.text.max_tokens) if spec.text else 0
    feeds: Feeds = {}
    *names, _ = INPUTS[modality]
    for name in names:
        kind, dims = expected_inputs(spec)[name]
        shape = (rows, *(tokens if size is None else size for size in dims[1:]))
        feeds[name] = np.ones(shape, helper.tensor_dtype_to_np_dtype(kind))
    return feeds


def try_two_rows(
    given: EncoderFile,
    original: Original,
    modality: Modality,
    spec: PreprocessSpec,
    output: str,
    fixed: int | None,
) -> npt.NDArray[Any]:
    """The output for two rows, which pooling can reduce to [2, D]."""
    graph, remedy = given.graph, f"; {DYNAMIC}" if fixed else ""
    try:
        hidden = original.hidden(blank(modality, spec, 2))
    except Exception as e:  # ONNX Runtime's own exception types share no base
        built = f" (it was exported for a batch of {fixed})" if fixed else ""
        raise ModelError(
            f"{graph}: does not run on the output of its adapter{built}: {one_line(e)}{remedy}"
        ) from e
    shape = list(hidden.shape)
    if hidden.ndim < 2 or len(hidden) != 2:
        raise ModelError(f"{graph}: output {output!r} is {shape} for two rows, not [2, D]; {DYNAMIC}")
    if given.pool and hidden.ndim == 2:
        raise ModelError(f"{graph}: output {output!r} is {shape} for two rows: remove `pool`")
    if given.pool == "first" and hidden.ndim != 3:
        raise ModelError(f"{graph}: output {output!r} is {shape} for two rows; `pool: first` takes [2, T, D]")
    if not given.pool and sum(size > 1 for size in shape[1:]) > 1:
        raise ModelError(
            f"{graph}: output {output!r} has {hidden.ndim} dimensions, {shape} for two rows; an embedding "
            "has two: name a pooled output as `output`, or set the pooling that the model was trained "
            "with: `pool: mean` or `pool: first`"
        )
    return hidden


def width_of(hidden: npt.NDArray[Any], pool: Pool | None) -> int:
    """Width of an embedding, from the output for two rows."""
    if pool is None:
        return int(np.prod(hidden.shape[1:]))
    return int(hidden.shape[-1] if hidden.ndim == 3 else hidden.shape[1])
