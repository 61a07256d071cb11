"""Batches of every kind that a graph must serve: it is proved and timed on them, and gets golden inputs."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mmray.batching import Feeds, pack, padded
from mmray.optimize.head import Subset, subsets
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import TENSOR_OF, set_name


def batch_cases(sample: pa.Table, spec: PreprocessSpec) -> dict[str, Feeds]:
    """Batches made of the sample's rows, by name.

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
