"""Parts of jobs/bench/unknown.py."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import mannwhitneyu

from mmray.bundle import Bundle
from mmray.errors import BundleError
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import OutputColumns, meta_fields
from mmray.sources import ReadOptions, list_shards, read
from mmray.stats.intervals import Clusters

_CONFIDENCE = 0.95  # of intervals, two-sided


class Row(NamedTuple):
    """The answer to one record."""

    score: float
    label: str  # the true one
    split: str
    group: str
    right: bool


class Level(NamedTuple):
    """A threshold."""

    risk: float | None  # None: every record gets a label
    threshold: float

    def seen_on(self, known: Sequence[Row], unknown: Sequence[Row]) -> dict[str, Any]:
        """Shares with intervals: known records with a label, wrong ones among these, unknown ones with a
        label."""
        answered = [row for row in known if row.score >= self.threshold]
        return {
            "risk": self.risk,
            "threshold": self.threshold,
            "known_answered": _share([row.score >= self.threshold for row in known], known),
            "known_wrong": _share([not row.right for row in answered], answered),
            "unknown_answered": _share([row.score >= self.threshold for row in unknown], unknown),
        }


def answer(bundle: Bundle, variant: str, inputs: Sequence[str]) -> list[Row]:
    """Every record that the bundle can answer, with calibrated scores."""
    preprocess = open_preprocessor(bundle)
    predict = Predictor(bundle, variant=variant, provider="cpu", columns=OutputColumns(classes=0))
    rows = []
    for shard in list_shards(inputs):
        for records in read(shard, ReadOptions()):
            found = predict(preprocess(records)).to_pylist()
            for meta, row in zip(map(meta_fields, records["meta"].to_pylist()), found, strict=True):
                if row["error"] is None:
                    label, address = str(meta.get("label")), f"{row['shard']}#{row['row']}"
                    group = str(meta.get("caption_group", address))
                    split = str(meta.get("split"))
                    rows.append(Row(row["score"], label, split, group, label == row["label"]))
    return rows


def is_known(row: Row, bundle: Bundle) -> bool:
    """Whether the record belongs to a class of the model."""
    return row.label in bundle.labels


def thresholds_of(bundle: Bundle, variant: str) -> list[Level]:
    """Thresholds found on tune, after the one that accepts everything.

    Raises:
        BundleError: the bundle has none.
    """
    found = [Level(entry.risk, entry.threshold) for entry in bundle.entry(variant).selective]
    if not found:
        raise BundleError(
            f"{bundle.path}: variant {variant!r} has no thresholds; make it with `mmray optimize`"
        )
    return [Level(None, 0.0), *sorted(found, reverse=True)]


def auroc(higher: Sequence[float], lower: Sequence[float]) -> float | None:
    """Probability that a value of the first exceeds one of the second, ties half (Mann & Whitney 1947)."""
    if not higher or not lower:
        return None
    return round(float(mannwhitneyu(higher, lower).statistic / len(higher) / len(lower)), 4)


def report(found: dict[str, Any]) -> None:
    """The table."""
    title = f"{found['variant']}: {found['known']} known records, {found['unknown']} of no class; "
    title += f"AUROC of the score, known against unknown {found['auroc']}, right against wrong "
    table = Table(
        box=None, padding=(0, 2, 0, 0), title=f"{title}{found['auroc_wrong']}", title_justify="left"
    )
    for name in ("wanted risk", "threshold", "known labelled", "of these wrong", "unknown labelled"):
        table.add_column(name, justify="right")
    for level in found["thresholds"]:
        shares = (level[name] for name in ("known_answered", "known_wrong", "unknown_answered"))
        table.add_row(
            "any" if level["risk"] is None else f"{level['risk']:g}",
            f"{level['threshold']:.3f}",
            *(_words(share) for share in shares),
        )
    Console(width=140).print(table)


def _share(flags: Sequence[bool], rows: Sequence[Row]) -> dict[str, Any] | None:
    if not rows:
        return None
    clusters, values = Clusters(np.array([row.group for row in rows])), np.array(flags)
    low, high = clusters.interval(values, _CONFIDENCE)
    return {
        "records": len(rows),
        "groups": clusters.count,
        "share": round(float(values.mean()), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def _words(share: dict[str, Any] | None) -> str:
    return f"{share['share']:.1%} ({share['low']:.1%} to {share['high']:.1%})" if share else ""
