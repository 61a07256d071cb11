"""TENSORS rows → the arrays that a graph takes, with modalities *packed*.

Each modality has its own batch dimension and an index that says which record each of its rows belongs to, so
a record without a modality costs nothing and a clip may have any number of patches, unpadded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec
from mmray.schema import TENSOR_OF, Modality

Feeds = dict[str, npt.NDArray[np.generic]]
Shape = tuple[int, ...]

#: For a device text is padded to the next of these, so that it sees few shapes, but never beyond
#: `max_tokens`: an encoder may have no more positions (CLIP: 77). A CPU takes any shape.
TOKEN_LADDER = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)


#: What a batch costs beside its records, as so many text tokens: of a CPU as measured (docs/log.md), of a
#: device assumed.
BATCH_TOKENS, DEVICE_BATCH_TOKENS = 16, 2048


def batches(
    tensors: pa.Table, batch_rows: int, batch_tokens: int = BATCH_TOKENS
) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of the rows without an error, in batches of at most `batch_rows`, each row once.

    Rows of similar text length come together, and a batch ends where its padding would cost more than a
    batch. Rows without text pad nothing.

    Args:
        tensors: rows of TENSORS.
        batch_rows: most rows of a batch.
        batch_tokens: what a batch costs beside its rows, in tokens.
    """
    rows = np.flatnonzero(pc.is_null(tensors["error"]).to_numpy(zero_copy_only=False))
    lengths = pc.fill_null(pc.list_value_length(tensors["input_ids"]), 0).to_numpy()[rows]
    order = np.argsort(lengths, kind="stable")
    starts = []
    texts = tokens = 0  # of the batch that is being made
    for i, length in enumerate(lengths[order].tolist()):
        if texts * length - tokens > batch_tokens:
            starts.append(i)
            texts = tokens = 0
        texts += length > 0
        tokens += length
    for alike in np.split(rows[order], starts):
        if len(alike):
            yield from np.array_split(alike, -(-len(alike) // batch_rows))


def pack(
    tensors: pa.Table,
    spec: PreprocessSpec,
    *,
    for_device: bool = False,
    take: Collection[Modality] | None = None,
    seen: Collection[Modality] | None = None,
) -> Feeds:
    """Arrays of one batch.

    Args:
        tensors: B rows of TENSORS, without errors.
        spec: what the graph takes.
        for_device: for engines that want few shapes and refuse an empty batch dimension: pad texts to a step
            of TOKEN_LADDER, and give a modality that no record has one blank row, which its `present` flag
            makes count for nothing.
        take: modalities whose arrays are made; None: all of the spec's.
        seen: modalities that count as present where they are there; None: all of the spec's.

    Returns:
        For M modalities: ``present`` bool [B, M]; where the spec has them ``pixels`` uint8 [Ni, H, W, 3] and
        ``pixels_row`` int64 [Ni]; ``input_ids`` and ``attention_mask`` int32 [Nt, T] and ``text_row`` int64
        [Nt]; ``log_mel`` float16 [Np, F, K] and ``log_mel_row`` int64 [Np], several patches a record.
    """
    feeds: Feeds = {}
    flags = np.zeros((tensors.num_rows, len(spec.modalities)), np.bool_)
    for column, modality in enumerate(spec.modalities):
        rows, values = _present(tensors[TENSOR_OF[modality]])
        flags[rows, column] = seen is None or modality in seen
        if take is None or modality in take:
            feeds |= _pack(modality, rows, values, spec, for_device)
    return {"present": flags, **feeds}


def _pack(
    modality: Modality, rows: npt.NDArray[np.int64], values: pa.ChunkedArray, spec: PreprocessSpec, fill: bool
) -> Feeds:
    if modality == "image" and spec.image:
        return _pack_image(rows, values, spec.image, fill)
    if modality == "text" and spec.text:
        return _pack_text(rows, values, spec.text, fill)
    assert spec.audio is not None
    return _pack_audio(rows, values, spec.audio, fill)


def shape_profiles(spec: PreprocessSpec, batch_rows: int) -> list[dict[str, tuple[Shape, Shape]]]:
    """Least and largest shape of every input, one profile for each step of the token ladder.

    For engines that are compiled for ranges of shapes; they are given at least one row of each modality.
    """

    def between(least: int, largest: int, *rest: int) -> tuple[Shape, Shape]:
        return (least, *rest), (largest, *rest)

    shapes = {"present": between(1, batch_rows, len(spec.modalities))}
    if image := spec.image:
        shapes["pixels"] = between(1, batch_rows, image.height, image.width, 3)
        shapes["pixels_row"] = between(1, batch_rows)
    if audio := spec.audio:
        patches = batch_rows * audio.max_patches
        shapes["log_mel"] = between(1, patches, audio.patch_frames, audio.mel_bins)
        shapes["log_mel_row"] = between(1, patches)
    if spec.text is None:
        return [shapes]
    shapes["text_row"] = between(1, batch_rows)
    return [
        shapes | {name: between(1, batch_rows, step) for name in ("input_ids", "attention_mask")}
        for step in _token_steps(spec.text)
    ]


def _token_steps(spec: TextSpec) -> list[int]:
    """Widths that texts are padded to."""
    return [step for step in TOKEN_LADDER if step < spec.max_tokens] + [spec.max_tokens]


def _present(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.ChunkedArray]:
    """Indices and values of the rows that are not null."""
    rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    return rows, column.drop_null()


def _pack_image(rows: npt.NDArray[np.int64], values: pa.ChunkedArray, spec: ImageSpec, fill: bool) -> Feeds:
    shape = (spec.height, spec.width, 3)
    if fill and not len(rows):
        return {"pixels": np.zeros((1, *shape), np.uint8), "pixels_row": np.zeros(1, np.int64)}
    pixels = np.empty((len(rows), *shape), np.uint8)
    for i, value in enumerate(values):
        pixels[i] = np.frombuffer(value.as_buffer(), np.uint8).reshape(shape)
    return {"pixels": pixels, "pixels_row": rows}


def _pack_text(rows: npt.NDArray[np.int64], values: pa.ChunkedArray, spec: TextSpec, device: bool) -> Feeds:
    steps = _token_steps(spec) if device else []
    if device and not len(rows):
        one = np.ones((1, steps[0]), np.int32)
        return {"input_ids": np.zeros_like(one), "attention_mask": one, "text_row": np.zeros(1, np.int64)}
    lengths = pc.list_value_length(values).to_numpy()
    longest = int(lengths.max(initial=1))
    width = next((step for step in steps if step >= longest), longest)
    mask = np.arange(width) < lengths[:, None]
    ids = np.zeros((len(rows), width), np.int32)
    ids[mask] = pc.list_flatten(values).to_numpy()
    return {"input_ids": ids, "attention_mask": mask.astype(np.int32), "text_row": rows}


def _pack_audio(rows: npt.NDArray[np.int64], values: pa.ChunkedArray, spec: AudioSpec, fill: bool) -> Feeds:
    shape = (spec.patch_frames, spec.mel_bins)
    if fill and not len(rows):
        return {"log_mel": np.zeros((1, *shape), np.float16), "log_mel_row": np.zeros(1, np.int64)}
    patches = [_patches(np.frombuffer(v.as_buffer(), np.float16), spec) for v in values]
    counts = [len(p) for p in patches]
    log_mel = np.concatenate(patches) if patches else np.zeros((0, *shape), np.float16)
    return {"log_mel": log_mel, "log_mel_row": np.repeat(rows, counts)}


def _patches(frames: npt.NDArray[np.float16], spec: AudioSpec) -> npt.NDArray[np.float16]:
    """float16 [patches, patch_frames, mel_bins], one each `patch_hop` frames."""
    windows = np.lib.stride_tricks.sliding_window_view(
        frames.reshape(-1, spec.mel_bins), spec.patch_frames, axis=0
    )
    return windows[:: spec.patch_hop].transpose(0, 2, 1)
