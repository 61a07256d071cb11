"""Calibration: temperatures, fitted on tune, and how far scores are from the share that is right."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from mmray.cascade import softmax
from mmray.evaluation.outputs import Outputs
from mmray.schema import set_name

#: Labelled records of a set of modalities, at least, for a temperature of its own.
LEAST_ROWS = 30
_LOG_TEMPERATURES = (-2.0, 2.0)
_BINS = 10
_TINY = 1e-12  # lower limit of a score, so that a zero does not make the loss infinite


@dataclass(frozen=True)
class Error:
    """How far scores are from the share that is right."""

    ece: float  # expected calibration error
    log_loss: float  # mean, nats

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def fit_temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.intp]) -> float:
    """The temperature with the least negative log-likelihood (Guo et al. 2017, section 4.2).

    Args:
        logits: [N, C], of records that the model was not trained on.
        labels: [N].
    """

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits / np.exp(log_temperature))[np.arange(len(labels)), labels]
        return -float(np.log(np.maximum(probabilities, _TINY)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))


def fit_temperatures(tune: Outputs) -> dict[str, float]:
    """The temperature of each set of modalities with enough labelled rows.

    Records from which modalities were removed count like those that never had them.

    Returns:
        By set, as "image+text"; empty where the scores are no softmax of logits, whose rows sum to 1.
    """
    scores = tune.scores.astype(np.float64)
    if not tune.classes or not np.allclose(scores.sum(axis=1), 1, atol=1e-2):  # false for NaN, too
        return {}
    logits = np.log(np.maximum(scores, np.finfo(np.float32).tiny)).astype(np.float32)
    found = {}
    for flags in np.unique(tune.present, axis=0):
        rows = (tune.present == flags).all(axis=1) & (tune.labels >= 0)
        if rows.sum() >= LEAST_ROWS:
            name = set_name(tune.modalities, flags)
            found[name] = round(fit_temperature(logits[rows], tune.labels[rows]), 4)
    return found


def calibration_error(
    scores: npt.NDArray[np.float32], labels: npt.NDArray[np.intp], bins: int = _BINS
) -> Error:
    """How far scores are from the share that is right.

    The expected calibration error is the mean over bins of |share right - mean score of the best class| (Guo
    et al. 2017, section 2), with as many records in each bin (Nguyen & O'Connor 2015, "Posterior calibration
    and exploratory analysis for natural language processing models", section 4). With few records it is too
    large: by chance alone, a bin of ten records, 80 % of them right, is off by .1.

    Args:
        scores: [N, C], rows sum to 1.
        labels: [N], the right class of each.
        bins: of about equal numbers of records; at most N.
    """
    best = scores.max(axis=1)
    right = scores.argmax(axis=1) == labels
    order = np.argsort(best, kind="stable")
    gap = sum(abs(float((right[rows] - best[rows]).sum())) for rows in np.array_split(order, bins))
    probabilities = scores[np.arange(len(labels)), labels]
    return Error(gap / len(labels), -float(np.log(np.maximum(probabilities, _TINY)).mean()))
