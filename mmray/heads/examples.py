"""Labelled records for training a head: shards → the job's own preprocessing → features of frozen encoders.

A record's JSON member states its `label`, `caption_group` (without one a record is a group by itself) and
`split` (see `mmray.evaluation.splits`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmray.batching import batches, pack
from mmray.errors import InputError
from mmray.evaluation import assign, group_of
from mmray.models.encoder import Encoder
from mmray.models.fused import INPUTS, pool_rows
from mmray.models.threads import map_in_order
from mmray.page.table import number
from mmray.preprocess import Preprocessor
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality, meta_fields
from mmray.sources import ReadOptions, Shard, read

BATCH_ROWS = 16  # records encoded at once; more is no faster on a CPU


@dataclass(frozen=True)
class Examples:
    """N labelled records as arrays.

    `features` holds float32 [N, D_m] for each modality, zero where `present` (bool [N, M], columns in the
    order of `features`) is false; `labels`, `groups` and `splits` are strings [N].
    """

    features: dict[Modality, npt.NDArray[np.float32]]
    present: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Examples:
        """Those rows, by index or by mask."""
        return Examples(
            {m: values[rows] for m, values in self.features.items()},
            self.present[rows],
            self.labels[rows],
            self.groups[rows],
            self.splits[rows],
        )

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """The records of all parts, which have the same features."""
        return cls(
            {m: np.concatenate([part.features[m] for part in parts]) for m in parts[0].features},
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("present", "labels", "groups", "splits")
            ),
        )

    def frequent(self, least: int) -> Examples:
        """Without the labels that fewer than `least` records have."""
        names, counts = np.unique(self.labels, return_counts=True)
        return self.take(np.isin(self.labels, names[counts >= least]))


@dataclass(frozen=True)
class Encoded:
    """What `encode` found."""

    examples: Examples
    stated: list[object]  # `split` of each record's JSON member; None if it has none
    sample: pa.Table  # TENSORS of the first labelled records, for golden inputs
    sample_records: pa.Table  # RECORDS that they were made of
    rejected: int  # records that preprocessing refused
    unlabelled: int  # records whose JSON member names no label
    rule: str = ""  # by which the splits were assigned


def encode(
    shards: Sequence[Shard],
    spec: PreprocessSpec,
    tokenizer: Path | None,
    encoders: Mapping[Modality, Encoder],
    *,
    sample_rows: int,
) -> Encoded:
    """Run frozen encoders over every labelled record, in order.

    Args:
        shards: where the records are.
        spec: the preprocessing that goes into the bundle.
        tokenizer: tokenizer.json, where the spec has text.
        encoders: module of each of the spec's modalities.
        sample_rows: how many records to keep as tensors.

    Raises:
        InputError: no record carries a label, or none has one of the modalities.
    """
    preprocess = Preprocessor(spec, tokenizer)
    options = ReadOptions(block_rows=BATCH_ROWS)
    blocks = (block for shard in shards for block in read(shard, options))
    parts: list[Examples] = []
    stated: list[object] = []
    sample: list[pa.Table] = []
    rejected = unlabelled = 0
    raw: list[pa.Table] = []
    for part in map_in_order(lambda block: _encode_block(block, preprocess(block), spec, encoders), blocks):
        parts.append(part.examples)
        stated += part.stated
        rejected += part.rejected
        unlabelled += part.unlabelled
        if missing := sample_rows - sum(kept.num_rows for kept in sample):
            sample.append(part.sample.slice(0, missing))
            raw.append(part.sample_records.slice(0, missing))
    examples = Examples.join(parts)
    assigned = assign(stated, examples.groups.tolist())
    examples = replace(examples, splits=assigned.of)
    if not len(examples):
        raise InputError(
            f"{shards[0].url}: none of {number(rejected + unlabelled, 'record')} in "
            f"{number(len(shards), 'shard')} is usable with a `label` in its JSON member; training needs one"
        )
    for column, modality in enumerate(spec.modalities):
        if not examples.present[:, column].any():
            raise InputError(
                f"{shards[0].url}: no labelled record has {modality}; name only the other modalities"
            )
    return Encoded(
        examples, stated, pa.concat_tables(sample), pa.concat_tables(raw), rejected, unlabelled, assigned.rule
    )


def _encode_block(
    records: pa.Table, tensors: pa.Table, spec: PreprocessSpec, encoders: Mapping[Modality, Encoder]
) -> Encoded:
    """Labelled records of a block of RECORDS, from its TENSORS; the sample is all labelled rows."""
    is_good = pc.is_null(tensors["error"])
    good = tensors.filter(is_good)
    metas = [meta_fields(value) for value in good["meta"].to_pylist()]
    is_labelled = pa.array(["label" in meta for meta in metas], pa.bool_())
    labelled = good.filter(is_labelled)
    metas = [meta for meta in metas if "label" in meta]
    addresses = zip(labelled["shard"].to_pylist(), labelled["row"].to_pylist(), strict=True)
    features, present = _embed(labelled, spec, encoders)
    examples = Examples(
        features,
        present,
        labels=np.array([str(meta["label"]) for meta in metas], np.str_),
        groups=np.array([group_of(m, *where) for m, where in zip(metas, addresses, strict=True)], np.str_),
        splits=np.zeros(len(metas), np.str_),  # once all are known
    )
    return Encoded(
        examples,
        [meta.get("split") for meta in metas],
        labelled,
        records.filter(is_good).filter(is_labelled),
        rejected=tensors.num_rows - good.num_rows,
        unlabelled=good.num_rows - labelled.num_rows,
    )


@torch.no_grad()
def _embed(
    tensors: pa.Table, spec: PreprocessSpec, encoders: Mapping[Modality, Encoder]
) -> tuple[dict[Modality, npt.NDArray[np.float32]], npt.NDArray[np.bool_]]:
    """Features and `present` of Examples."""
    rows = tensors.num_rows
    features = {m: np.zeros((rows, encoders[m].dim), np.float32) for m in spec.modalities}
    present = np.zeros((rows, len(spec.modalities)), np.bool_)
    for batch in batches(tensors, BATCH_ROWS):
        feeds = {name: torch.from_numpy(a.copy()) for name, a in pack(tensors.take(batch), spec).items()}
        present[batch] = feeds["present"].numpy()
        for modality, values in features.items():
            *inputs, row = (feeds[name] for name in INPUTS[modality])
            if len(row):
                values[batch] = pool_rows(encoders[modality](*inputs), row, len(batch)).numpy()
    return features, present
