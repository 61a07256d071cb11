"""One value of a Parquet file → the bytes of a modality."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from mmray.errors import RecordError, about_record, of_machine
from mmray.schema import META_BYTES
from mmray.sources.beside import as_text, several_captions
from mmray.sources.kinds import SAMPLES, is_list, kind_of
from mmray.sources.options import Captions
from mmray.sources.unlisted import HEAD_BYTES, modality_of
from mmray.unread import SEVERAL, Unread

_MEDIA = ("image", "audio")  # columns of bytes, not of text

Content: TypeAlias = "bytes | pa.Buffer"
_List: TypeAlias = Any  # pyarrow's types lack ListScalar.values


def content_of(
    name: str, value: pa.Scalar, kind: str, column: str, captions: Captions, max_bytes: int
) -> tuple[Content | None, Unread | None]:
    """The content of a value for a column of RECORDS, None for a null; and what is not read of it.

    Args:
        name: of its column in the file.
        value: a scalar.
        kind: of its type.
        column: of RECORDS.
        captions: which of several to use.
        max_bytes: of the content.

    Raises:
        RecordError: it is a path, too large, or not as its type says.
    """
    scalar = resolved(value)
    if not scalar.is_valid:
        return None, None
    if kind == "bytes" or (kind == "string" and column not in _MEDIA):  # most values
        return scalar.as_buffer(), None
    if kind == "embedded":
        inner = resolved(scalar["bytes"])
        if inner.is_valid:
            return inner.as_buffer(), None
        path = scalar.get("path")
        if path is not None and path.is_valid:
            raise _is_path(name)
        return None, None
    if kind == "string":
        return _from_base64(name, scalar.as_buffer(), column, max_bytes), None
    if kind == "list":
        return _one_of(name, scalar, column, captions, max_bytes)
    if kind == "octets":
        return _octets(name, scalar), None
    if column == "meta" and kind in ("nested", "samples"):
        return nested_json(name, scalar), None
    return _wav(name, scalar, max_bytes), None


def resolved(scalar: pa.Scalar) -> pa.Scalar:
    """The value of a dictionary or of an extension type.

    Raises:
        RecordError: a damaged dictionary has no such value.
    """
    if not scalar.is_valid or not isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar):
        return scalar
    try:
        value = scalar.value
    except Exception as e:
        if of_machine(e):
            raise
        raise RecordError(f"{e} ({type(e).__name__})", "record-damaged") from e
    return resolved(value)


def is_there(value: pa.Scalar) -> bool:
    """Whether a value is not null, an empty list, or a struct of nulls."""
    scalar = resolved(value)
    if not scalar.is_valid:
        return False
    if is_list(scalar.type):
        return len(scalar.values) > 0
    return not pat.is_struct(scalar.type) or any(part.is_valid for part in scalar.values())


def head_of(value: pa.Scalar) -> bytes:
    """The first bytes of a value that may be an image or a sound; empty for others."""
    scalar = resolved(value)
    if scalar.is_valid and is_list(scalar.type) and len(scalar.values):
        if kind_of(scalar.type) == "octets":
            return bytes(byte & 0xFF for byte in scalar.values[:HEAD_BYTES].to_pylist() if byte is not None)
        return head_of(scalar.values[0])
    kind = kind_of(scalar.type)
    if scalar.is_valid and kind == "embedded":
        scalar, kind = resolved(scalar["bytes"]), "bytes"
    return bytes(scalar.as_buffer()[:HEAD_BYTES]) if scalar.is_valid and kind == "bytes" else b""


def carried(value: pa.Scalar, max_bytes: int) -> str | None:
    """A value as text.

    Raises:
        RecordError: it is too large, or cannot be text.
    """
    scalar = resolved(value)
    if scalar.is_valid and (size := _size(scalar)) > max_bytes:
        raise RecordError(f"{size} bytes, more than {max_bytes}", "member-too-large")
    with about_record("cannot be carried", "record-damaged"):
        if pat.is_temporal(scalar.type):
            scalar = scalar.cast(pa.string())  # Python's times are coarser, and end with the year 9999
        if kind_of(scalar.type) in ("string", "bytes") and scalar.is_valid:
            return as_text(bytes(scalar.as_buffer()))
        return as_text(
            scalar.as_py(maps_as_pydicts="lossy") if pat.is_nested(scalar.type) else scalar.as_py()
        )


def nested_json(name: str, scalar: pa.Scalar) -> bytes:
    """A struct, map or list as JSON.

    Raises:
        RecordError: it is too large, or cannot be JSON.
    """
    if (size := _size(scalar)) > META_BYTES:
        raise RecordError(f"{name!r}: {size} bytes, more than {META_BYTES} of metadata", "member-too-large")
    with about_record(f"{name!r} cannot be JSON", "record-damaged"):
        value = scalar.as_py(maps_as_pydicts="lossy")
        return json.dumps(value, ensure_ascii=False, default=as_text).encode("utf-8", "backslashreplace")


def _one_of(
    name: str, scalar: _List, column: str, captions: Captions, max_bytes: int
) -> tuple[Content | None, Unread | None]:
    """The one value of a list; of captions the first, or all of them."""
    _check_size(name, _size(scalar), max_bytes)
    there = [one for one in scalar.values if is_there(one)]
    if column == "text":
        kind = kind_of(scalar.type.value_type)
        texts = (content_of(name, one, kind, column, captions, max_bytes)[0] for one in there)
        return several_captions(name, [bytes(text or b"") for text in texts], captions)
    if len(there) > 1:
        return None, Unread(f"column {name[:40]}{SEVERAL}", name, column)
    if not there:
        return None, None
    return content_of(name, there[0], kind_of(there[0].type), column, captions, max_bytes)


def _octets(name: str, scalar: _List) -> bytes:
    values = scalar.values
    if values.null_count:
        raise RecordError(f"{name!r} is a list of bytes with nulls in it", "record-damaged")
    return bytes(values.to_numpy(zero_copy_only=False).astype(np.uint8, copy=False).tobytes())


def _wav(name: str, scalar: pa.Scalar, max_bytes: int) -> bytes | None:
    """Samples as a WAV of one channel, of 32-bit floats or 16-bit integers."""
    array, rate = scalar["array"], scalar["sampling_rate"]
    if not array.is_valid:
        return None
    samples = array.values
    form, width = SAMPLES[array.type.value_type]
    _check_size(name, len(samples) * np.dtype(width).itemsize, max_bytes)
    if samples.null_count or not rate.is_valid or not 0 < rate.as_py() < 1 << 31:
        reason = f"{name!r} has nulls in its samples, or a sampling_rate of {rate.as_py()}"
        raise RecordError(reason, "record-damaged")
    with np.errstate(over="ignore"):  # infinite values are reported by the decoder
        data = samples.to_numpy(zero_copy_only=False).astype(width).tobytes()
    step = np.dtype(width).itemsize
    hz = int(rate.as_py())
    head = struct.pack("<4sI8s", b"RIFF", 36 + len(data), b"WAVEfmt ")
    head += struct.pack("<IHHIIHH4sI", 16, form, 1, hz, step * hz, step, 8 * step, b"data", len(data))
    return bytes(head + data)


def _from_base64(name: str, data: pa.Buffer, column: str, max_bytes: int) -> bytes:
    """The bytes encoded in a string; paths, URLs and all other strings are refused."""
    before, comma, text = bytes(data[: 2 * max_bytes]).partition(b";base64,")  # of a data URL
    text = b"".join((text if comma and before.startswith(b"data:") else before).split())
    try:
        head = base64.b64decode(text[: HEAD_BYTES // 3 * 4], validate=True)
        if modality_of("", head) != column:
            raise _is_path(name)
        _check_size(name, len(text) // 4 * 3 - 2, max_bytes)
        return base64.b64decode(text, validate=True)
    except ValueError as e:
        raise _is_path(name) from e


def _check_size(name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        reason = f"{name!r}: {size} bytes, more than limits.member_bytes={max_bytes}"
        raise RecordError(reason, "member-too-large")


def _is_path(name: str) -> RecordError:
    reason = f"{name!r} is a path or URL, which is not followed; write the bytes into the column"
    return RecordError(reason, "parquet-path")


def _size(scalar: Any) -> int:  # noqa: ANN401
    """Approximate bytes of a value."""
    scalar = resolved(scalar)
    if not scalar.is_valid:
        return 0
    if is_list(scalar.type) or pat.is_map(scalar.type):
        return int(scalar.values.nbytes)
    if pat.is_struct(scalar.type):
        return sum(map(_size, scalar.values()))
    return len(scalar.as_buffer()) if kind_of(scalar.type) in ("bytes", "string") else 8
