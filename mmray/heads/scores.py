"""How good a head is, for every subset of the modalities: accuracy with its standard error, and balanced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from mmray.cascade import softmax
from mmray.evaluation import Outputs
from mmray.heads.examples import Examples
from mmray.heads.train import (
    TrainedHead,
    grouped_folds,
    logits_of,
    train_head,
)
from mmray.schema import Subset, set_name, subsets


@dataclass(frozen=True)
class Score:
    """Quality on the records that have every modality of a subset."""

    records: int
    accuracy: float
    standard_error: float  # of the accuracy; groups, not records, are taken as independent
    balanced_accuracy: float  # mean over the labels of the accuracy within each

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def cross_validate(examples: Examples, folds: int, seed: int) -> dict[str, Score]:
    """Score of each subset over grouped folds: a head scores only records of groups that it never saw.

    Args:
        examples: N records.
        folds: how many.
        seed: of the folds.
    """
    names = subsets(examples.present.shape[1])
    predicted = {subset: np.empty(len(examples), examples.labels.dtype) for subset in names}
    for train, test in grouped_folds(examples, folds, seed):
        trained = train_head(examples.take(train), seed=seed)
        for subset in names:
            predicted[subset][test] = predict(trained, examples.take(test), subset)
    return _by_name(examples, predicted)


def score_subsets(trained: TrainedHead, examples: Examples) -> dict[str, Score]:
    """Score of each subset on records that the head was not trained on."""
    names = subsets(examples.present.shape[1])
    return _by_name(examples, {subset: predict(trained, examples, subset) for subset in names})


def head_outputs(trained: TrainedHead, examples: Examples) -> Outputs:
    """What a head answers to each record, from every subset of the modalities that it has.

    Args:
        trained: the head.
        examples: K records.
    """
    classes = {label: i for i, label in enumerate(trained.labels)}
    labels = np.array([classes.get(str(label), -1) for label in examples.labels], np.intp)
    scores, present, whole, rows = [], [], [], []
    for subset in subsets(examples.present.shape[1]):
        kept = np.flatnonzero(_has(examples, subset))
        scores.append(softmax(logits_of(trained.head, examples.take(kept), subset)))
        present.append(np.tile(subset, (len(kept), 1)))
        whole.append((examples.present[kept] == subset).all(axis=1))
        rows.append(kept)
    at = np.concatenate(rows)
    return Outputs(
        np.concatenate(scores),
        np.concatenate(present),
        np.concatenate(whole),
        labels[at],
        examples.groups[at],
        tuple(examples.features),
        trained.labels,
    )


def predict(trained: TrainedHead, examples: Examples, subset: Subset) -> npt.NDArray[np.str_]:
    """Names of the best labels [N]."""
    best = logits_of(trained.head, examples, subset).argmax(axis=1)
    names: npt.NDArray[np.str_] = np.array(trained.labels)[best]
    return names


def score(examples: Examples, predicted: npt.NDArray[np.str_], subset: Subset) -> Score:
    """Compare predictions [N] with the labels, on the records that have the whole subset (at least one).

    The standard error is that of a mean over clusters: the root of the sum over groups of squared summed
    residuals, over N (Liang & Zeger 1986).
    """
    whole = _has(examples, subset)
    right = (predicted == examples.labels)[whole]
    labels, groups = examples.labels[whole], examples.groups[whole]
    _, group = np.unique(groups, return_inverse=True)
    residuals = np.bincount(group, weights=right - right.mean())
    by_label = [right[labels == label].mean() for label in np.unique(labels)]
    return Score(
        records=len(right),
        accuracy=float(right.mean()),
        standard_error=float(np.sqrt(np.square(residuals).sum()) / len(right)),
        balanced_accuracy=float(np.mean(by_label)),
    )


def _by_name(examples: Examples, predicted: Mapping[Subset, npt.NDArray[np.str_]]) -> dict[str, Score]:
    """Scores by the subset's name; a subset that no record has is left out."""
    return {
        set_name(examples.features, subset): score(examples, values, subset)
        for subset, values in predicted.items()
        if _has(examples, subset).any()
    }


def _has(examples: Examples, subset: Subset) -> npt.NDArray[np.bool_]:
    """bool [N]: records that have every modality of the subset."""
    has: npt.NDArray[np.bool_] = (examples.present | ~np.array(subset)).all(axis=1)
    return has
