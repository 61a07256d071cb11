"""TENSORS rows → the input arrays of a graph, with modalities *packed*.

Each modality has its own batch dimension and an index with the record of each of its rows. So a record
without a modality costs a CPU nothing, and a clip may have any number of patches. For a device, which needs
few shapes, the same arrays are padded: `blank` makes them and `fill` fills them (`mmray.shapes`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec
from mmray.schema import MODALITIES, TENSOR_OF, Modality
from mmray.shapes import Shape, Shaper, job_ladder

Feeds = dict[str, npt.NDArray[np.generic]]

#: Arrays of each modality: what its encoder takes, then the index of its rows' records.
INPUTS: Mapping[Modality, tuple[str, ...]] = {
    "image": ("pixels", "pixels_row"),
    "text": ("input_ids", "attention_mask", "text_row"),
    "audio": ("log_mel", "log_mel_row"),
}
#: Overhead of a batch on a CPU, in text tokens (docs/log.md).
BATCH_TOKENS = 16


def batches(tensors: pa.Table, batch_rows: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of the rows without an error, in batches for a CPU of at most `batch_rows`, each row once.

    Rows of similar text length are batched together, and a batch ends where its padding would cost more than
    another batch. Rows without text need no padding.

    Args:
        tensors: rows of TENSORS.
        batch_rows: maximum rows of a batch.
    """
    rows = np.flatnonzero(pc.is_null(tensors["error"]).to_numpy(zero_copy_only=False))
    lengths = pc.fill_null(pc.list_value_length(tensors["input_ids"]), 0).to_numpy()[rows]
    order = np.argsort(lengths, kind="stable")
    starts = []
    texts = tokens = 0  # of the current batch
    for i, length in enumerate(lengths[order].tolist()):
        if texts * length - tokens > BATCH_TOKENS:
            starts.append(i)
            texts = tokens = 0
        texts += length > 0
        tokens += length
    for similar in np.split(rows[order], starts):
        if len(similar):
            yield from np.array_split(similar, -(-len(similar) // batch_rows))


def pack(
    tensors: pa.Table,
    spec: PreprocessSpec,
    *,
    take: Collection[Modality] | None = None,
    seen: Collection[Modality] | None = None,
) -> Feeds:
    """Arrays of one batch, without padding except of texts to the longest one.

    Args:
        tensors: B rows of TENSORS, without errors.
        spec: what the graph takes.
        take: modalities whose arrays are made; None: all of the spec's.
        seen: modalities that may count as present; None: all of the spec's.

    Returns:
        For M modalities: ``present`` bool [B, M]; if the spec has them ``pixels`` uint8 [Ni, H, W, 3] and
        ``pixels_row`` int64 [Ni]; ``input_ids`` and ``attention_mask`` int32 [Nt, T] and ``text_row`` int64
        [Nt]; ``log_mel`` float16 [Np, F, K] and ``log_mel_row`` int64 [Np], several patches a record.
    """
    there = {m: _present(tensors[TENSOR_OF[m]]) for m in spec.modalities}
    feeds: Feeds = {"present": _flags(there, tensors.num_rows, seen)}
    for modality, (rows, values) in there.items():
        if take is None or modality in take:
            feeds |= _pack(modality, rows, values, spec)
    return feeds


def full_batch(feeds: Feeds, rows: int, only: Modality | None = None) -> Feeds:
    """A batch as full as a job's, for timing: the records with the most modalities, repeated.

    Args:
        feeds: a batch as `pack` makes it, of at least one record.
        rows: records of the new batch.
        only: the only modality that its records have; None: all that they have.

    Returns:
        Arrays as `pack` makes them.
    """
    taken = [m for m in MODALITIES if INPUTS[m][0] in feeds]
    present = feeds["present"] & np.array([only in (None, m) for m in taken])
    has = present.sum(axis=1)
    chosen = np.resize(np.flatnonzero(has == has.max()), rows)
    full: Feeds = {"present": present[chosen]}
    none = np.zeros(0, np.intp)
    for column, modality in enumerate(taken):
        *names, owner = INPUTS[modality]
        places = [np.flatnonzero(feeds[owner] == row) if present[row, column] else none for row in chosen]
        full |= {name: feeds[name][np.concatenate(places)] for name in names}
        full[owner] = np.repeat(np.arange(rows), [len(of_one) for of_one in places])
    if "attention_mask" in full:
        width = max(1, int(full["attention_mask"].sum(axis=1).max(initial=0)))
        full |= {name: full[name][:, :width] for name in ("input_ids", "attention_mask")}
    return full


def blank(
    spec: PreprocessSpec,
    shape: Shape,
    takes: Collection[Modality] | None = None,
    carried: Mapping[str, int] | None = None,
) -> Feeds:
    """Arrays of a padded batch with only padding, to be filled by `fill`.

    Args:
        spec: what the graph takes.
        shape: of the batch.
        takes: modalities that have arrays; None: all of the spec's.
        carried: width by name of values that an earlier stage passes on, float32.

    Returns:
        As `pack`, with B = `shape.rows` + 1: the last record is the dummy.
    """
    records = shape.rows + 1
    feeds: Feeds = {"present": np.zeros((records, len(spec.modalities)), np.bool_)}
    taken = [m for m in spec.modalities if takes is None or m in takes]
    if "image" in taken and (image := spec.image):
        feeds["pixels"] = np.zeros((shape.images, image.height, image.width, 3), np.uint8)
        feeds["pixels_row"] = np.full(shape.images, shape.rows, np.int64)
    if "text" in taken:
        feeds["input_ids"] = np.zeros((shape.texts, shape.tokens), np.int32)
        feeds["attention_mask"] = np.zeros((shape.texts, shape.tokens), np.int32)
        feeds["attention_mask"][:, 0] = 1  # a mask of only zeros would divide by zero
        feeds["text_row"] = np.full(shape.texts, shape.rows, np.int64)
    if "audio" in taken and (audio := spec.audio):
        feeds["log_mel"] = np.zeros((shape.patches, audio.patch_frames, audio.mel_bins), np.float16)
        feeds["log_mel_row"] = np.full(shape.patches, shape.rows, np.int64)
    for name, width in (carried or {}).items():
        feeds[name] = np.zeros((records, width), np.float32)
    return feeds


def fill(
    feeds: Feeds,
    tensors: pa.Table,
    rows: npt.NDArray[np.int64],
    spec: PreprocessSpec,
    seen: Collection[Modality] | None = None,
) -> Shape:
    """Copy rows of a table into the arrays of a padded batch, in place, replacing their content.

    Padding belongs to the dummy record, so it may keep old values.

    Args:
        feeds: as `blank` made them.
        tensors: TENSORS.
        rows: indices of n rows of it, without errors; at most as many as fit into the shape.
        spec: what the graph takes.
        seen: modalities that may count as present; None: all of the spec's.

    Returns:
        The used part of the shape; `tokens` are those of all texts together.
    """
    dummy = len(feeds["present"]) - 1
    names = [TENSOR_OF[m] for m in spec.modalities]
    columns = {m: tensors[name] for m, name in zip(spec.modalities, names, strict=True)}
    there = {
        m: np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False)[rows])
        for m, column in columns.items()
    }
    feeds["present"][:] = False
    feeds["present"][: len(rows)] = _flags({m: (at, None) for m, at in there.items()}, len(rows), seen)
    images = texts = tokens = patches = 0
    if "pixels" in feeds:
        pixels, images = feeds["pixels"], len(there["image"])
        for i, row in enumerate(rows[there["image"]]):
            pixels[i] = np.frombuffer(columns["image"][row].as_buffer(), np.uint8).reshape(pixels.shape[1:])
        feeds["pixels_row"][:] = _with_dummies(there["image"], len(pixels), dummy)
    if "input_ids" in feeds:
        texts = len(there["text"])
        values = columns["text"].take(rows[there["text"]])
        tokens = _fill_texts(values, feeds["input_ids"], feeds["attention_mask"])
        feeds["text_row"][:] = _with_dummies(there["text"], len(feeds["text_row"]), dummy)
    if "log_mel" in feeds and (audio := spec.audio):
        counts = []
        for row in rows[there["audio"]]:
            clip = _patches(np.frombuffer(columns["audio"][row].as_buffer(), np.float16), audio)
            feeds["log_mel"][patches : patches + len(clip)] = clip
            counts.append(len(clip))
            patches += len(clip)
        owners = np.repeat(there["audio"], counts)
        feeds["log_mel_row"][:] = _with_dummies(owners, len(feeds["log_mel_row"]), dummy)
    return Shape(len(rows), images, texts, tokens, patches)


