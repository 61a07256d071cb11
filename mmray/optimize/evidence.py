"""Evidence: what a model answers to records that it was not trained on, by subset of the modalities."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt

from mmray.batching import batches, pack
from mmray.engine import Engine
from mmray.optimize.outputs import LabelledTensors
from mmray.schema import Modality


@dataclass(frozen=True)
class Evidence:
    """Answers to N records."""

    modalities: tuple[str, ...]  # names of the M
    present: npt.NDArray[np.bool_]  # [N, M], what each record has
    labels: npt.NDArray[np.intp]  # [N], index of the right class; -1 where it is not known
    groups: npt.NDArray[np.str_]  # [N], records of one group are not independent
    logits: Mapping[
        str, npt.NDArray[np.float32]
    ]  # by subset, as "image+text": [N, C], of what a record has of it

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
    blank = pack(records.tensors.slice(0, 0), records.spec)

    work = list(batches(records.tensors, batch_rows))

    def run(subset: tuple[Modality, ...], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        taken = pack(records.tensors.take(rows), records.spec, take=subset, seen=subset)
        return engine({**blank, **taken})["logits"]

    logits = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for subset in of or subsets(modalities):
            values = np.zeros((len(records), len(records.classes)), np.float32)
            for rows, found in zip(work, pool.map(partial(run, subset), work), strict=True):
                values[rows] = found
            logits["+".join(subset)] = values
    return Evidence(modalities, records.present, records.labels, records.groups, logits)
