"""An encoder from an ONNX file: its inputs and outputs are checked, and it is tried, before fusing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

from mmray.batching import Feeds
from mmray.errors import ModelError
from mmray.importing.description import EncoderFile, Layout
from mmray.importing.finish import Say
from mmray.importing.fuse import Adapter, Piece
from mmray.importing.graph import to_opset
from mmray.importing.interface import (
    Dims,
    declared,
    dims_of,
    expected_inputs,
    free_dims,
)
from mmray.importing.load import load_graph
from mmray.importing.original import Original, blank, try_two_rows, width_of
from mmray.importing.pooling import add_pooling
from mmray.importing.rows import check_rows
from mmray.models.fused import INPUTS
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality

_LAYOUTS: Mapping[Modality, tuple[Layout, ...]] = {
    "image": ("NCHW", "NHWC"),
    "audio": ("N1FK", "N1KF", "NFK", "NKF"),
}
_KINDS: Mapping[Modality, tuple[int, ...]] = {
    "image": (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8),
    "text": (TensorProto.INT64, TensorProto.INT32),
    "audio": (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE),
}
_EMBEDDINGS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
#: Range of values that an encoder gets without scaling.
_RAW: Mapping[Modality, str] = {"image": "0 to 255", "audio": "log-mel"}
#: Common names of text encoders' inputs; token types are all of the first type.
_TEXT = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "zeros",
    "position_ids": "positions",
}


def read_piece(
    modality: Modality, given: EncoderFile, spec: PreprocessSpec, rows: Feeds, say: Say
) -> tuple[Piece, Original]:
    """The encoder, ready to be fused, and in its original form.

    Args:
        modality: what it takes.
        given: its description.
        spec: what the model takes.
        rows: of that modality, to try it on, as `mmray.batching.pack` makes them.
        say: gets notes for the user.

    Raises:
        ModelError: names the file and what does not fit.
    """
    model = load_graph(given.graph)
    weights = {i.name for i in model.graph.initializer}
    inputs = {i.name: i for i in model.graph.input if i.name not in weights}
    for name, value in inputs.items():
        _check_input(given.graph, modality, name, value)
    fixed = _fixed_rows(inputs)
    changed = free_dims(model, rows=True)
    output = _choose_output(given, model)
    adapter = _describe_adapter(modality, given, inputs, spec)
    original = Original(model if changed else given.graph, given, output, adapter, modality, spec)
    hidden = try_two_rows(given, original, modality, spec, output, fixed)
    *names, _ = INPUTS[modality]
    check_rows(
        given.graph,
        model,
        original,
        {name: rows[name] for name in names},
        spec.text.max_tokens if spec.text else 0,
    )
    if fixed:
        say(f"{modality}: was exported for a batch of {fixed}; checked: rows do not depend on the batch")
    if modality != "text" and not adapter.normalizes and TensorProto.UINT8 not in adapter.kinds.values():
        say(f"{modality}: is not normalized, {_RAW[modality]}, because no scale, mean and std are given")
    width = width_of(hidden, given.pool)
    try:
        needs_rows = original(blank(modality, spec, 0)).shape != (0, width)
    except Exception:  # as above; the fused graph adds a blank row
        needs_rows = True
    model = to_opset(model, str(given.graph))
    if hidden.ndim != 2:
        mask = next((name for name, source in adapter.sources.items() if source == "attention_mask"), None)
        output = add_pooling(model, output, hidden.ndim, width, given.pool, mask)
    return Piece(model, output, width, adapter, needs_rows), original


def _check_input(graph: Path, modality: Modality, name: str, value: onnx.ValueInfoProto) -> None:
    kind, dims = value.type.tensor_type.elem_type, dims_of(value)
    where = f"{graph}: input {name!r} is {declared(value)}"
    if kind == TensorProto.STRING:
        raise ModelError(
            f"{where}: its tokenizer is in the graph; export the model without it, to take token ids, and "
            "give tokenizer.json as `tokenizer`"
        )
    if kind not in _KINDS[modality]:
        known = " or ".join(TensorProto.DataType.Name(k).lower() for k in _KINDS[modality])
        raise ModelError(f"{where}; an adapter for {modality} gives {known}")
    if not dims:
        raise ModelError(f"{where}; its first dimension must be the batch; export it with a dynamic batch")


def _fixed_rows(inputs: Mapping[str, onnx.ValueInfoProto]) -> int | None:
    """The batch size that the inputs were exported for, if it is fixed."""
    return next((dims[0] for value in inputs.values() if (dims := dims_of(value))[0] is not None), None)


def _choose_output(given: EncoderFile, model: onnx.ModelProto) -> str:
    outputs = {o.name: o for o in model.graph.output}
    fitting = [n for n, o in outputs.items() if o.type.tensor_type.elem_type in _EMBEDDINGS]
    output = given.output or (fitting[0] if len(fitting) == 1 else "")
    names = ", ".join(outputs)
    if output not in outputs:
        raise ModelError(f"{given.graph}: name one of its outputs as `output`: {names}; not {output!r}")
    if output not in fitting:
        raise ModelError(
            f"{given.graph}: output {output!r} is {declared(outputs[output])}; an embedding is of floats: "
            f"name another output: {names}"
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
        _check_positions(given, sources)
        return Adapter(
            kinds, sources, pad_to=pad_to, pad_id=given.pad_id, positions_from=given.positions_from or 0
        )
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
        raise ModelError(
            f"{given.graph}: takes uint8, so it normalizes by itself; remove scale, mean and std"
        )
    return adapter


def _text_sources(given: EncoderFile, inputs: Mapping[str, onnx.ValueInfoProto]) -> dict[str, str]:
    """Our input for each of the encoder's inputs."""
    theirs = {given.inputs.get(ours, ours): source for ours, source in _TEXT.items()}
    if len(inputs) == 1 and not given.inputs:
        theirs = dict.fromkeys(inputs, "input_ids")
    found = {name: theirs[name] for name in inputs if name in theirs}
    absent = [*(set(given.inputs.values()) - inputs.keys())]
    unknown = [*(given.inputs.keys() - _TEXT), *(inputs.keys() - theirs)]
    if absent or unknown or "input_ids" not in found.values():
        fault = f"{absent[0]!r} is not there" if absent else f"{(unknown or ['none'])[0]!r} is not known"
        raise ModelError(
            f"{given.graph}: has the inputs {', '.join(inputs)}; {fault}: give this graph's names "
            f"of {', '.join(_TEXT)} under `inputs`"
        )
    return found


def _check_positions(given: EncoderFile, sources: Mapping[str, str]) -> None:
    """The first position differs between models and cannot be found from shapes."""
    takes = "positions" in sources.values()
    if takes and given.positions_from is None:
        raise ModelError(
            f"{given.graph}: takes position_ids: set the first one, `positions_from: 0` (BERT, CLIP) or 2 "
            "(RoBERTa), or export it without this input"
        )
    if given.pool == "mean" and "attention_mask" not in sources.values():
        raise ModelError(
            f"{given.graph}: has no attention_mask, so a mean would count padding; export it with its mask"
        )


def _text_length(given: EncoderFile, dims: Dims, spec: PreprocessSpec) -> int | None:
    """The fixed number of tokens of the encoder; None: any number."""
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
            f"{given.graph}: its input [{shape}] {verdict} of {', '.join(known)} with {sides}: set its "
            "`layout`, or correct the sizes in `preprocessing`"
        )
    return fitting[0]