def padded(tensors: pa.Table, spec: PreprocessSpec, shape: Shape | None = None) -> Feeds:
    """All rows of a table as one padded batch, in new arrays.

    Args:
        tensors: rows of TENSORS without errors, at least one.
        spec: what the graph takes.
        shape: of the batch; None: the smallest of a ladder with batches of so many rows.
    """
    rows = np.arange(tensors.num_rows)
    if shape is None:
        [batch] = Shaper(job_ladder(spec, len(rows)), spec.modalities)(tensors, rows)
        shape = batch.shape
        assert shape is not None
    feeds = blank(spec, shape)
    fill(feeds, tensors, rows, spec)
    return feeds


def _pack(
    modality: Modality, rows: npt.NDArray[np.int64], values: pa.ChunkedArray, spec: PreprocessSpec
) -> Feeds:
    if modality == "image" and spec.image:
        return _pack_image(rows, values, spec.image)
    if modality == "text":
        return _pack_text(rows, values)
    assert spec.audio is not None
    return _pack_audio(rows, values, spec.audio)


def _present(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.ChunkedArray]:
    """Indices and values of the rows that are not null."""
    rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    return rows, column.drop_null()


def _flags(
    there: Mapping[Modality, tuple[npt.NDArray[np.int64], object]],
    records: int,
    seen: Collection[Modality] | None,
) -> npt.NDArray[np.bool_]:
    flags = np.zeros((records, len(there)), np.bool_)
    for column, (modality, (rows, _)) in enumerate(there.items()):
        flags[rows, column] = seen is None or modality in seen
    return flags


