"""Batches of Python programs ↔ Arrow tables: lists of dicts, dicts of arrays, pandas frames."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from PIL import Image

from mmray.errors import InputError
from mmray.schema import MODALITIES, RECORDS, Modality, table

#: Columns that are read. All others are passed through.
READ = (*MODALITIES, "meta", "error")


def take_apart(batch: Any) -> tuple[pa.Table, dict[str, Any], Callable[[pa.Table], Any]]:  # noqa: ANN401
    """Records of a batch, and its other columns.

    Args:
        batch: a pyarrow.Table, a pandas.DataFrame, a list of dicts, or a dict of arrays.

    Returns:
        RECORDS; the other columns by name; and a function from a table to a batch of the same form.

    Raises:
        InputError: it has another form, no column with a modality, or an invalid value.
    """
    columns, back = _columns(batch)
    taken: dict[str, Any] = {m: _encoded(m, columns[m]) for m in MODALITIES if m in columns}
    if not taken:
        raise InputError(
            f"a batch needs a column image, text or audio; this one has {', '.join(columns) or 'none'}"
        )
    rows = len(next(iter(taken.values())))
    others = {name: values for name, values in columns.items() if name not in READ}
    found = {**taken, "row": list(range(rows))}
    for name in columns.keys() & {"meta", "error"}:
        found[name] = _arrow(columns[name], RECORDS.field(name).type)
    return table(found, RECORDS), others, back


def _columns(batch: Any) -> tuple[dict[str, Any], Callable[[pa.Table], Any]]:  # noqa: ANN401
    if isinstance(batch, pa.Table):
        return {name: batch[name] for name in batch.column_names}, lambda found: found
    if isinstance(batch, Mapping):
        return dict(batch), lambda found: {
            name: found[name].to_numpy(zero_copy_only=False) for name in found.column_names
        }
    if isinstance(batch, Sequence) and all(isinstance(row, Mapping) for row in batch):
        names = dict.fromkeys(name for row in batch for name in row) if batch else {"text": None}
        return {name: [row.get(name) for row in batch] for name in names}, pa.Table.to_pylist
    if hasattr(batch, "columns") and hasattr(batch, "to_dict"):  # a frame; pandas need not be installed
        return {str(name): batch[name].tolist() for name in batch.columns}, pa.Table.to_pandas
    raise InputError(
        "a batch is a pyarrow.Table, a pandas.DataFrame, a list of dicts or a dict of arrays, "
        f"not {type(batch).__name__}"
    )


def _encoded(modality: Modality, values: Any) -> pa.Array | pa.ChunkedArray:  # noqa: ANN401
    """Bytes of each record, as in a file of that modality."""
    if isinstance(values, pa.Array | pa.ChunkedArray) and not pa.types.is_nested(values.type):
        return values.cast(pa.binary())
    listed = values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else values
    return pa.array([_bytes(modality, value) for value in listed], pa.binary())


def _bytes(modality: Modality, value: Any) -> bytes | None:  # noqa: ANN401
    """Bytes of one record.

    Raises:
        InputError: the value has no type of that modality.
    """
    match value:
        case None:
            return None
        case float() if np.isnan(value):  # pandas' missing value
            return None
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case str() if modality == "text":
            return value.encode()
        case PathLike():
            return Path(value).read_bytes()
        case {"bytes": bytes() as inner}:  # of Hugging Face's datasets
            return inner
        case Image.Image() if modality == "image":
            return _png(value)
        case np.ndarray() if modality == "image" and value.dtype == np.uint8:
            return _png(Image.fromarray(value))
        case (np.ndarray() as samples, int() | np.integer() as rate) if modality == "audio":
            file = io.BytesIO()
            soundfile.write(file, samples, int(rate), format="WAV", subtype="FLOAT")
            return file.getvalue()
    forms = {
        "image": "bytes of a file, a Path, a PIL image, uint8 [H, W, 3]",
        "text": "str, UTF-8 bytes, a Path",
        "audio": "bytes of a file, a Path, (samples [N] or [N, channels], rate in Hz)",
    }
    raise InputError(
        f"{modality}: cannot take a {type(value).__name__}; give one of: {forms[modality]}, None"
    )


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _arrow(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:  # noqa: ANN401
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(list(values), kind, from_pandas=True)
