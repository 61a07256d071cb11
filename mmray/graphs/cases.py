"""Batches of every kind that a graph must handle. Parity checks, timings and golden inputs use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmray.batching import Feeds, pack, padded
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import MODALITIES, RECORDS, TENSOR_OF, Subset, set_name, subsets, table

# Raw golden records: enough for each set of three modalities, and small beside a model.
_MOST_RECORDS = 8
_MOST_BYTES = 2 << 20


def batch_cases(sample: pa.Table, spec: PreprocessSpec) -> dict[str, Feeds]:
    """Batches made from the sample's rows, by name.

    Args:
        sample: rows of TENSORS without errors, at least one.
        spec: what the graph takes.

    Returns:
        Under each subset's name (``image+text``) a batch of records with only those modalities, and another
        padded as for a device ("…, padded"); "mixed", with records of every kind; "one record"; and "longest
        text", as long as the spec allows.
    """
    kinds = subsets(len(spec.modalities))
    few = sample.slice(0, 3)
    cases = {"mixed": pack(mixed_rows(sample, spec), spec), "one record": pack(sample.slice(0, 1), spec)}
    for kind in kinds:
        name = set_name(spec.modalities, kind)
        cases[name] = pack(keep(sample, spec, [kind] * len(sample)), spec)
        cases[f"{name}, padded"] = padded(keep(few, spec, [kind] * len(few)), spec)
    if spec.text:
        cases["longest text"] = pack(_lengthen(few, spec.text.max_tokens), spec)
    return cases


def mixed_rows(sample: pa.Table, spec: PreprocessSpec) -> pa.Table:
    """The sample's rows, each in turn with only the modalities of another subset."""
    kinds = subsets(len(spec.modalities))
    return keep(sample, spec, [kinds[-1 - i % len(kinds)] for i in range(len(sample))])


def golden_records(records: pa.Table, sample: pa.Table, spec: PreprocessSpec) -> pa.Table:
    """The bytes of the first rows of the batch "mixed", for a bundle's golden.parquet.

    Args:
        records: RECORDS that the sample was made from, row by row.
        sample: rows of TENSORS without errors.
        spec: what the graph takes.

    Returns:
        RECORDS; `row` is the row of the batch. Large records are left out, and rows without a modality.
    """
    mixed = mixed_rows(sample, spec)
    there = {m: mixed[TENSOR_OF[m]].is_valid().to_pylist() for m in spec.modalities}
    rows: list[dict[str, Any]] = []
    left = _MOST_BYTES
    for i, record in enumerate(records.select(MODALITIES).to_pylist()):
        kept: dict[str, Any] = {m: record[m] for m in spec.modalities if there[m][i]}
        size = sum(map(len, kept.values()))
        if kept and size <= left and len(rows) < _MOST_RECORDS:
            rows.append({"row": i, "key": f"golden-{i}", **kept})
            left -= size
    same = {"shard": "golden", "end": False, "offset": 0, "length": 0}
    return table({name: [{**same, **row}.get(name) for row in rows] for name in RECORDS.names}, RECORDS)


def keep(tensors: pa.Table, spec: PreprocessSpec, kept: Sequence[Subset]) -> pa.Table:
    """The rows, each with only the modalities of its subset."""
    for position, modality in enumerate(spec.modalities):
        name = TENSOR_OF[modality]
        column = tensors[name].combine_chunks()
        flags = pa.array([subset[position] for subset in kept], pa.bool_())
        values = pc.if_else(flags, column, pa.scalar(None, column.type))
        tensors = tensors.set_column(tensors.column_names.index(name), name, values)
    return tensors


def _lengthen(tensors: pa.Table, tokens: int) -> pa.Table:
    """The rows, their texts repeated up to `tokens` tokens."""
    ids = [None if row is None else (row * tokens)[:tokens] for row in tensors["input_ids"].to_pylist()]
    values = pa.array(ids, tensors["input_ids"].type)
    return tensors.set_column(tensors.column_names.index("input_ids"), "input_ids", values)
