"""An encoder that came as an ONNX file: what it takes and gives, checked, and tried before it is fused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from mmray.batching import Feeds
from mmray.errors import ModelError
from mmray.models.fused import INPUTS
from mmray.optimize.importing.description import EncoderFile, Layout
from mmray.optimize.importing.fuse import Adapter, Piece, adapter_model
from mmray.optimize.importing.graph import to_opset
from mmray.optimize.importing.interface import (
    Dims,
    describe,
    dims_of,
    expected_inputs,
    load_graph,
    one_line,
)
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality

_LAYOUTS: Mapping[Modality, tuple[Layout, ...]] = {
    "image": ("NCHW", "NHWC"),
    "audio": ("N1FK", "N1KF", "NFK", "NKF"),
}
_KINDS: Mapping[Modality, tuple[int, ...]] = {
    "image": (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8),
    "text": (TensorProto.INT64, TensorProto.INT32),
    "audio": (TensorProto.FLOAT, TensorProto.FLOAT16),
}
#: Inputs of text encoders as the field names them; token types are all of the first type.
_TEXT = {"input_ids": "input_ids", "attention_mask": "attention_mask", "token_type_ids": "zeros"}


class Original:
    """The encoder as it came, behind its adapter: what the fused graph must be equal to."""

    def __init__(
        self, graph: Path, output: str, adapter: Adapter, modality: Modality, spec: PreprocessSpec
    ) -> None:
        self._output = output
        *self._names, _ = INPUTS[modality]
        model = adapter_model(adapter, modality, spec)
        self._adapter = _session(model.SerializeToString())
        self._encoder = _session(str(graph))
        self._inputs = [output.name.removeprefix("to/") for output in model.graph.output]

    def __call__(self, feeds: Feeds) -> npt.NDArray[np.float32]:
        """Embeddings float32 [N, D] of the modality's rows in a batch. Raises what ONNX Runtime raises."""
        tensors = self._adapter.run(None, {name: feeds[name] for name in self._names})
        (embedding,) = self._encoder.run([self._output], dict(zip(self._inputs, tensors, strict=True)))
        return np.asarray(embedding, np.float32)


def read_piece(modality: Modality, given: EncoderFile, spec: PreprocessSpec) -> tuple[Piece, Original]:
    """The encoder, ready to be fused, and as it came.

    Raises:
        ModelError: names the file and what does not fit.
    """
    model = load_graph(given.graph)
    weights = {i.name for i in model.graph.initializer}
    inputs = {i.name: i for i in model.graph.input if i.name not in weights}
    for name, value in inputs.items():
        _check_input(given.graph, modality, name, value)
    output = _choose_output(given, model)
    adapter = _describe_adapter(modality, given, inputs, spec)
    original = Original(given.graph, output, adapter, modality, spec)
    width = _try(given.graph, original, _blank(modality, spec, 2), output)
    try:
        needs_rows = original(_blank(modality, spec, 0)).shape != (0, width)
    except Exception:  # as above; the fused graph gives it a blank row
        needs_rows = True
    piece = Piece(to_opset(model, str(given.graph)), output, width, adapter, needs_rows)
    return piece, original


def _check_input(graph: Path, modality: Modality, name: str, value: onnx.ValueInfoProto) -> None:
    kind, dims = value.type.tensor_type.elem_type, dims_of(value)
    where = f"{graph}: input {name!r} is {describe(kind, dims)}"
    if kind not in _KINDS[modality]:
        known = " or ".join(TensorProto.DataType.Name(k).lower() for k in _KINDS[modality])
        raise ModelError(f"{where}; an adapter for {modality} gives {known}")
    if not dims or dims[0] is not None:
        raise ModelError(f"{where}; the first dimension must be free: export it with a dynamic batch")


def _choose_output(given: EncoderFile, model: onnx.ModelProto) -> str:
    outputs = {o.name: dims_of(o) for o in model.graph.output}
    names = ", ".join(outputs)
    output = given.output or (names if len(outputs) == 1 else "")
    if output not in outputs:
        raise ModelError(f"{given.graph}: name one of its outputs as `output`: {names}; not {output!r}")
    if len(outputs[output]) not in (0, 2):  # 0: the graph does not say
        raise ModelError(
            f"{given.graph}: output {output!r} has {len(outputs[output])} dimensions; an embedding has two, "
            f"[N, D]: export the pooled one, or name another output: {names}"
        )
    return output