def _with_dummies(rows: npt.NDArray[np.int64], places: int, dummy: int) -> npt.NDArray[np.int64]:
    """Records of a modality's places: the given ones, then the dummy."""
    return np.concatenate([rows, np.full(places - len(rows), dummy, np.int64)])


def _pack_image(rows: npt.NDArray[np.int64], values: pa.ChunkedArray, spec: ImageSpec) -> Feeds:
    shape = (spec.height, spec.width, 3)
    pixels = np.empty((len(rows), *shape), np.uint8)
    for i, value in enumerate(values):
        pixels[i] = np.frombuffer(value.as_buffer(), np.uint8).reshape(shape)
    return {"pixels": pixels, "pixels_row": rows}


def _pack_text(rows: npt.NDArray[np.int64], values: pa.ChunkedArray) -> Feeds:
    longest = pc.max(pc.list_value_length(values)).as_py() or 1
    ids = np.zeros((len(rows), longest), np.int32)
    mask = np.zeros_like(ids)
    _fill_texts(values, ids, mask)
    return {"input_ids": ids, "attention_mask": mask, "text_row": rows}


def _fill_texts(values: pa.ChunkedArray, ids: npt.NDArray[np.generic], mask: npt.NDArray[np.generic]) -> int:
    """Copy texts into the first rows of both arrays [Nt, T]; the others become blank. Returns tokens."""
    lengths = pc.list_value_length(values).to_numpy().astype(np.int64)
    is_token = np.zeros(ids.shape, np.bool_)
    is_token[: len(lengths)] = np.arange(ids.shape[1]) < lengths[:, None]
    ids[:] = 0
    ids[is_token] = pc.list_flatten(values).to_numpy()
    mask[:] = is_token
    mask[len(lengths) :, 0] = 1
    return int(lengths.sum())


def _pack_audio(rows: npt.NDArray[np.int64], values: pa.ChunkedArray, spec: AudioSpec) -> Feeds:
    shape = (spec.patch_frames, spec.mel_bins)
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
