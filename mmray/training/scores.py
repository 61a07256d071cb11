"""Accuracy of a trained model on records that it was not trained on, with each subset of their modalities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmray.cascade import softmax
from mmray.evaluation import Outputs
from mmray.models.fused import PackedModel
from mmray.schema import set_name, subsets
from mmray.stats.intervals import Clusters
from mmray.training.batches import Batches
from mmray.training.prepared import Prepared

_ROWS = 64
_CONFIDENCE = 0.975  # one-sided each: 95 % between them


@torch.no_grad()
def subset_outputs(
    model: PackedModel,
    batches: Batches,
    prepared: Prepared,
    rows: npt.NDArray[np.intp],
    classes: tuple[str, ...],
) -> Outputs:
    """Answers of the model to some records from every subset of each record's modalities.

    Every encoder sees a record once; only the fusion runs for each subset.
    """
    model.eval()
    kinds = subsets(len(model.modalities))
    logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in kinds]
    for batch in batches.plain(rows, _ROWS):
        encoded, present = model.encode(batch.feeds, batch.known), batch.feeds["present"]
        for kind, found in zip(kinds, logits, strict=True):
            found.append(model.decide(encoded, present & present.new_tensor(kind))[0].cpu().numpy())
    has, groups = prepared.present[rows], prepared.groups[rows]
    labels = np.searchsorted(np.array(classes), prepared.labels[rows])
    scores, present_of, whole, at = [], [], [], []
    for kind, found in zip(kinds, logits, strict=True):
        kept = np.flatnonzero((has | ~np.array(kind)).all(axis=1))
        scores.append(softmax(np.concatenate(found)[kept]))
        present_of.append(np.tile(kind, (len(kept), 1)))
        whole.append((has[kept] == kind).all(axis=1))
        at.append(kept)
    order = np.concatenate(at)
    return Outputs(
        np.concatenate(scores),
        np.concatenate(present_of),
        np.concatenate(whole),
        labels[order],
        groups[order],
        model.modalities,
        classes,
    )


def score_outputs(outputs: Outputs) -> dict[str, dict[str, Any]]:
    """Accuracy with its 95 % interval, clustered by group.

    Under "as they are", of all records; under a subset's name, of records that have it, given only that.
    """
    right = outputs.scores.argmax(axis=1) == outputs.labels
    found = {"as they are": _score(right[outputs.whole], outputs.groups[outputs.whole])}
    for kind in subsets(len(outputs.modalities)):
        rows = (outputs.present == np.array(kind)).all(axis=1)
        if rows.any():
            found[set_name(outputs.modalities, kind)] = _score(right[rows], outputs.groups[rows])
    return found


def _score(right: npt.NDArray[np.bool_], groups: npt.NDArray[np.str_]) -> dict[str, Any]:
    clusters = Clusters(groups)
    return {
        "records": len(right),
        "groups": clusters.count,
        "accuracy": round(float(right.mean()), 4),
        "low": round(clusters.lower(right, _CONFIDENCE), 4),
        "high": round(clusters.upper(right, _CONFIDENCE), 4),
    }