def _describe_adapter(
    modality: Modality, given: EncoderFile, inputs: Mapping[str, onnx.ValueInfoProto], spec: PreprocessSpec
) -> Adapter:
    kinds = {name: value.type.tensor_type.elem_type for name, value in inputs.items()}
    if modality == "text":
        sources = _text_sources(given, inputs)
        (ids,) = (name for name, source in sources.items() if source == "input_ids")
        pad_to = _text_length(given, dims_of(inputs[ids]), spec)
        return Adapter(kinds, sources, pad_to=pad_to, pad_id=given.pad_id)
    if len(inputs) != 1:
        raise ModelError(
            f"{given.graph}: has the inputs {', '.join(inputs) or 'none'}; an {modality} encoder takes one"
        )
    (name,) = inputs
    source, *_ = INPUTS[modality]
    channels = expected_inputs(spec)[source][1][-1]
    for key, values in (("mean", given.mean), ("std", given.std)):
        if len(values) not in (1, channels) or (key == "std" and 0 in values):
            raise ModelError(
                f"{given.graph}: {key} {values}: give one number, or {channels}, and no std of 0"
            )
    layout = _choose_layout(modality, given, dims_of(inputs[name]), spec)
    adapter = Adapter(kinds, {name: source}, layout, given.scale, given.mean, given.std)
    if kinds[name] == TensorProto.UINT8 and adapter.normalizes:
        raise ModelError(f"{given.graph}: takes uint8, so scale, mean and std are its own affair")
    return adapter


def _text_sources(given: EncoderFile, inputs: Mapping[str, onnx.ValueInfoProto]) -> dict[str, str]:
    """For each of the encoder's inputs, which of ours it is."""
    theirs = {given.inputs.get(ours, ours): source for ours, source in _TEXT.items()}
    if len(inputs) == 1 and not given.inputs:
        theirs = dict.fromkeys(inputs, "input_ids")
    found = {name: theirs[name] for name in inputs if name in theirs}
    absent = [*(set(given.inputs.values()) - inputs.keys())]
    unknown = [*(given.inputs.keys() - _TEXT), *(inputs.keys() - theirs)]
    if absent or unknown or "input_ids" not in found.values():
        fault = f"{absent[0]!r} is not there" if absent else f"{(unknown or ['none'])[0]!r} is not known"
        raise ModelError(
            f"{given.graph}: has the inputs {', '.join(inputs)}; {fault}: say under `inputs` what "
            f"{', '.join(_TEXT)} are called in this graph"
        )
    return found


def _text_length(given: EncoderFile, dims: Dims, spec: PreprocessSpec) -> int | None:
    """How many tokens the encoder must always get; None: any number."""
    fixed = dims[1] if len(dims) == 2 else None
    length = given.pad_to or fixed
    most = spec.text.max_tokens if spec.text else 0
    if length and (length < most or (fixed and length != fixed)):
        raise ModelError(
            f"{given.graph}: takes texts of {fixed or length} tokens; preprocessing.text.max_tokens must be "
            f"no more (it is {most}), and pad_to the same"
        )
    return length


def _choose_layout(modality: Modality, given: EncoderFile, dims: Dims, spec: PreprocessSpec) -> Layout:
    sizes: dict[str, int | None] = {"N": None, "1": 1, "C": 3}
    if image := spec.image:
        sizes |= {"H": image.height, "W": image.width}
    if audio := spec.audio:
        sizes |= {"F": audio.patch_frames, "K": audio.mel_bins}

    def fits(layout: Layout) -> bool:
        wanted = [sizes[axis] for axis in layout]
        return len(dims) == len(wanted) and all(
            size is None or size == needed for size, needed in zip(dims[1:], wanted[1:], strict=True)
        )

    known = _LAYOUTS[modality]
    fitting = [layout for layout in known if fits(layout) and given.layout in (None, layout)]
    if len(fitting) != 1:
        shape = ", ".join("*" if size is None else str(size) for size in dims)
        sides = ", ".join(f"{axis}={sizes[axis]}" for axis in ("HW" if modality == "image" else "FK"))
        verdict = f"is not {given.layout}" if given.layout else "may be any" if fitting else "is none"
        raise ModelError(
            f"{given.graph}: its input [{shape}] {verdict} of {', '.join(known)} with {sides}: say its "
            "`layout`, or correct the sizes in `preprocessing`"
        )
    return fitting[0]


def _blank(modality: Modality, spec: PreprocessSpec, rows: int) -> Feeds:
    """Inputs of so many rows."""
    tokens = min(8, spec.text.max_tokens) if spec.text else 0
    feeds: Feeds = {}
    *names, _ = INPUTS[modality]
    for name in names:
        kind, dims = expected_inputs(spec)[name]
        shape = (rows, *(tokens if size is None else size for size in dims[1:]))
        feeds[name] = np.ones(shape, helper.tensor_dtype_to_np_dtype(kind))
    return feeds


def _try(graph: Path, original: Original, feeds: Feeds, output: str) -> int:
    """Width of the embeddings."""
    try:
        embedding = original(feeds)
    except Exception as e:  # ONNX Runtime's own exception types share no base
        raise ModelError(f"{graph}: does not run on what its adapter gives: {one_line(e)}") from e
    if embedding.ndim != 2 or len(embedding) != 2:
        raise ModelError(f"{graph}: output {output!r} is {embedding.shape} for two rows, not [2, D]")
    return int(embedding.shape[1])


def _session(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails here is expected, or becomes an error of our own
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
