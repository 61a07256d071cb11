"""The Arrow schemas between components: RECORDS (raw bytes) → TENSORS (compact arrays) → OUTCOMES, which are
written as PREDICTIONS and REJECTS.

A record that failed stays in the stream as a row whose `error` is set and whose payload is null, so one
stream carries both kinds and the audit is arithmetic. (shard, row) identifies a record permanently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import pyarrow as pa

from mmray.errors import RecordError, about_record

Modality = Literal["image", "text", "audio"]
MODALITIES: tuple[Modality, ...] = ("image", "text", "audio")

Subset = tuple[bool, ...]  # of the modalities: one flag for each

#: Where a record failed. "shard" is not of a single record: damage hides an unknown number of them.
Stage = Literal["shard", "read", "align", "preprocess", "infer"]

#: Type of the error of the one row of a shard without records; it is not a record.
EMPTY = "shard-empty"

META_BYTES = 1 << 20  # of a JSON member that is parsed: a byte of JSON may become thirty of objects

#: Why a record was rejected. `type` is stable, for grouping; `reason` is for people.
ERROR = pa.struct([("stage", pa.string()), ("type", pa.string()), ("reason", pa.string())])

#: Small values by name; null for an empty field.
FIELDS = pa.map_(pa.string(), pa.string())

#: Unread contents of a record: see mmray.unread.
UNREAD = pa.list_(
    pa.struct([("kind", pa.string()), ("name", pa.string()), ("modality", pa.string())]),
)

_ADDRESS = [
    ("shard", pa.string()),  # shard id: path relative to the input root, '@', size in bytes
    ("row", pa.int64()),  # ordinal of the record in its shard, from 0
    ("end", pa.bool_()),  # true on the last record of the shard, so that its total is known
    ("key", pa.string()),
    # Position of the record in its shard: bytes of a tar or TFRecord, entries of an LMDB, rows of a Parquet.
    ("offset", pa.int64()),
    ("length", pa.int64()),
]

RECORDS = pa.schema(
    [
        *_ADDRESS,
        ("image", pa.binary()),  # the member's bytes as stored; null where the modality is missing
        ("text", pa.binary()),
        ("audio", pa.binary()),
        ("meta", pa.binary()),  # the JSON member
        ("fields", FIELDS),  # carried values of columns, features or small members
        ("unread", UNREAD),
        ("error", ERROR),
    ]
)

#: RECORDS whose payload is a view of its source. Arrow can neither filter nor sort such columns.
VIEWS = pa.schema(
    [field.with_type(pa.binary_view()) if field.type == pa.binary() else field for field in RECORDS]
)

TENSORS = pa.schema(
    [
        *_ADDRESS,
        ("meta", pa.binary()),
        ("fields", FIELDS),
        ("unread", pa.list_(pa.string())),  # kinds of what was not read
        ("pixels", pa.binary()),  # uint8, height x width x 3, row-major; the bundle's spec has the size
        ("input_ids", pa.list_(pa.int32())),  # unpadded token ids, special tokens included
        ("log_mel", pa.binary()),  # float16, frames x mel bins, row-major, not yet cut into patches
        *((modality, pa.binary()) for modality in MODALITIES),  # undecoded bytes, if postponed; else null
        ("damaged", pa.list_(pa.string())),  # modalities that were present but unusable, or not aligned
        ("alignment_error_ms", pa.float32()),  # largest possible offset of the aligned modalities
        ("error", ERROR),
    ]
)


#: Column of TENSORS that holds each modality.
TENSOR_OF: Mapping[Modality, str] = {"image": "pixels", "text": "input_ids", "audio": "log_mel"}


@dataclass(frozen=True)
class OutputColumns:
    """Which optional columns predictions have: fixed by bundle and config, the same in every part."""

    classes: int  # width of `scores`; 0 leaves the column out
    labelled: bool = True  # False leaves out `label` and `score`: the model only gives features
    features: int = 0  # width of `features` as float16; 0 leaves it out
    carry: tuple[str, ...] = ()  # fields of the record, copied to string columns `meta_<field>`
    staged: bool = False  # which stage of a cascade answered, and its confidence
    least_score: float | None = None  # below it no label, but `abstained`; None leaves that column out
    alignment: bool = False  # largest possible offset of modalities, if a run aligns them


def predictions(columns: OutputColumns) -> pa.Schema:
    """Schema of a part: one row for each predicted record."""
    fields = [
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("key", pa.string()),
        *([("label", pa.string()), ("score", pa.float32())] if columns.labelled else []),
        *([("abstained", pa.bool_())] if columns.least_score is not None else []),
        ("modalities", pa.list_(pa.string())),
        ("damaged", pa.list_(pa.string())),
        ("variant", pa.string()),
        ("bundle", pa.string()),
        *((f"meta_{name}", pa.string()) for name in columns.carry),
    ]
    if columns.staged:
        fields += [("stage", pa.int8()), ("confidence", pa.float32())]
    if columns.alignment:
        fields.append(("alignment_error_ms", pa.float32()))
    if columns.classes:
        fields.append(("scores", pa.list_(pa.float32(), columns.classes)))
    if columns.features:
        fields.append(("features", pa.list_(pa.float16(), columns.features)))
    return pa.schema(fields)


REJECTS = pa.schema(
    [
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("key", pa.string()),
        ("stage", pa.string()),
        ("type", pa.string()),
        ("reason", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)


def outcomes(columns: OutputColumns) -> pa.Schema:
    """Schema of the stream that leaves inference: predictions and failed records together."""
    fields = list(predictions(columns))
    for name in ("end", "offset", "length"):
        fields.append(RECORDS.field(name))
    fields.append(TENSORS.field("unread"))
    return pa.schema([*fields, RECORDS.field("error")])


def subsets(modalities: int) -> list[Subset]:
    """All non-empty sets of so many modalities, from the first alone to all."""
    flags = [flags for flags in product((False, True), repeat=modalities) if any(flags)]
    return sorted(flags, key=lambda f: (sum(f), [not flag for flag in f]))


def set_name(modalities: Iterable[str], flags: Iterable[object]) -> str:
    """Name of a set of modalities: those whose flags are true, as in "image+text"."""
    return "+".join(m for m, is_in in zip(modalities, flags, strict=True) if is_in)


def meta_fields(meta: bytes | None) -> dict[str, Any]:
    """A record's JSON member; empty if it is not an object, because a record does not need one.

    A member of more than META_BYTES is ignored.
    """
    if meta is None or len(meta) > META_BYTES:
        return {}
    try:
        with about_record("cannot read the JSON member", "json"):
            value = json.loads(meta or b"{}")
    except RecordError:
        return {}
    return value if isinstance(value, dict) else {}


def record_count(table: pa.Table) -> int:
    """Number of records in a table: rows of empty shards do not count."""
    empty = [e for e in table["error"].drop_null().to_pylist() if e["type"] == EMPTY]
    return int(table.num_rows) - len(empty)


def error(stage: Stage, kind: str, reason: str) -> dict[str, str]:
    """Value of the `error` column. Reasons are cut at 300 characters: they may quote foreign bytes."""
    return {"stage": stage, "type": kind, "reason": reason[:300]}


def table(columns: Mapping[str, Sequence[object] | pa.ChunkedArray], schema: pa.Schema) -> pa.Table:
    """Build a table of exactly `schema` from lists or Arrow columns; columns that are not given are null."""
    rows = len(next(iter(columns.values())))

    def column(field: pa.Field) -> pa.Array | pa.ChunkedArray:
        values = columns.get(field.name)
        if values is None:
            return pa.nulls(rows, field.type)
        return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)

    return pa.table([column(field) for field in schema], schema=schema)
