"""Confidence of an answer: calibration by temperatures, and the minimum score for a label.

Scores are *calibrated* if about 80 % of all answers with a score of .8 are right. Dividing the logits by a
temperature before the softmax comes close (Guo et al. 2017, "On Calibration of Modern Neural Networks",
section 4.2); the best class does not change. `mmray.evaluation.selective` finds temperatures and minimum
scores on records of the tune split; they are in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from mmray.bundle import Bundle, Exit
from mmray.errors import ConfigError
from mmray.schema import set_name


def _risk(value: object) -> object:
    if value is None:  # YAML's null
        return "never"
    is_risk = isinstance(value, float) and 0 < value < 1
    if not is_risk and value not in ("auto", "never"):
        raise ValueError("expected a share of wrong labels between 0 and 1, auto or never")
    return value


#: Share of the labels that may be wrong. "auto": the bundle's default; "never": each record has a label.
Abstain: TypeAlias = Annotated[float | Literal["auto", "never"], BeforeValidator(_risk)]


def tempered(scores: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.float32]:
    """Scores as if the logits had been divided by a temperature before the softmax.

    Logits are the logarithms of the scores plus a constant, which does not affect a softmax.

    Args:
        scores: [B, C], rows sum to 1.
        temperature: above 1 makes the scores more equal, below 1 less.

    Returns:
        float32 [B, C], rows sum to 1; 0 stays 0.
    """
    best = scores.max(axis=1, keepdims=True)
    powers = (scores.astype(np.float64) / best) ** (1 / temperature)
    shares: npt.NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def calibrated(
    scores: npt.NDArray[np.generic],
    present: npt.NDArray[np.bool_],
    modalities: Sequence[str],
    temperatures: Mapping[str, float],
) -> npt.NDArray[np.float32]:
    """Scores, each with the temperature of the set of modalities that it was made from.

    Args:
        scores: [B, C], as the graph gives them.
        present: [B, M], what each answer was made from.
        modalities: names of the M.
        temperatures: by set, as "image+text"; other sets are unchanged.
    """
    found = scores.astype(np.float32)
    sets = present @ (1 << np.arange(present.shape[1]))  # a number for each set: a few rows need no sorting
    for number in set(sets.tolist()):
        rows = sets == number
        temperature = temperatures.get(set_name(modalities, present[rows.argmax()]), 1.0)
        if temperature != 1.0:
            found[rows] = tempered(found[rows], temperature)
    return found


def stage_temperatures(
    exits: Sequence[Mapping[str, Exit]], last: Mapping[str, float]
) -> list[Mapping[str, float]]:
    """Temperatures of each stage of a model; early stages use those of their exits.

    Args:
        exits: of each stage but the last.
        last: of the variant.
    """
    return [*({name: rule.temperature for name, rule in rules.items()} for rules in exits), last]


def least_score(bundle: Bundle, variant: str, abstain: Abstain) -> float | None:
    """The minimum score of a variant's answers for a wanted risk.

    Args:
        bundle: whose manifest has the scores, by risk.
        variant: of it; "auto": only check whether any variant that passed its gate has one.
        abstain: share of the labels that may be wrong. The largest risk in the manifest that is not above it
            is used. "auto": the manifest's default; "never": none.

    Returns:
        None: every record gets a label.

    Raises:
        ConfigError: the bundle does not support the risk; names those that it does.
    """
    wanted = bundle.manifest.abstain if abstain == "auto" else abstain
    if wanted is None or wanted == "never":
        return None
    names = bundle.passing() if variant == "auto" else [variant]
    shown = {found.risk: found.threshold for name in names for found in bundle.entry(name).selective}
    within = [risk for risk in shown if risk <= wanted]
    if within:
        return None if variant == "auto" else shown[max(within)]
    whose = "in any of its variants" if variant == "auto" else f"in its variant {variant!r}"
    remedy = (
        f"ask for {', '.join(f'{risk:g}' for risk in sorted(shown))} or more"
        if shown
        else "`mmray optimize` finds them, given some hundred labelled records of the tune split"
    )
    raise ConfigError(
        f"abstain: {bundle.path} has no threshold for a risk of {wanted:g} {whose}; {remedy}, or set "
        "abstain=never"
    )
