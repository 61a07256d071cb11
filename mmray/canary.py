"""A second bundle answers a share of a run's records as well: how often do both give the same label?

The run writes the answers of the first bundle only. Records that the second one cannot use are counted
separately and do not stop the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from time import thread_time
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.bundle import Bundle
from mmray.cascade import in_shadow
from mmray.config import CanaryOptions
from mmray.errors import ConfigError
from mmray.predictor import Predictor
from mmray.preprocess import Preprocessor

_SURE = 0.95


@dataclass
class Canary:
    """The second model. For one thread.

    Args:
        predict: the second bundle's model.
        preprocess: its preprocessing.
        share: of the records; every run picks the same ones.
    """

    predict: Predictor
    preprocess: Preprocessor
    share: float

    def compare(self, records: pa.Table, outcomes: pa.Table) -> dict[str, float]:
        """Counts as ``canary OUTCOME SLICE``, slices as "image+text", and seconds of CPU as ``canary``.

        Args:
            records: RECORDS or VIEWS.
            outcomes: OUTCOMES of the first bundle, the same rows in the same order.
        """
        start = thread_time()
        shards, rows, labels, sets = (
            outcomes[name].to_pylist() for name in ("shard", "row", "label", "modalities")
        )
        drawn = np.flatnonzero(in_shadow(shards, rows, self.share)).tolist()
        chosen = [i for i in drawn if labels[i] is not None]  # neither rejected nor abstained
        if not chosen:
            return {}
        # Tables of views cannot be filtered; slices of them can be joined.
        some = pa.concat_tables([records.slice(i, 1) for i in chosen])
        answers = self.predict(self.preprocess(some))
        found: Counter[str] = Counter()
        own = zip(answers["error"].to_pylist(), answers["label"].to_pylist(), strict=True)
        for i, (error, label) in zip(chosen, own, strict=True):
            what = "rejected" if error else "same" if label == labels[i] else "other"
            found[f"canary {what} {'+'.join(sets[i])}"] += 1
        for counts in (self.predict.seconds, self.predict.counts, *self.predict.occupied):
            counts.clear()
        self.preprocess.seconds.clear()
        self.predict.take_drift()
        return {**found, "canary": thread_time() - start}


def check_canary(first: Bundle, options: CanaryOptions) -> None:
    """Refuse a second bundle that cannot be compared with the first.

    Raises:
        BundleError: it cannot be opened, or lacks the variant.
        ConfigError: their labels have nothing in common.
    """
    second = Bundle.open(options.bundle)
    if options.variant != "auto":
        second.check_variant(options.variant)
    if not set(first.labels) & set(second.labels):
        raise ConfigError(
            f"canary.bundle: {second.path} and {first.path} have no label in common, so their answers "
            "cannot be compared; name a bundle of the same task"
        )


def describe(counts: Mapping[str, float]) -> dict[str, Any]:
    """For summary.json, from the counts of `Canary.compare`.

    Of each slice and of all: compared records, how many had the same label, that share with its 95 % bounds
    (Clopper & Pearson 1934, each side .975, as if records were independent), and how many only the second
    bundle could not use.
    """
    from mmray.stats.bounds import lower_bound, upper_bound  # loads scipy, which takes .35 s

    slices: dict[str, Counter[str]] = {}
    for name, number in counts.items():
        kind, _, rest = name.partition(" ")
        what, _, of = rest.partition(" ")
        if kind == "canary" and of:
            for group in ("all", of):
                slices.setdefault(group, Counter())[what] += int(number)
    told = {}
    for name, found in sorted(slices.items()):
        same, compared = found["same"], found["same"] + found["other"]
        one_sided = (1 + _SURE) / 2
        told[name] = {
            "compared": compared,
            "same": same,
            "share": round(same / compared, 4) if compared else None,
            "low": round(lower_bound(same, compared, one_sided), 4) if compared else None,
            "high": round(upper_bound(same, compared, one_sided), 4) if compared else None,
            "rejected": found["rejected"],
        }
    return {"cpu_s": round(float(counts.get("canary", 0.0)), 3), "slices": told}
