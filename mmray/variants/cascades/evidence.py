"""Evidence: answers of a model to records that it was not trained on, by subset of the modalities."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np
import numpy.typing as npt

from mmray.batching import batches, pack
from mmray.engine import Engine
from mmray.evaluation import LabelledTensors
from mmray.schema import Modality

#: What a stage may look at instead of the image: the image at half its height and width.
HALF = "image/2"


def modality_of(look: str) -> Modality:
    """The modality that a stage looks at: a look's own name, or the image for HALF."""
    return "image" if look == HALF else cast("Modality", look)


@dataclass(frozen=True)
class Evidence:
    """Answers to N records."""

    modalities: tuple[str, ...]  # names of the M
    present: npt.NDArray[np.bool_]  # [N, M], what each record has
    labels: npt.NDArray[np.intp]  # [N], index of the right class; -1 where it is not known
    groups: npt.NDArray[np.str_]  # [N], records of one group are not independent
    logits: Mapping[
        str, npt.NDArray[np.float32]
    ]  # by subset, as "image+text": [N, C], from the modalities of it that a record has
    half: Mapping[str, npt.NDArray[np.float32]] | None = None  # the same from images at half their size

    def of(self, looks: Collection[str]) -> Mapping[str, npt.NDArray[np.float32]]:
        """Answers of the graph that runs after these looks; the full image replaces the one at half size."""
        if HALF not in looks or "image" in looks:
            return self.logits
        assert self.half is not None
        return self.half

    def __len__(self) -> int:
        return len(self.labels)


def subsets(modalities: Sequence[Modality]) -> list[tuple[Modality, ...]]:
    """Every subset but the empty one, the smallest first."""
    sizes = range(1, len(modalities) + 1)
    return [subset for size in sizes for subset in combinations(modalities, size)]


def ask(
    engine: Engine,
    records: LabelledTensors,
    *,
    batch_rows: int,
    of: Sequence[tuple[Modality, ...]] | None = None,
) -> Evidence:
    """What a graph answers to records from subsets of their modalities, on all of the machine's CPUs.

    Args:
        engine: the whole graph of a model with labels.
        records: K that it was not trained on.
        batch_rows: records of one inference.
        of: subsets; None: every one.
    """
    modalities = records.spec.modalities
    logits = {
        "+".join(subset): answers(engine, records, subset, batch_rows=batch_rows)
        for subset in of or subsets(modalities)
    }
    return Evidence(modalities, records.present, records.labels, records.groups, logits)


def answers(
    engine: Engine,
    records: LabelledTensors,
    subset: tuple[Modality, ...],
    *,
    batch_rows: int,
    output: str = "logits",
) -> npt.NDArray[np.float32]:
    """One output [K, D] of a graph for K >= 1 records of which it sees only some modalities."""
    blank = pack(records.tensors.slice(0, 0), records.spec)
    work = list(batches(records.tensors, batch_rows))

    def run(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        taken = pack(records.tensors.take(rows), records.spec, take=subset, seen=subset)
        return engine({**blank, **taken})[output]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = np.concatenate(list(pool.map(run, work)))
    values = np.empty(found.shape, np.float32)
    values[np.concatenate(work)] = found
    return values
