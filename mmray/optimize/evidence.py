"""Evidence: what a model answers, from each subset of the modalities, to records that it never saw.

A threshold that is chosen on training records is too bold: there the model is surer than it may be. So the
exits of a cascade are chosen by *out-of-fold* answers: of each record by a head that never saw its group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from mmray.batching import Feeds, batches, pack
from mmray.engine import Engine
from mmray.optimize.outputs import LabelledTensors


@dataclass(frozen=True)
class Evidence:
    """Answers to N labelled records."""

    modalities: tuple[str, ...]  # names of the M
    present: npt.NDArray[np.bool_]  # [N, M], what each record has
    labels: npt.NDArray[np.intp]  # [N], index of the right class
    groups: npt.NDArray[np.str_]  # [N], records of one group are not independent
    logits: Mapping[
        str, npt.NDArray[np.float32]
    ]  # by subset, as "image+text": [N, C], of what a record has of it

    def __len__(self) -> int:
        return len(self.labels)

    def to_arrays(self) -> Feeds:
        """For a bundle's evidence.npz."""
        arrays: Feeds = {
            "modalities": np.array(self.modalities, np.str_),
            "present": self.present,
            "labels": self.labels,
            "groups": self.groups,
        }
        return arrays | {f"logits/{name}": values for name, values in self.logits.items()}

    @classmethod
    def of_arrays(cls, arrays: Feeds) -> Evidence:
        """The inverse."""
        logits = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith("logits/")}
        return cls(
            tuple(str(m) for m in arrays["modalities"]),
            np.asarray(arrays["present"], np.bool_),
            np.asarray(arrays["labels"], np.intp),
            np.asarray(arrays["groups"], np.str_),
            {name: np.asarray(values, np.float32) for name, values in logits.items()},
        )


def ask(engine: Engine, records: LabelledTensors, *, batch_rows: int) -> Evidence:
    """What a graph answers to records, from each subset of their modalities.

    Args:
        engine: the whole graph of a model with labels.
        records: K that it was not trained on.
        batch_rows: records of one inference.
    """
    modalities = records.spec.modalities
    logits = {}
    for size in range(1, len(modalities) + 1):
        for subset in combinations(modalities, size):
            values = np.zeros((len(records), len(records.classes)), np.float32)
            for rows in batches(records.tensors, batch_rows):
                feeds = pack(records.tensors.take(rows), records.spec, take=subset, seen=subset)
                blank = pack(records.tensors.slice(0, 0), records.spec)
                values[rows] = engine({**blank, **feeds})["logits"]
            logits["+".join(subset)] = values
    return Evidence(modalities, records.present, records.labels, records.groups, logits)
